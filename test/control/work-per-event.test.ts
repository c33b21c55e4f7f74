/** An event takes the same work however many requests wait: counted, not timed. */
import { beforeAll, describe, expect, it } from 'vitest';
import { TwostrokeError } from '../../src/base/errors.js';
import { countWork } from '../work-counter.js';
import type { ClusterOptions } from './fake-cluster.js';

const { FakeCluster, stepMs } = await import('./fake-cluster.js');
const { EventQueue } = await import('../../src/control/generation-stream.js');
const { requestId } = await import('../../src/base/ids.js');
const { greedy } = await import('../../src/engine/sampling-params.js');

const waitingCounts = [1, 64, 4096];
/** Finding a place in an ordered line takes a comparison more for each doubling; anything else must not
 *  grow. */
const growthMax = 1.3;
/** That there is a queue at all is more to look at: its sums by deadline, once for each question. */
const queueMax = 1.5;

type Cluster = InstanceType<typeof FakeCluster>;
type Stream = ReturnType<Cluster['coordinator']['submit']>;

function submit(cluster: Cluster, name: string, maxTokenCount: number): Stream {
  const promptIds = Array.from({ length: 100 }, (_, i) => i);
  return cluster.coordinator.submit({
    id: requestId(name),
    promptIds,
    sampling: { ...greedy, maxTokenCount },
  });
}

const settleTurns = async () => {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
};

/** A worker that is full, and `waitingCount` requests that wait for it. */
async function crowded(waitingCount: number, options: ClusterOptions, runningCount: number) {
  const cluster = new FakeCluster({
    ...options,
    limits: { requestCountMax: 1_000_000, waitMsMax: Number.POSITIVE_INFINITY },
  });
  const running = Array.from({ length: runningCount }, (_, i) => submit(cluster, `running${i}`, 10_000));
  await settleTurns();
  await cluster.clock.drive(cluster.clock.sleep(20 * stepMs));
  const waiting = Array.from({ length: waitingCount }, (_, i) => submit(cluster, `waiting${i}`, 10_000));
  await settleTurns();
  await cluster.clock.drive(cluster.clock.sleep(2 * stepMs));
  return { cluster, running, waiting };
}

type Crowd = Awaited<ReturnType<typeof crowded>>;

/** The events are few, so that the crowd stays about as large as it was. */
const eventCount = 8;

const events: Record<string, (crowd: Crowd) => Promise<unknown>> = {
  'a request comes': async ({ cluster }) => {
    for (let i = 0; i < eventCount; i++) submit(cluster, `late${i}`, 10_000);
    await settleTurns();
  },
  'tokens come': ({ cluster }) => cluster.clock.drive(cluster.clock.sleep(eventCount * stepMs)),
  'one that runs ends, and the next is let in': async ({ cluster, running }) => {
    running[0]?.cancel();
    await cluster.clock.drive(cluster.clock.sleep(eventCount * stepMs));
  },
  'one that waits gives up': async ({ cluster }) => {
    const given = Array.from({ length: eventCount }, (_, i) => submit(cluster, `given${i}`, 10_000));
    await settleTurns();
    for (const stream of given) stream.cancel();
    await settleTurns();
  },
};

/** By event, for each number of those who wait. */
async function measure(options: ClusterOptions, runningCount: number): Promise<Map<string, number[]>> {
  const works = new Map(Object.keys(events).map((name) => [name, [] as number[]]));
  for (const waitingCount of [2, ...waitingCounts]) {
    const crowd = await crowded(waitingCount, options, runningCount);
    for (const [name, happen] of Object.entries(events)) {
      const work = await countWork(() => happen(crowd));
      if (waitingCount !== 2) works.get(name)?.push(work); // the first makes what is made once
    }
    crowd.cluster.coordinator.failAll(new TwostrokeError('cancelled', 'the test is over'));
    await crowd.cluster.clock.drive(crowd.cluster.settle());
  }
  return works;
}

function expectNoGrowth(works: readonly number[]): void {
  const [one = 0, some = 0, many = 0] = works;
  const told = `work for ${waitingCounts.join(', ')} waiting: ${works.join(', ')}`;
  expect(one).toBeGreaterThan(eventCount);
  expect(some, told).toBeLessThan(queueMax * one);
  expect(many, told).toBeLessThan(growthMax * some);
}

const setups: readonly (readonly [string, ClusterOptions, number])[] = [
  ['for memory, in the line before a worker', { roles: ['any'], strategy: 'collocated', blockCount: 600 }, 4],
  [
    'for batch slots',
    { roles: ['prefill', 'decode'], strategy: 'disaggregated', blockCount: 1_000_000, slotCount: 4 },
    4,
  ],
  [
    'for a reservation',
    { roles: ['prefill', 'decode'], strategy: 'disaggregated', blockCount: 40, claimedBlockCount: 1e9 },
    5,
  ],
];

describe.each(setups)('while requests wait %s', (_name, options, runningCount) => {
  let works = new Map<string, number[]>();
  beforeAll(async () => {
    works = await measure(options, runningCount);
  });

  it.each(Object.keys(events))('%s', (name) => expectNoGrowth(works.get(name) ?? []));
});

it('while requests run, another comes or gives up', async () => {
  const works: number[] = [];
  for (const runningCount of [2, ...waitingCounts]) {
    const crowd = await crowded(runningCount, { roles: ['any'], strategy: 'collocated', blockCount: 1e9 }, 1);
    const work = await countWork(() => events['one that waits gives up']?.(crowd));
    if (runningCount !== 2) works.push(work);
    crowd.cluster.coordinator.failAll(new TwostrokeError('cancelled', 'the test is over'));
    await crowd.cluster.clock.drive(crowd.cluster.settle());
  }
  expectNoGrowth(works);
});

it('a choice is dropped, with tokens of others queued', async () => {
  const works: number[] = [];
  for (const queuedCount of waitingCounts) {
    const queue = new EventQueue(() => {});
    for (let i = 0; i < queuedCount; i++)
      queue.push({ kind: 'tokens', requestId: requestId('r'), choiceIndex: 0, tokens: [] });
    works.push(await countWork(() => Array.from({ length: 2 * eventCount }, (_, i) => queue.drop(1 + i))));
  }
  expectNoGrowth(works);
});
