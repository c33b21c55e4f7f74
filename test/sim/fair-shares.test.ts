/** Equal workers get equal shares of a load, whatever noise their steps have; a slower one is found and gets
 *  less. Simulated, so the same every time. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { readProfile } from '../../src/profile/profile-file.js';
import type { Strategy } from '../../src/router/route.js';
import { timesFromProfiles } from '../../src/sim/profile-times.js';
import { simulate } from '../../src/sim/simulation.js';
import { cluster, load, poisson } from './clusters.js';

const file = readProfile(
  path.resolve(import.meta.dirname, '../../profiles/nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16.json'),
);
const measured = timesFromProfiles([file]);
const requestCount = 1000;

interface Case {
  readonly workload: 'mixed' | 'short';
  readonly rate: number;
  readonly seed?: number;
  readonly strategy?: Strategy;
  readonly workers?: string;
  readonly slowness?: number;
  readonly profile?: 'known' | 'none';
}

/** Requests that each worker had, by the last worker on their way, and how many of the second half. */
async function sharesOf(each: Case) {
  const { workload, rate, seed = 1, strategy = 'collocated', workers = 'any:cuda:0,any:cuda:1' } = each;
  const counts: Record<string, number> = { w0: 0, w1: 0 };
  const late: Record<string, number> = { w0: 0, w1: 0 };
  let doneCount = 0;
  const options = cluster(workers, strategy, {
    settings: {
      ...cluster(workers, strategy).settings,
      blockCount: 16_384,
      tokenBudget: 2048,
      prefillChunkTokenCount: 2048,
    },
    timesOf: (index) => {
      const prng = new Prng(1000 * seed + index);
      let drift = 0; // what a device is off by for a while, a tenth: noise of which one step tells the next
      const { steps, ...rest } = measured(seed)(index);
      const draw: typeof steps.draw = (work) => {
        drift = 0.98 * drift + Math.sqrt(1 - 0.98 ** 2) * prng.normal();
        return steps.draw(work) * Math.exp(0.1 * drift) * (index === 1 ? (each.slowness ?? 1) : 1);
      };
      return { ...rest, steps: { draw } };
    },
    profileOf: () => (each.profile === 'none' ? null : file),
    onRequestDone: ({ routes }) => {
      const id = routes[0]?.workers.at(-1) ?? '';
      counts[id] = (counts[id] ?? 0) + 1;
      if (doneCount++ >= requestCount / 2) late[id] = (late[id] ?? 0) + 1;
    },
  });
  await simulate(options, poisson(workload, rate, requestCount, seed), load);
  return { counts, late };
}

const half = requestCount / 2;
const isEven = (count = 0) => expect(Math.abs(count - half) / half).toBeLessThanOrEqual(0.05);

describe('two equal workers', () => {
  it.each<Case>([
    { workload: 'mixed', rate: 42.7, profile: 'known' },
    { workload: 'mixed', rate: 28.4, profile: 'none' },
  ])('have equal shares of $workload at $rate/s, profile $profile', async (each) => {
    const { counts } = await sharesOf(each);
    isEven(counts.w0);
    isEven(counts.w1);
  });

  it('decode equal shares of what one worker prefills', async () => {
    const workers = 'prefill:cuda:0,decode:cuda:1,decode:cuda:2';
    const { counts } = await sharesOf({ workload: 'short', rate: 40, strategy: 'disaggregated', workers });
    isEven(counts.w1);
    isEven(counts.w2);
  });
});

it('a worker of the same kind that is half as slow again is found within 500 requests, and gets less', async () => {
  const { late } = await sharesOf({ workload: 'mixed', rate: 28.4, slowness: 1.5 });
  expect(late.w1).toBeLessThan(0.4 * half);
  expect(late.w1).toBeGreaterThan(0); // it may have become faster
});
