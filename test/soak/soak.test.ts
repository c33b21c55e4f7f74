/** 64 clients at once, mixed requests, random aborts, against the real server with prefill and decode
 *  workers: no error, no leaked block, memory flat. 10 seconds by default, 2 minutes with
 *  TWOSTROKE_TEST=full. The seed is printed on failure through the names. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import { busyCount, type Serving, serve, stop, workersOf } from '../cli/twostroke.js';

const isFull = process.env.TWOSTROKE_TEST === 'full';
const durationMs = isFull ? 120_000 : 10_000;
const clientCount = 64;
const seed = 20_260_101;
/** Growth from the first third to the end that is noise: heaps that have not been collected, KV pages touched
 *  for the first time. */
const growthBytesMax = 96 * 2 ** 20;

let serving: Serving;
beforeAll(async () => {
  // Few blocks, so that requests wait and are preempted; they are touched early, so that memory can be
  // compared.
  const few = ['--num-blocks', '600', '--max-num-seqs', '32', '--max-queue', '4096'];
  serving = await serve('--model', 'demo', '--workers', 'prefill:cpu,decode:cpu', ...few);
});
afterAll(async () => {
  expect((await stop(serving)).exitCode).toBe(0);
});

interface Tally {
  finishedCount: number;
  abortedCount: number;
  readonly problems: string[];
}

const questions = [
  'What is the capital of France?',
  'Count from 1 to 20.',
  'Tell me a short story about a fox named Pip.',
];

/** [path, body]: chats and completions, short and long, greedy and sampled, with every feature that keeps
 *  state somewhere. */
function mixedRequest(prng: Prng): readonly [string, object] {
  const common = {
    stream: prng.uniform() < 0.6,
    max_tokens: prng.integer(1, 120),
    temperature: prng.pick([0, 0.7, 1]),
    n: prng.pick([1, 1, 1, 2, 3]),
    ignore_eos: prng.uniform() < 0.3,
    ...(prng.uniform() < 0.2 ? { stop: ['the', 'Pip '] } : {}),
    ...(prng.uniform() < 0.2 ? { presence_penalty: 0.5, logit_bias: { 70: -5 } } : {}),
  };
  if (prng.uniform() < 0.5) {
    const logprobs = prng.uniform() < 0.2 ? { logprobs: true, top_logprobs: 3 } : {};
    return [
      '/v1/chat/completions',
      { ...common, ...logprobs, messages: [{ role: 'user', content: prng.pick(questions) }] },
    ];
  }
  const prompt = () => `${prng.pick(questions)} `.repeat(prng.pick([1, 1, 3, 20, 120]));
  return ['/v1/completions', { ...common, prompt: prng.uniform() < 0.2 ? [prompt(), prompt()] : prompt() }];
}

/** One request after another until the deadline; a third of them are given up at a random moment. */
async function client(index: number, deadlineMs: number, tally: Tally): Promise<void> {
  const prng = new Prng(seed + index);
  while (systemClock.nowMs() < deadlineMs) {
    const [path, body] = mixedRequest(prng);
    const controller = new AbortController();
    const abort =
      prng.uniform() < 0.33 ? systemClock.after(prng.integer(0, 1500), () => controller.abort()) : null;
    try {
      const response = await fetch(serving.url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: controller.signal,
      });
      const text = await response.text();
      const isWhole = text.includes('data: ') ? text.endsWith('data: [DONE]\n\n') : text.endsWith('}');
      if (response.status !== 200 || text.includes('"error"') || !isWhole)
        tally.problems.push(`${response.status} ${text.slice(-300)}`);
      else tally.finishedCount += 1;
    } catch (error) {
      if (controller.signal.aborted) tally.abortedCount += 1;
      else tally.problems.push(String(error));
    } finally {
      abort?.cancel();
    }
  }
}

/** Resident bytes of the gateway and each worker. */
async function residentBytes(): Promise<readonly number[]> {
  const pids = [serving.child.pid ?? 0, ...(await workersOf(serving.url)).map(({ pid }) => pid ?? 0)];
  return pids.map(
    (pid) => Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024,
  );
}

it(
  `${clientCount} clients for ${durationMs / 1000} s, seed ${seed}: no error, no leak, memory flat`,
  async () => {
    const startMs = systemClock.nowMs();
    const tally: Tally = { finishedCount: 0, abortedCount: 0, problems: [] };
    const clients = Array.from({ length: clientCount }, (_, index) =>
      client(index, startMs + durationMs, tally),
    );
    await systemClock.sleep(durationMs / 3);
    const earlyBytes = await residentBytes();
    await Promise.all(clients);
    const lateBytes = await residentBytes();
    expect(tally.problems).toEqual([]);
    expect(tally.finishedCount).toBeGreaterThan(clientCount);
    expect(tally.abortedCount).toBeGreaterThan(clientCount / 8);
    await expect.poll(() => busyCount(serving.url), { timeout: 20_000, interval: 200 }).toBe(0);
    const workers = await workersOf(serving.url);
    expect(workers.map(({ restartCount }) => restartCount)).toEqual([0, 0]);
    for (const { snapshot } of workers)
      expect((snapshot?.freeBlockCount ?? 0) + (snapshot?.cachedBlockCount ?? 0)).toBe(600);
    for (const [index, late] of lateBytes.entries())
      expect(late - (earlyBytes[index] ?? 0)).toBeLessThan(growthBytesMax);
    if (isFull) console.log({ ...tally, earlyBytes, lateBytes });
  },
  durationMs + 120_000,
);
