/** The fit against devices whose cost is known: times are made from a formula, with scatter and disturbed
 *  steps. */
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { fitLinks } from '../../src/profile/fit-link.js';
import { errorOf, fitStep } from '../../src/profile/fit-step.js';
import { fitNonNegative } from '../../src/profile/least-squares.js';
import { readableOf, separationRule } from '../../src/profile/readable.js';
import { averagedRuns, thinned, warmSteps } from '../../src/profile/thin-samples.js';
import type { CostParameters } from '../../src/router/cost-parameters.js';
import { type StepCost, stepMs } from '../../src/router/step-cost.js';
import { prefillPairCountOf, type StepSample, type StepWork } from '../../src/router/step-work.js';

type Device = (work: StepWork) => number;

/** Steps as bursts make them. */
function worksOf(prng: Prng, count: number): StepWork[] {
  return Array.from({ length: count }, () => {
    const kind = prng.pick(['prefill', 'decode', 'decode', 'mixed'] as const);
    const decodeCount = kind === 'prefill' ? 0 : 2 ** prng.integer(0, 6);
    const tokenCount =
      kind === 'decode' ? 0 : Math.min(512 - decodeCount, Math.round(2 ** (3 + 6 * prng.uniform())));
    return {
      decodeCount,
      decodeKvTokenCount: decodeCount * prng.pick([32, 256, 1024]),
      prefillTokenCount: tokenCount,
      prefillPairCount: tokenCount === 0 ? 0 : prefillPairCountOf(prng.pick([0, 0, 512, 2048]), tokenCount),
    };
  });
}

interface Noise {
  /** Standard deviation of the relative error. */
  readonly scatter: number;
  /** Share of steps that something held up, threefold. */
  readonly disturbedShare: number;
}

function measured(device: Device, { scatter, disturbedShare }: Noise, seed: number): StepSample[] {
  const prng = new Prng(seed);
  return worksOf(prng, 900).map((work) => {
    const disturbance = prng.uniform() < disturbedShare ? 3 : 1;
    return { ...work, ms: device(work) * Math.max(0.2, 1 + scatter * prng.normal()) * disturbance };
  });
}

const formula =
  (cost: StepCost): Device =>
  (work) =>
    stepMs(cost, work);
const cpu: StepCost = {
  rowKnots: [
    { rowCount: 1, ms: 9.5 },
    { rowCount: 8, ms: 11 },
    { rowCount: 64, ms: 52 },
    { rowCount: 512, ms: 340 },
  ],
  msPerSampledRow: 0.16,
  msPerDecodeKvToken: 1.1e-3,
  msPerPrefillPair: 4.3e-4,
};
/** No formula of ours: bytes or arithmetic, whichever takes longer. */
const roofline: Device = (work) => {
  const rowCount = work.decodeCount + work.prefillTokenCount;
  const weightsMs = Math.max(5, 0.032 * rowCount);
  const keysMs = Math.max(4.4e-5 * work.decodeKvTokenCount, 1e-6 * work.decodeKvTokenCount);
  return weightsMs + keysMs + 8e-7 * work.prefillPairCount + 0.3;
};

describe('the fit of a step', () => {
  it('gives exact data back exactly', () => {
    const { cost, error } = fitStep(measured(formula(cpu), { scatter: 0, disturbedShare: 0 }, 1));
    expect(error.p90).toBeLessThan(2e-3);
    expect(cost.msPerDecodeKvToken).toBeCloseTo(cpu.msPerDecodeKvToken, 5);
    expect(cost.msPerPrefillPair).toBeCloseTo(cpu.msPerPrefillPair, 5);
    expect(cost.msPerSampledRow).toBeCloseTo(cpu.msPerSampledRow, 2);
  });

  it.each([
    ['a CPU', formula(cpu), 0.1, 0.05, 0.03],
    ['a CPU, noisy', formula(cpu), 0.2, 0.1, 0.05],
    ['a roofline', roofline, 0.03, 0.02, 0.03],
  ] as const)(
    'finds %s under scatter and disturbed steps',
    (_, device, scatter, disturbedShare, medianMax) => {
      const { cost, error } = fitStep(measured(device, { scatter, disturbedShare }, 2));
      const truth = worksOf(new Prng(3), 400).map((work) => ({ ...work, ms: device(work) }));
      const off = errorOf(cost, truth);
      expect(off.median).toBeLessThan(medianMax); // a disturbed step still pulls by 1.3 deviations
      expect(off.p90).toBeLessThan(0.1);
      expect(error.median).toBeLessThan(1.2 * scatter); // what it says of itself is the scatter, not more
      expect(error.median).toBeGreaterThan(0.4 * scatter);
    },
  );

  it('never falls with the rows and never pays for work', () => {
    for (let seed = 0; seed < 2; seed++) {
      const { cost } = fitStep(measured(() => 1, { scatter: 0.5, disturbedShare: 0.2 }, seed));
      const times = cost.rowKnots.map(({ ms }) => ms);
      expect([...times].sort((a, b) => a - b)).toEqual(times);
      expect(
        Math.min(cost.msPerSampledRow, cost.msPerDecodeKvToken, cost.msPerPrefillPair),
      ).toBeGreaterThanOrEqual(0);
    }
  });

  it('says so when there is nothing to tell rows apart', () => {
    const samples = measured(formula(cpu), { scatter: 0, disturbedShare: 0 }, 1);
    expect(() => fitStep(samples.slice(0, 10))).toThrow('measure longer');
    expect(() => fitStep(new Array<StepSample>(50).fill(samples[0]!))).toThrow('measure longer');
  });
});

describe('non-negative least squares', () => {
  it('agrees with the closed form of one unknown, and stops at zero', () => {
    const [slope] = fitNonNegative([1, 2, 3].map((x) => ({ features: [x], value: 5 * x })));
    expect(slope).toBeCloseTo(5, 9);
    const [level = 0, fall] = fitNonNegative([1, 2, 3, 4].map((x) => ({ features: [1, x], value: 10 - x })));
    expect(fall).toBe(0);
    expect(level).toBeGreaterThan(6);
    expect(level).toBeLessThan(9);
  });
});

describe('samples', () => {
  it('averages decode steps in a row, so that a late look at the clock cancels out', () => {
    const step = (decodeCount: number, ms: number, prefillTokenCount = 0): StepSample => ({
      decodeCount,
      prefillTokenCount,
      ms,
      decodeKvTokenCount: 10 * decodeCount,
      prefillPairCount: 0,
    });
    const late = [15, 5, 10, 10, 18, 2, 11, 9].map((ms) => step(2, ms));
    const merged = averagedRuns([...late, step(2, 7), step(3, 9), step(3, 50, 8)]);
    expect(merged.map(({ ms }) => ms)).toEqual([10, 7, 9, 50]);
  });

  it('leaves out the first step with prompts in so many rows, if there are more of them', () => {
    const step = (decodeCount: number, prefillTokenCount: number, ms: number): StepSample => ({
      decodeCount,
      prefillTokenCount,
      ms,
      decodeKvTokenCount: 10 * decodeCount,
      prefillPairCount: 0,
    });
    const samples = [
      step(0, 512, 20),
      step(4, 508, 12),
      step(0, 512, 12),
      step(3, 0, 5),
      step(3, 0, 5),
      step(0, 2048, 42),
    ];
    expect(warmSteps(samples)).toEqual(samples.slice(1));
    expect(warmSteps([])).toEqual([]);
  });

  it('keeps some of each kind, from all over the run, whatever there is most of', () => {
    const samples = measured(formula(cpu), { scatter: 0, disturbedShare: 0 }, 4);
    const kept = thinned(samples, 2);
    expect(kept.length).toBeLessThan(samples.length / 2);
    expect(new Set(kept.map(({ decodeCount }) => decodeCount))).toEqual(
      new Set(samples.map(({ decodeCount }) => decodeCount)),
    );
    const alike = Array.from({ length: 12 }, (_, i) => ({ ...samples[0]!, ms: i }));
    expect(thinned(alike, 2).map(({ ms }) => ms)).toEqual([2, 8]);
    expect(thinned(alike.slice(0, 2), 2)).toEqual(alike.slice(0, 2));
  });
});

const speed = (latencyMs: number, bytesPerSecond: number) => ({ latencyMs, bytesPerSecond });

describe('links', () => {
  const trials = [
    { name: 'peer', speed: speed(0.1, 10e9) },
    { name: 'host-relay', speed: speed(1, 2e9) },
    { name: 'tcp', error: 'refused' },
  ];

  it('takes probes for what connectors can do, hand-overs for the rest', () => {
    const handOvers = [1e5, 1e5, 4e5, 1.6e6, 3.2e6].map((bytes) => ({
      from: 'w0' as never,
      to: 'w1' as never,
      connector: 'host-relay',
      bytes,
      exposedMs: 3 + 1e-6 * bytes,
    }));
    const { links, handOver } = fitLinks(trials, handOvers);
    expect(links.map(({ connector }) => connector)).toEqual(['host-relay', 'peer']);
    expect(links[0]?.bytesPerSecond).toBe(2e9);
    expect(handOver?.ms).toBeCloseTo(2, 6);
    expect(handOver?.msPerByte).toBeCloseTo(1e-6, 12);
  });

  it('with no hand-over has the probes alone', () => {
    expect(fitLinks(trials, [])).toEqual({
      links: [
        { connector: 'peer', latencyMs: 0.1, bytesPerSecond: 10e9 },
        { connector: 'host-relay', latencyMs: 1, bytesPerSecond: 2e9 },
      ],
      handOver: null,
    });
  });
});

describe('the five parameters', () => {
  const parameters: CostParameters = {
    step: cpu,
    links: [{ connector: 'peer', latencyMs: 0.5, bytesPerSecond: 1e9 }],
    request: { arrivalMs: 1, tokenMs: 1, handOverMs: 4.5, handOverMsPerToken: 0.01 },
    kvBytesPerToken: 40_000,
    tokenBudget: 512,
    prefillChunkTokenCount: 512,
  };

  it('are read off the curves', () => {
    const readable = readableOf(parameters);
    expect(readable.prefillMsPerToken).toBeCloseTo((340 + 4.3e-4 * 512 * 256.5) / 512, 6);
    expect(readable.decodeMsPerStep).toBeCloseTo(9.5 + 0.16 + 1.1e-3 * 256, 6);
    const decodeMs = (count: number) =>
      stepMs(cpu, {
        decodeCount: count,
        decodeKvTokenCount: 256 * count,
        prefillTokenCount: 0,
        prefillPairCount: 0,
      });
    expect(decodeMs(readable.batchThreshold)).toBeGreaterThanOrEqual(1.5 * readable.decodeMsPerStep);
    expect(decodeMs(readable.batchThreshold - 1)).toBeLessThan(1.5 * readable.decodeMsPerStep);
    expect(readable.linkGBPerSecond).toBe(1);
    expect(readableOf({ ...parameters, links: [] }).linkGBPerSecond).toBeNull();
  });

  it('make the rule: as many streams as make the delay more than the move', () => {
    const readable = readableOf(parameters);
    const rule = separationRule(parameters, readable)!;
    expect(rule.transferMsPerToken).toBeCloseTo(0.04 + 0.01 + 5 / 512, 9);
    expect(rule.decodingCountMin * readable.interferenceMsPerToken).toBeCloseTo(rule.transferMsPerToken, 9);
    expect(separationRule({ ...parameters, links: [] }, readable)).toBeNull();
  });

  it('take the connector that the estimates take, whichever comes first', () => {
    const slow = { connector: 'tcp', latencyMs: 2, bytesPerSecond: 0.1e9 };
    const both = { ...parameters, links: [slow, ...parameters.links] };
    expect(readableOf(both)).toEqual(readableOf(parameters));
    expect(separationRule(both, readableOf(both))).toEqual(
      separationRule(parameters, readableOf(parameters)),
    );
  });
});
