/** A profile that is wrong is put right by what steps and requests take; a guess becomes one; nothing leaves
 *  its bounds. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { ProfileFile } from '../../src/router/cost-parameters.js';
import { FactorFilter } from '../../src/router/factor-filter.js';
import { uncorrected } from '../../src/router/request-correction.js';
import { type StepCost, stepMs } from '../../src/router/step-cost.js';
import type { StepWork } from '../../src/router/step-work.js';
import { WorkerCosts } from '../../src/router/worker-costs.js';
import { costs } from './workers.js';

const id = workerId('w0');
const key = {
  deviceName: 'test',
  threadCount: 1,
  modelName: 'test',
  weightFormat: 'f32',
  kvDtype: 'f32',
  version: 1,
} as const;

function randomWork(prng: Prng): StepWork {
  const decodeCount = prng.integer(0, 40);
  const prefillTokenCount = prng.uniform() < 0.5 || decodeCount === 0 ? prng.integer(1, 470) : 0;
  return {
    decodeCount,
    decodeKvTokenCount: decodeCount * prng.integer(50, 900),
    prefillTokenCount,
    prefillPairCount: prefillTokenCount * prng.integer(100, 2000),
  };
}

/** The real device: α (rows beyond the first), β (the base) and γ (keys) off by these factors from
 *  `costs`. */
function deviceOff(alpha: number, beta: number, gamma: number): StepCost {
  const { rowKnots, ...rest } = costs.step;
  const knots = rowKnots.map(({ rowCount, ms }) => ({ rowCount, ms: 10 * beta + (ms - 10) * alpha }));
  return {
    ...rest,
    rowKnots: knots,
    msPerPrefillPair: rest.msPerPrefillPair * gamma,
    msPerDecodeKvToken: rest.msPerDecodeKvToken * gamma,
  };
}

function medianError(worker: WorkerCosts, device: StepCost, prng: Prng): number {
  const { step } = worker.parametersOf(id);
  const errors = Array.from({ length: 400 }, () => {
    const work = randomWork(prng);
    return Math.abs(stepMs(step, work) / stepMs(device, work) - 1);
  });
  return errors.sort((a, b) => a - b)[200] ?? 1;
}

function profiled(): WorkerCosts {
  const worker = new WorkerCosts();
  const readable = {
    prefillMsPerToken: 1,
    decodeMsPerStep: 1,
    batchThreshold: 1,
    interferenceMsPerToken: 1,
    linkGBPerSecond: 1,
  };
  const profile: Omit<ProfileFile, 'readable' | 'samples' | 'linkSamples'> = {
    key,
    measuredAt: 'never',
    parameters: costs,
    fitError: { median: 0, p90: 0 },
  };
  worker.use(id, { ...profile, readable, samples: [], linkSamples: [] } as unknown as ProfileFile);
  return worker;
}

describe('steps', () => {
  it.each([
    [1.3, 1.3, 1.3],
    [0.7, 0.7, 0.7],
    [1.3, 0.7, 1.3],
    [0.7, 1.3, 0.7],
  ])('α × %f, β × %f, γ × %f is learned from noisy steps', (alpha, beta, gamma) => {
    const prng = new Prng(4);
    const device = deviceOff(alpha, beta, gamma);
    const worker = profiled();
    const before = medianError(worker, device, prng);
    expect(before).toBeGreaterThan(0.1);
    for (let round = 0; round < 40; round++) {
      const samples = Array.from({ length: 16 }, () => {
        const work = randomWork(prng);
        const pause = prng.uniform() < 0.03 ? 5 : 1; // now and then the machine does something else
        return { ...work, ms: stepMs(device, work) * Math.exp(0.1 * prng.normal()) * pause };
      });
      worker.observe(id, samples);
    }
    expect(medianError(worker, device, prng)).toBeLessThan(0.06);
    expect(worker.statusOf(id).drift).toBeGreaterThan(0.15);
  });

  it('without a profile a guess is scaled by the first steps, and right within a fifth soon', () => {
    for (const scale of [0.02, 1, 30]) {
      const prng = new Prng(9);
      const device = deviceOff(scale, scale, scale);
      const scaled = { ...device, msPerSampledRow: device.msPerSampledRow * scale };
      const worker = new WorkerCosts();
      for (let i = 0; i < 600; i++) {
        const work = randomWork(prng);
        worker.observe(id, [{ ...work, ms: stepMs(scaled, work) * Math.exp(0.1 * prng.normal()) }]);
      }
      expect(medianError(worker, scaled, prng)).toBeLessThan(0.2);
      expect(worker.statusOf(id).origin).toBe('guess');
    }
  });
});

it('requests teach what steps do not tell: prompts and steps that take longer', () => {
  const worker = profiled();
  const prng = new Prng(2);
  for (let i = 0; i < 400; i++) {
    const [messagesMs, waitMs, prefillMs, stepMsNow] = [2, prng.integer(0, 40), prng.integer(5, 100), 10];
    const corrections = worker.correctionsFor([id, id]);
    worker.observeRequest([id, id], {
      corrections,
      messagesMs: messagesMs * corrections.messages,
      waitMs: waitMs * corrections.wait,
      prefillMs: prefillMs * corrections.prefill,
      stepMs: stepMsNow * corrections.step,
      transferMs: 0,
      real: {
        ttftMs: 4 + waitMs + 1.2 * prefillMs,
        stepMs: 13 * Math.exp(0.1 * prng.normal()),
        transferMs: null,
      },
    });
  }
  const learned = worker.correctionsOf(id);
  expect(learned.prefill).toBeGreaterThan(1.1);
  expect(learned.prefill).toBeLessThan(1.35);
  expect(learned.step).toBeGreaterThan(1.2);
  expect(learned.step).toBeLessThan(1.4);
  expect(learned.transfer).toBe(uncorrected.transfer);
});

it('a request on two workers teaches each what it did itself', () => {
  const [worker, other] = [profiled(), workerId('w1')];
  for (let i = 0; i < 200; i++) {
    const { wait, prefill, step, messages, transfer } = worker.correctionsFor([id, other]);
    worker.observeRequest([id, other], {
      corrections: { wait, prefill, step, messages, transfer },
      messagesMs: messages,
      waitMs: 0,
      prefillMs: 50 * prefill,
      stepMs: 10 * step,
      transferMs: 5 * transfer,
      real: { ttftMs: 51, stepMs: 20, transferMs: 10 },
    });
  }
  expect(worker.correctionsOf(id).step).toBe(1);
  expect(worker.correctionsOf(id).transfer).toBeCloseTo(2, 1);
  expect(worker.correctionsOf(other).step).toBeCloseTo(2, 1);
  expect(worker.correctionsOf(other).transfer).toBe(1);
});

it('factors stay within their bounds, whatever is measured', () => {
  const filter = new FactorFilter({
    partCount: 2,
    doubt: 0.3,
    kinship: 0.5,
    scatter: 0.1,
    factorMin: 0.5,
    factorMax: 2,
  });
  const prng = new Prng(1);
  for (let i = 0; i < 2000; i++) {
    filter.observe([prng.uniform(), prng.uniform()], prng.uniform() < 0.5 ? 1e9 : 1e-9);
    filter.observe([0, 0], Number.NaN);
    for (const factor of filter.factors) expect(factor >= 0.5 && factor <= 2).toBe(true);
  }
});
