/** The bound by hand, and no policy above it. */
import { describe, expect, it } from 'vitest';
import { at } from '../../../src/base/assert.js';
import { Prng } from '../../../src/base/prng.js';
import type { StepWork } from '../../../src/router/step-work.js';
import { bestFound } from '../../../src/sim/goodput/best-found.js';
import { boundWithoutQueues } from '../../../src/sim/goodput/bound.js';
import type { ModelRequest } from '../../../src/sim/goodput/cluster-model.js';
import type { Knowledge } from '../../../src/sim/goodput/step-policies.js';
import { plainTimes } from '../clusters.js';

/** 1 ms a step, 0.1 ms a decode, 0.02 ms a prompt token. */
const predictMs = ({ decodeCount, prefillTokenCount }: StepWork) =>
  1 + 0.1 * decodeCount + 0.02 * prefillTokenCount;
const knowledge: Knowledge = { predictMs, tokenBudget: 1000, sequenceCountMax: 64 };
const request: ModelRequest = {
  atMs: 0,
  promptTokenCount: 100,
  outputTokenCount: 11,
  slo: { ttftMs: 50, tpotMs: 2 },
};

describe('boundWithoutQueues', () => {
  it('is what arrives while there is time for it', () => {
    expect(boundWithoutQueues([request], 40, knowledge, 1)).toBeCloseTo(40, 6);
  });

  it('is one over the least worker time of a request', () => {
    // prompts in steps of 1000: 2.1 ms; 10 tokens in steps of 10 decodes, which take the TPOT: 2 ms
    expect(boundWithoutQueues([request], 1e6, knowledge, 1)).toBeCloseTo(1000 / 4.1, 6);
    expect(boundWithoutQueues([request], 1e6, knowledge, 3)).toBeCloseTo(3000 / 4.1, 6);
    // steps of 64 decodes, the most that a batch holds, 7.4 ms; prompts share them, 0.02 ms a token
    const patient = { ...request, slo: { ttftMs: 50, tpotMs: 100 } };
    expect(boundWithoutQueues([patient], 1e6, knowledge, 1)).toBeCloseTo(1000 / (2 + (10 / 64) * 7.4), 6);
  });

  it('is 0 for a TPOT that nobody can keep, and leaves its time to others', () => {
    const hopeless = { ...request, promptTokenCount: 1500, slo: { ttftMs: 50, tpotMs: 1 } };
    expect(boundWithoutQueues([hopeless], 100, knowledge, 1)).toBeCloseTo(0, 9);
    expect(boundWithoutQueues([hopeless, request], 1e6, knowledge, 1)).toBeCloseTo(1000 / 4.1, 6);
  });
});

interface Drawn {
  readonly requests: readonly ModelRequest[];
  readonly ratePerSecond: number;
}

const firstCounted = 50;
const countedCount = 200;

function drawLoad(prng: Prng, meanGapMs: number): Drawn {
  const classes = [0, 1].map(() => ({
    promptTokenCount: prng.integer(20, 1500),
    outputTokenCount: prng.integer(2, 40),
    slo: { ttftMs: 20 + 60 * prng.uniform(), tpotMs: 1.5 + 3 * prng.uniform() },
  }));
  let atMs = 0;
  const requests = Array.from({ length: firstCounted + countedCount + 50 }, () => {
    atMs += prng.exponential(1) * meanGapMs;
    return { ...prng.pick(classes), atMs };
  });
  const spanMs = at(requests, firstCounted + countedCount).atMs - at(requests, firstCounted).atMs;
  return { requests, ratePerSecond: (1000 * countedCount) / spanMs };
}

const times = () => [0, 1].map(() => ({ ...plainTimes(), steps: { draw: predictMs } }));
const found = ({ requests }: Drawn) =>
  bestFound([{ requests, firstCounted, countedCount, times }], knowledge, 2);
const bound = ({ requests, ratePerSecond }: Drawn) =>
  boundWithoutQueues(requests.slice(firstCounted, firstCounted + countedCount), ratePerSecond, knowledge, 2);

describe('bestFound', () => {
  it.each(Array.from({ length: 8 }, (_, seed) => seed))('is no more than the bound, load %i', (seed) => {
    const prng = new Prng(seed);
    const load = drawLoad(prng, 0.5 + 10 * prng.uniform());
    expect(load.ratePerSecond * found(load).share).toBeLessThanOrEqual(bound(load) * (1 + 1e-9));
  });

  it.each([1, 2])('serves no larger share of a larger load, seed %i', (seed) => {
    const shares = [16, 4, 2, 1].map((gapMs) => found(drawLoad(new Prng(seed), gapMs)).share);
    expect(shares[0]).toBeGreaterThan(at(shares, 3));
    for (const [index, share] of shares.entries()) expect(share).toBeLessThanOrEqual(shares[index - 1] ?? 1);
  });

  it('loses nothing where there is time for everything', () => {
    const load = drawLoad(new Prng(4), 5000);
    expect(found(load).share).toBe(1);
    expect(bound(load)).toBeCloseTo(load.ratePerSecond, 6);
  });
});
