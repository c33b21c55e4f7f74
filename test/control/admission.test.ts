/** What is let in, what is told to come again, and when. */
import { describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Admission, type Capacity, OverloadedError } from '../../src/control/admission.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { FakeCluster } from './fake-cluster.js';

const limits = { requestCountMax: null };
const one = { promptCount: 1, choiceCount: 1 };

function admission(
  choiceCountMax: number | null = null,
  load: Partial<Capacity> & { claimedTokenCount?: number } = {},
) {
  const { claimedTokenCount = 0, ...rest } = load;
  const capacity = { slotCount: 8, slotCountMax: 8, tokenCount: 1000, ...rest };
  return new Admission({
    choiceCountMax,
    capacity: () => capacity,
    claimedTokenCount: () => claimedTokenCount,
  });
}

function refusal(refused: () => unknown): OverloadedError {
  try {
    refused();
  } catch (error) {
    if (error instanceof OverloadedError) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

describe('by default', () => {
  it('two batches are taken, and another request when one has ended', () => {
    const door = admission();
    expect(door.choiceCountMax).toBe(16);
    const places = Array.from({ length: 16 }, () => door.enter(one));
    expect(refusal(() => door.enter(one)).message).toMatch(/^16 requests are running or waiting, of 16/);
    expect(() => door.check()).toThrow(OverloadedError);
    places[0]?.leave();
    door.check();
    door.enter(one);
  });

  it('choices count, not requests', () => {
    const door = admission();
    door.enter({ promptCount: 1, choiceCount: 8 });
    door.enter({ promptCount: 1, choiceCount: 7 });
    expect(() => door.enter({ promptCount: 1, choiceCount: 2 })).toThrow(OverloadedError);
    door.enter(one);
  });

  it('more choices than a worker has slots are no matter of waiting', () => {
    expect(() => admission().enter({ promptCount: 1, choiceCount: 9 })).toThrow(/n must be between 1 and 8/);
  });

  it('memory counts as well', () => {
    const door = admission(null, { claimedTokenCount: 2000 });
    door.enter(one); // whoever is alone is taken
    expect(refusal(() => door.enter(one)).message).toMatch(
      /need 2000 tokens of KV memory, and the workers have 1000/,
    );
    admission(null, { claimedTokenCount: 1999 }).enter(one);
  });
});

it('what was told counts instead of what the workers hold', () => {
  const door = admission(3, { claimedTokenCount: 1e9 });
  for (let i = 0; i < 3; i++) door.enter(one);
  expect(() => door.enter(one)).toThrow(OverloadedError);
});

it('a request of many prompts takes half of what there is, and its prompts take turns in it', () => {
  const door = admission();
  const place = door.enter({ promptCount: 1000, choiceCount: 3 });
  expect(place.promptsAtOnce).toBe(2);
  for (let i = 0; i < 10; i++) door.enter(one);
  expect(() => door.enter(one)).toThrow(OverloadedError);
});

it('a place is counted until it has been left and everything in it has ended', () => {
  const door = admission(2);
  const place = door.enter({ promptCount: 2, choiceCount: 1 });
  const other = door.enter(one);
  place.begin();
  place.begin();
  place.end();
  place.leave();
  expect(() => door.check()).toThrow(OverloadedError);
  place.end();
  door.check();
  other.leave();
});

it('says to come back when a tenth of those in flight have ended, however long it did nothing before', () => {
  const door = admission(1);
  door.enter(one);
  expect(refusal(() => door.enter(one)).retryAfterMs).toBe(1000); // nothing is known
  door.observe(50_000);
  expect(refusal(() => door.enter(one)).retryAfterMs).toBe(5000);
  for (let i = 0; i < 300; i++) door.observe(2000);
  expect(refusal(() => door.enter(one)).retryAfterMs).toBe(1000);
  for (let i = 0; i < 300; i++) door.observe(1e7);
  expect(refusal(() => door.enter(one)).retryAfterMs).toBe(60_000);
});

it('of many more than the workers come to, those admitted end, and nothing is left', async () => {
  const cluster = new FakeCluster({
    roles: ['prefill', 'decode'],
    strategy: 'disaggregated',
    slotCount: 4,
    limits,
  });
  const asked = Array.from({ length: 100 }, (_, i) => cluster.ask(`r${i}`, 20, 5));
  const answers = await cluster.clock.drive(Promise.all(asked));
  await cluster.clock.drive(cluster.settle());
  expect(answers.filter(({ error }) => error === null)).toHaveLength(8);
  expect(answers.filter(({ error }) => error?.code === 'overloaded')).toHaveLength(92);
  expect(cluster.coordinator.requestCount).toBe(0);
  cluster.coordinator.checkRoom();
});

it('a bundle stays admitted for its later prompts, whoever comes in between', async () => {
  const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated', slotCount: 4, limits });
  const { coordinator, clock } = cluster;
  const place = coordinator.admit({ promptCount: 100, choiceCount: 1 });
  expect(place.promptsAtOnce).toBe(4);
  const others = Array.from({ length: 4 }, (_, i) => cluster.ask(`other${i}`, 20, 5));
  expect(() => coordinator.checkRoom()).toThrow(OverloadedError);
  const stream = coordinator.submit({
    id: requestId('mine'),
    promptIds: [1, 2],
    sampling: { ...greedy, maxTokenCount: 3 },
    place,
  });
  let tokenCount = 0;
  const read = async () => {
    for await (const event of stream) if (event.kind === 'tokens') tokenCount += event.tokens.length;
  };
  await clock.drive(Promise.all([read(), ...others]));
  expect(tokenCount).toBe(3);
  place.leave();
});

it('who would still wait when its deadline comes is refused at once, and told when to come back', async () => {
  const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated', blockCount: 10 });
  const asked = Array.from({ length: 6 }, (_, i) =>
    cluster.ask(`r${i}`, 100, 40, 1, i < 2 ? {} : { deadlineMs: 50 }),
  );
  const errors = (await cluster.clock.drive(Promise.all(asked))).map(({ error }) => error);
  await cluster.clock.drive(cluster.settle());
  expect(errors.slice(0, 2)).toEqual([null, null]);
  for (const error of errors.slice(2)) {
    expect(error).toBeInstanceOf(OverloadedError);
    expect((error as OverloadedError).retryAfterMs).toBeGreaterThan(0);
  }
  const refused = cluster.records.filter(({ errorCode }) => errorCode === 'overloaded');
  expect(refused.map(({ arrivalMs, doneMs }) => doneMs - arrivalMs)).toEqual([0, 0, 0, 0]);
  expect(cluster.leaks()).toEqual([]);
});

it('requests that were refused say nothing of how soon there is room', async () => {
  const cluster = new FakeCluster({
    roles: ['any'],
    strategy: 'collocated',
    blockCount: 300,
    limits: { requestCountMax: 400, waitMsMax: 1 },
  });
  await cluster.clock.drive(cluster.ask('long', 100, 4000)); // 20 s
  const fullDoor = () => {
    const places = Array.from({ length: 400 }, () =>
      cluster.coordinator.admit({ promptCount: 1, choiceCount: 1 }),
    );
    const { retryAfterMs } = refusal(() => cluster.coordinator.checkRoom());
    for (const place of places) place.leave();
    return retryAfterMs;
  };
  const before = fullDoor();
  expect(before).toBeGreaterThan(1500);
  const holder = cluster.ask('holder', 4700, 4);
  const asked = Array.from({ length: 300 }, (_, i) => cluster.ask(`no${i}`, 4000, 400));
  const errors = (await cluster.clock.drive(Promise.all(asked))).map(({ error }) => error);
  expect(errors.filter((error) => error instanceof OverloadedError)).toHaveLength(300);
  await cluster.clock.drive(holder);
  expect(fullDoor()).toBeGreaterThan(0.8 * before);
});
