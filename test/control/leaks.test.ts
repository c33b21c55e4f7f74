/** After requests of every ending nothing of them is left: not a request, a timer, a listener, a promise, a
 *  socket, a reservation, nor memory; in the gateway and in its workers. TWOSTROKE_TEST=full runs 3,000 of
 *  each. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { requestId } from '../../src/base/ids.js';
import { OverloadedError } from '../../src/control/admission.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { FakeCluster } from './fake-cluster.js';
import {
  bodyBytesMax,
  type Counts,
  countsOfAll,
  post,
  type Rig,
  requestCountMax,
  startRig,
  wire,
} from './leak-rig.js';
import { collect, goldens, inputOf, isFull } from './real-cluster.js';

const countPerEnding = isFull ? 3000 : 24;
const warmUpCount = isFull ? 200 : 4;
const sideBySideCount = 8;
const killCount = isFull ? 20 : 1;
/** Timers of heartbeats, promises of whoever waits for the next message: they come and go. */
const objectSlack = 12;
const byteSlack = 4 * 2 ** 20;
/** Plain data, and what the router and GET /routes remember of requests, which is bounded: their bytes are
 *  counted. */
const remembered: ReadonlySet<string> = new Set([
  'Object',
  'Array',
  'ArrayBuffer',
  'Uint8Array',
  'Float64Array',
  'LengthCounts',
]);

const golden = (name: string) => goldens.cases.find((each) => each.name === name)!;
const story = golden('chat_story_long');
const long = golden('chat_retrieval_300');
const chat = { messages: [{ role: 'user', content: 'Tell me a short story.' }], max_tokens: 6 };
const endless = { ...chat, max_tokens: 400, ignore_eos: true };
const chatPath = '/v1/chat/completions';

const isDone = (text: string) => text.includes('[DONE]');

type Ending = (rig: Rig) => Promise<unknown>;

/** Reads until so many events with tokens have come, then leaves. */
async function leaveAfter({ gateway }: Rig, tokenEventCount: number, input = inputOf(story)): Promise<void> {
  let count = 0;
  for await (const event of gateway.submit(input))
    if (event.kind === 'tokens' && ++count >= tokenEventCount) break;
}

async function leaveLater({ gateway }: Rig, delayMs: number): Promise<void> {
  const stream = gateway.submit(inputOf(long));
  await stream.route;
  await systemClock.sleep(delayMs);
  stream.cancel();
  for await (const _ of stream);
}

const endings: Readonly<Record<string, Ending>> = {
  finished: ({ gateway }) => collect(gateway, inputOf(story, { maxTokenCount: 4 })),
  'finished, two choices': ({ gateway }) =>
    collect(gateway, inputOf(story, { maxTokenCount: 4, choiceCount: 2, temperature: 1 })),
  'one token': ({ gateway }) => collect(gateway, inputOf(story, { maxTokenCount: 1 })),
  'left before anything': async ({ gateway }) => {
    const stream = gateway.submit(inputOf(story));
    stream.cancel();
    for await (const _ of stream);
  },
  'left in prefill': (rig) => leaveLater(rig, 3),
  'left at the first token': (rig) => leaveAfter(rig, 1),
  'left in mid-stream': (rig) => leaveAfter(rig, 4),
  'stop string': async ({ gateway }) => {
    const stream = gateway.submit(inputOf(story));
    for await (const event of stream) if (event.kind === 'tokens') stream.stopChoice(0);
  },
  deadline: ({ gateway }) => collect(gateway, { ...inputOf(story), deadlineMs: 5 }).catch(() => undefined),
  'refused by the worker': ({ gateway }) =>
    collect(gateway, inputOf(golden('chat_retrieval_1100'))).catch(() => undefined),
  'HTTP: a stream': ({ server }) => wire(server.port, post(chatPath, { ...chat, stream: true }), isDone),
  'HTTP: an answer': ({ server }) => wire(server.port, post(chatPath, chat)),
  'HTTP: two prompts': ({ server }) =>
    wire(server.port, post('/v1/completions', { prompt: ['a', 'b'], max_tokens: 3, stream: true }), isDone),
  'HTTP: left at once': ({ server }) => wire(server.port, post(chatPath, endless), () => true),
  'HTTP: left in mid-stream': ({ server }) =>
    wire(
      server.port,
      post(chatPath, { ...endless, stream: true }),
      (text) => text.split('data: ').length > 4,
    ),
  'HTTP: left with its pipeline': ({ server }) => {
    const one = post(chatPath, { ...endless, stream: true }, '');
    return wire(server.port, one + one + one, (text) => text.split('data: ').length > 3);
  },
  'HTTP: left before its body was whole': ({ server }) =>
    wire(server.port, post(chatPath, chat).slice(0, -5), () => true),
  'HTTP: 400': ({ server }) => wire(server.port, post(chatPath, '{')),
  'HTTP: 404': ({ server }) => wire(server.port, post('/nowhere', chat)),
  'HTTP: 413': ({ server }) => wire(server.port, post(chatPath, 'x'.repeat(bodyBytesMax + 1))),
};

/** All at once, so that some are refused; meanwhile nothing is kept of those that have ended. */
async function burst({ gateway }: Rig): Promise<number> {
  let refusedCount = 0;
  const one = async () => {
    try {
      await collect(gateway, inputOf(story, { maxTokenCount: 2 }));
    } catch {
      refusedCount++;
    }
  };
  const all = Promise.all(Array.from({ length: requestCountMax + 16 }, one));
  for (let i = 0; i < 10; i++) await gateway.checkIntegrity();
  await all;
  return refusedCount;
}

async function untilReady({ gateway }: Rig): Promise<void> {
  const endMs = systemClock.nowMs() + 60_000;
  while (gateway.state !== 'ready' && systemClock.nowMs() < endMs) await systemClock.sleep(10);
}

/** Every worker in turn dies under streams that go on. */
async function kill(rig: Rig): Promise<void> {
  for (const { pid } of rig.gateway.workers()) {
    const streams = Array.from({ length: 4 }, () =>
      collect(rig.gateway, inputOf(story, { maxTokenCount: 40 })),
    );
    await systemClock.sleep(60);
    process.kill(pid ?? 0, 'SIGKILL');
    await Promise.all(streams);
    await untilReady(rig);
  }
}

/** A client that leaves is faster than the worker that hears of it: its next request may be one too many. */
async function untilAdmitted(rig: Rig, ending: Ending): Promise<void> {
  for (;;) {
    const answer = await ending(rig).catch((error: unknown) => {
      if (!(error instanceof OverloadedError)) throw error;
      return error;
    });
    const isRefused =
      typeof answer === 'string' ? answer.startsWith('HTTP/1.1 429') : answer instanceof OverloadedError;
    if (!isRefused) return;
    await systemClock.sleep(5);
  }
}

async function repeat(count: number, rig: Rig, ending: Ending): Promise<void> {
  let left = count;
  const client = async () => {
    while (left-- > 0) await untilAdmitted(rig, ending);
  };
  await Promise.all(Array.from({ length: sideBySideCount }, client));
}

const phaseOf = ({ prefillStartedMs, firstTokenMs, landedMs, outcome }: Rig['records'][number]): string => {
  if (outcome !== 'cancelled') return outcome; // only a hand-over has times of its prefill and its landing
  if (firstTokenMs === undefined) return prefillStartedMs === undefined ? 'before prefill' : 'in prefill';
  return landedMs === undefined ? 'in transfer' : 'mid-stream';
};

/** What has grown by more than the slack, as text. */
function growth(before: Readonly<Record<string, Counts>>, after: Readonly<Record<string, Counts>>): string[] {
  return Object.entries(after).flatMap(([process, counts]) =>
    Object.entries(counts).flatMap(([name, count]) => {
      const grown = count - (before[process]?.[name] ?? 0);
      if (remembered.has(name)) return [];
      return grown > (name === '(bytes)' ? byteSlack : objectSlack)
        ? [`${process}: ${grown} more ${name}`]
        : [];
    }),
  );
}

/** Requests that are given up before the workers are ready, which these never are. */
async function giveUp({ coordinator, records }: FakeCluster, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const stream = coordinator.submit({ id: requestId(`r${i}`), promptIds: [1, 2], sampling: greedy });
    stream.cancel();
    for await (const _ of stream);
  }
  records.length = 0;
}

let rigs: readonly Rig[] = [];
beforeAll(async () => {
  rigs = await Promise.all([
    startRig('collocated', 'any:cpu?threads=1'),
    startRig('disaggregated', 'prefill:cpu?threads=1,decode:cpu?threads=1'),
  ]);
});
afterAll(() => Promise.all(rigs.map((rig) => rig.close())));

it(
  'after requests of every ending nothing is left of them, collocated and disaggregated',
  async () => {
    const all = (what: (rig: Rig) => Promise<unknown>) => Promise.all(rigs.map(what));
    for (let i = 0; i < killCount; i++) await all(kill);
    await all(burst);
    for (const ending of Object.values(endings)) await all((rig) => repeat(warmUpCount, rig, ending));
    const loading = new FakeCluster({ roles: ['any'], strategy: 'collocated', ready: new Promise(() => {}) });
    await giveUp(loading, warmUpCount);
    const before = await countsOfAll(rigs);
    await giveUp(loading, countPerEnding);
    for (const ending of Object.values(endings)) await all((rig) => repeat(countPerEnding, rig, ending));
    for (const rig of rigs) expect(await burst(rig)).toBeGreaterThan(0);
    expect(rigs.map(({ records }) => new Set(records.map(phaseOf)))).toEqual([
      new Set(['finished', 'failed', 'before prefill', 'in transfer']),
      new Set(['finished', 'failed', 'before prefill', 'in prefill', 'in transfer', 'mid-stream']),
    ]);
    expect(growth(before, await countsOfAll(rigs))).toEqual([]);
  },
  isFull ? 7_200_000 : 180_000,
);
