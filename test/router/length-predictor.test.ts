/** The output-length predictor: each piece against a definition written out, the whole for calibration,
 *  censoring, drift and hierarchy. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { binCount, binOf, binStart, binWidth, longestTokenCount } from '../../src/router/length-bins.js';
import { Cells } from '../../src/router/length-cells.js';
import { LengthCounts } from '../../src/router/length-counts.js';
import { LengthDistribution } from '../../src/router/length-distribution.js';
import { levelOptions, samplePrefixes } from '../../src/router/length-levels.js';
import {
  type LengthFacts,
  type LengthObservation,
  LengthPredictor,
} from '../../src/router/length-predictor.js';
import { RecentMap } from '../../src/router/recent-map.js';

describe('bins', () => {
  it('hold every length exactly once, in order', () => {
    expect(binStart(0)).toBe(0);
    for (let bin = 0; bin < binCount; bin++) {
      expect(binWidth(bin)).toBeGreaterThanOrEqual(1);
      expect(binOf(binStart(bin))).toBe(bin);
      expect(binOf(binStart(bin) + binWidth(bin) - 1)).toBe(bin);
    }
    expect(binOf(longestTokenCount + 1e6)).toBe(binCount - 1);
    expect(binOf(-1)).toBe(0);
  });
});

/** P(length = n) for n from 0, by the definition: the lengths of a bin are equally likely; what is above the
 *  limit is at the limit. */
function spelledOut(mass: Float64Array, limit: number): number[] {
  const byLength: number[] = new Array(Math.min(limit, longestTokenCount) + 1).fill(0);
  for (let bin = 0; bin < binCount; bin++) {
    for (let n = binStart(bin); n < binStart(bin) + binWidth(bin); n++) {
      const at = Math.min(n, limit);
      byLength[at] = (byLength[at] ?? 0) + (mass[bin] ?? 0) / binWidth(bin);
    }
  }
  return byLength;
}

function randomMass(prng: Prng, binLimit: number): Float64Array {
  const mass = new Float64Array(binCount);
  for (let bin = 0; bin < binLimit; bin++) mass[bin] = prng.uniform() < 0.3 ? prng.exponential(1) : 0;
  mass[3] = 1;
  const total = mass.reduce((sum, each) => sum + each, 0);
  return mass.map((each) => each / total);
}

describe('LengthDistribution', () => {
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

  it('agrees with its probabilities length by length, with and without a limit', () => {
    for (const limit of [Number.POSITIVE_INFINITY, 700]) {
      const mass = randomMass(new Prng(5), 70);
      const p = spelledOut(mass, Math.min(limit, 2000));
      const lengths = new LengthDistribution(mass, limit);
      expect(lengths.mean).toBeCloseTo(sum(p.map((each, n) => each * n)), limit === 700 ? 0 : 6);
      for (const n of [0, 1, 3, 17, 40, 41, 333, 650, 699, 700, 1999]) {
        expect(lengths.survival(n)).toBeCloseTo(sum(p.slice(n + 1)), 9);
      }
      for (const fraction of [0.01, 0.1, 0.5, 0.77, 0.9, 0.99]) {
        const quantile = lengths.quantile(fraction);
        expect(sum(p.slice(0, quantile + 1))).toBeGreaterThan(fraction - 1e-9);
        expect(sum(p.slice(0, quantile))).toBeLessThan(fraction + 1e-9);
      }
    }
  });

  it('knows what is left once some tokens exist', () => {
    const mass = randomMass(new Prng(6), 60);
    const p = spelledOut(mass, 1e4);
    const lengths = new LengthDistribution(mass);
    for (const generated of [0, 5, 31, 50, 120, 200]) {
      const later = p.map((each, n) => (n > generated ? each : 0));
      const left = sum(later);
      expect(lengths.remainingMean(generated)).toBeCloseTo(
        sum(later.map((each, n) => each * (n - generated))) / left,
        6,
      );
      const quantile = lengths.quantile(0.9, generated);
      expect(quantile).toBeGreaterThan(generated);
      expect(sum(later.slice(0, quantile + 1)) / left).toBeGreaterThan(0.9 - 1e-9);
      expect(sum(later.slice(0, quantile)) / left).toBeLessThan(0.9 + 1e-9);
    }
  });

  it('has nothing left at its limit or beyond all mass', () => {
    const lengths = new LengthDistribution(randomMass(new Prng(7), 60), 100);
    expect(lengths.survival(100)).toBe(0);
    expect(lengths.quantile(1)).toBe(100);
    expect(lengths.remainingMean(100)).toBe(0);
    expect(lengths.quantile(0.5, 100)).toBe(100);
  });
});

/** The same posterior as Cells.rescale, by its recursion over hazards. */
function hazardRecursion(cells: Cells, strength: number): number[] {
  let survival = 1;
  return Array.from({ length: cells.cellCount }, (_, k) => {
    const from = (values: Float64Array, first: number) => values.slice(first).reduce((a, b) => a + b, 0);
    const later = from(cells.ended, k + 1) + from(cells.cut, k + 1);
    const atRisk = later + cells.ended[k]! + cells.exposure[k]!;
    const isLast = k === cells.cellCount - 1;
    const hazard = isLast
      ? 1
      : (strength * cells.parent[k]! + cells.ended[k]!) / (strength * from(cells.parent, k) + atRisk);
    const mass = survival * hazard;
    survival -= mass;
    return mass;
  });
}

describe('Cells', () => {
  const cellCount = 6;
  const weights = fc.array(fc.double({ min: 0, max: 20, noNaN: true }), {
    minLength: cellCount,
    maxLength: cellCount,
  });
  const parents = fc.array(fc.double({ min: 0.01, max: 1, noNaN: true }), {
    minLength: cellCount,
    maxLength: cellCount,
  });
  const fill = (parent: readonly number[], ended: readonly number[], cut: readonly number[]) => {
    const cells = new Cells(cellCount);
    const total = parent.reduce((a, b) => a + b, 0);
    cells.parent.set(parent.map((each) => each / total));
    cells.ended.set(ended);
    cells.cut.set(cut);
    cells.exposure.set(cut.map((each, k) => (each * (k % 3)) / 2));
    cells.accumulate();
    return cells;
  };
  const masses = (cells: Cells, strength: number) => {
    cells.rescale(strength);
    return [...cells.ratio].map((ratio, k) => ratio * cells.parent[k]!);
  };

  it('is the hazard recursion, sums to 1, and its likelihoods are its masses', () => {
    fc.assert(
      fc.property(
        parents,
        weights,
        weights,
        fc.double({ min: 0.1, max: 100, noNaN: true }),
        (parent, ended, cut, strength) => {
          const cells = fill(parent, ended, cut);
          const actual = masses(cells, strength);
          const expected = hazardRecursion(cells, strength);
          expect(actual.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 9);
          for (let k = 0; k < cellCount; k++) {
            expect(actual[k]).toBeCloseTo(expected[k]!, 9);
            expect(cells.likelihood(strength, k, false, 0)).toBeCloseTo(expected[k]!, 9);
            const left = expected.slice(k).reduce((a, b) => a + b, 0) - 0.25 * expected[k]!;
            expect(cells.likelihood(strength, k, true, 0.25)).toBeCloseTo(left, 9);
          }
        },
      ),
      { numRuns: 200, seed: 1 },
    );
  });

  it('without cuts is a Dirichlet process: counts and parent, weighted', () => {
    const cells = fill([1, 2, 3, 4, 5, 5], [4, 0, 0, 1, 0, 5], [0, 0, 0, 0, 0, 0]);
    const actual = masses(cells, 10);
    [1, 2, 3, 4, 5, 5].forEach((parent, k) => {
      expect(actual[k]).toBeCloseTo((10 * (parent / 20) + [4, 0, 0, 1, 0, 5][k]!) / 20, 12);
    });
  });

  it('with a weak parent is Kaplan-Meier', () => {
    // Ten lengths: two end in cell 0, three are cut at its end, one ends in cell 2, four in cell 4.
    const cells = fill([1, 1, 1, 1, 1, 1], [2, 0, 1, 0, 4, 0], [3, 0, 0, 0, 0, 0]);
    cells.exposure.set([3, 0, 0, 0, 0, 0]);
    const actual = masses(cells, 1e-9);
    expect(actual[0]).toBeCloseTo(2 / 10, 6);
    expect(actual[2]).toBeCloseTo(0.8 / 5, 6);
    expect(actual[4]).toBeCloseTo(0.8 * 0.8, 6);
  });
});

describe('LengthCounts', () => {
  it('forgets by half-life, and keeps its weights when they are rescaled', () => {
    const counts = new LengthCounts(10);
    for (let i = 0; i < 5000; i++) counts.add({ tokenCount: 7, isCensored: false });
    // Σ 2^(-i/10) over i ≥ 0
    expect(counts.observationCount).toBeCloseTo(1 / (1 - 2 ** -0.1), 6);
    for (let i = 0; i < 10; i++) counts.add({ tokenCount: 9, isCensored: true });
    expect(counts.ended[7]! / counts.unit).toBeCloseTo(0.5 / (1 - 2 ** -0.1), 6);
    expect(counts.cut[9]! / counts.unit).toBeCloseTo(0.5 / (1 - 2 ** -0.1), 6);
  });
});

describe('RecentMap', () => {
  it('drops what was not used for longest', () => {
    const map = new RecentMap<string, number>(2);
    map.set('a', 1);
    map.set('b', 2);
    map.touch('a', () => 0);
    map.set('c', 3);
    expect([map.peek('a'), map.peek('b'), map.peek('c'), map.entryCount]).toEqual([1, undefined, 3, 2]);
  });
});

it('samples prefixes by doubling, and the last', () => {
  expect(samplePrefixes([10, 11, 12, 13, 14, 15])).toEqual([10, 11, 13, 15]);
  expect(samplePrefixes([10, 11, 12, 13, 14, 15, 16, 17, 18])).toEqual([10, 11, 13, 17, 18]);
  expect(samplePrefixes(['only'])).toEqual(['only']);
  expect(samplePrefixes([])).toEqual([]);
});

interface Arrival {
  readonly facts: LengthFacts;
  readonly tokenCount: number;
}
type Cut = (tokenCount: number) => LengthObservation;
const whole: Cut = (tokenCount) => ({ tokenCount, isCensored: false });

/** Shares of lengths at or below p10, p50 and p90 (ends shared out by their probability), and mean pinball
 *  losses; the first tenth only teaches. */
function replay(arrivals: readonly Arrival[], cut: Cut = whole, predictor = new LengthPredictor()) {
  const below = { p10: 0, p50: 0, p90: 0 };
  let loss50 = 0;
  let loss90 = 0;
  const first = Math.floor(arrivals.length / 10);
  arrivals.forEach(({ facts, tokenCount }, index) => {
    const lengths = predictor.predict(facts);
    if (index >= first) {
      const upTo = 1 - lengths.survival(tokenCount);
      const before = 1 - lengths.survival(tokenCount - 1);
      const share = (p: number) => Math.min(1, Math.max(0, (p - before) / (upTo - before)));
      below.p10 += share(0.1);
      below.p50 += share(0.5);
      below.p90 += share(0.9);
      loss50 += Math.abs(tokenCount - lengths.quantile(0.5)) / 2;
      const over = tokenCount - lengths.quantile(0.9);
      loss90 += over > 0 ? 0.9 * over : -0.1 * over;
    }
    predictor.observe(facts, cut(tokenCount));
  });
  const count = arrivals.length - first;
  return {
    p10: below.p10 / count,
    p50: below.p50 / count,
    p90: below.p90 / count,
    coverage80: (below.p90 - below.p10) / count,
    pinball50: loss50 / count,
    pinball90: loss90 / count,
  };
}

const promptTokenCountOf = (prng: Prng) => Math.max(1, Math.round(Math.exp(6.5 + 1.2 * prng.normal())));
const arrivalsOf = (
  count: number,
  lengthOf: (prng: Prng, index: number, promptTokenCount: number) => number,
  seed = 1,
) => {
  const prng = new Prng(seed);
  return Array.from({ length: count }, (_, index): Arrival => {
    const promptTokenCount = promptTokenCountOf(prng);
    return {
      facts: { promptTokenCount },
      tokenCount: Math.max(1, Math.round(lengthOf(prng, index, promptTokenCount))),
    };
  });
};
const workloads = {
  logNormal: arrivalsOf(3000, (prng) => Math.exp(5 + 0.9 * prng.normal())),
  bimodal: arrivalsOf(3000, (prng) =>
    prng.uniform() < 0.6 ? 8 + prng.integer(0, 4) : Math.exp(6 + 0.4 * prng.normal()),
  ),
  drifting: arrivalsOf(3000, (prng, index) => Math.exp(4 + index / 3000 + 0.6 * prng.normal())),
  byPrompt: arrivalsOf(3000, (prng, _, prompt) => Math.exp(0.6 * Math.log(prompt) + 1 + 0.5 * prng.normal())),
};
/** p50 has a standard error of 0.01 here. Under drift it also lags: with a half-life of 128 the mean age is
 *  185 requests, in which the drift above moves the median by 185 / 3000 of a log unit, 0.1 σ, worth 0.04 of
 *  probability. */
const aims = (
  scores: { readonly p50: number; readonly p90: number; readonly coverage80: number },
  workload: string,
) => {
  expect(scores.coverage80).toBeGreaterThan(0.77);
  expect(scores.coverage80).toBeLessThan(0.83);
  expect(Math.abs(scores.p50 - 0.5)).toBeLessThan(workload === 'drifting' ? 0.07 : 0.03);
  expect(Math.abs(scores.p90 - 0.9)).toBeLessThan(0.025);
};

describe('LengthPredictor', () => {
  it.each(Object.entries(workloads))('is calibrated on %s lengths', (name, arrivals) =>
    aims(replay(arrivals), name),
  );

  it.each(Object.entries(workloads))(
    'stays calibrated on %s lengths when three in ten are cut',
    (name, arrivals) => {
      const prng = new Prng(9);
      const limits = arrivals.map((each) => each.tokenCount);
      const cut: Cut = (tokenCount) => {
        const limit = prng.uniform() < 0.6 ? prng.pick(limits) : Number.POSITIVE_INFINITY;
        return limit < tokenCount
          ? { tokenCount: limit, isCensored: true }
          : { tokenCount, isCensored: false };
      };
      aims(replay(arrivals, cut), name);
    },
  );

  it('needs to be told that a length was cut', () => {
    const prng = new Prng(9);
    const limits = workloads.logNormal.map((each) => each.tokenCount);
    const scores = replay(workloads.logNormal, (tokenCount) =>
      whole(Math.min(tokenCount, prng.pick(limits))),
    );
    expect(scores.p50).toBeLessThan(0.4);
  });

  it('follows a jump: a few hundred requests later the old regime is gone', () => {
    const predictor = new LengthPredictor();
    const before = arrivalsOf(3000, (prng) => Math.exp(4 + 0.5 * prng.normal()), 2);
    const after = arrivalsOf(400, (prng) => Math.exp(6 + 0.5 * prng.normal()), 3);
    for (const { facts, tokenCount } of [...before, ...after]) predictor.observe(facts, whole(tokenCount));
    const lengths = predictor.predict({ promptTokenCount: 600 });
    expect(lengths.quantile(0.5)).toBeGreaterThan(Math.exp(6) * 0.75);
    expect(lengths.quantile(0.9)).toBeLessThan(Math.exp(6 + 0.5 * 1.2816) * 1.25);
  });

  it('loses nothing by levels that tell nothing', () => {
    const alone = new LengthPredictor(levelOptions.filter((each) => each.name === 'all'));
    const plain = replay(workloads.logNormal, whole, alone);
    const full = replay(workloads.logNormal);
    expect(full.pinball50).toBeLessThan(1.015 * plain.pinball50);
    expect(full.pinball90).toBeLessThan(1.015 * plain.pinball90);
  });

  it('gains by a prompt length that tells something', () => {
    const alone = new LengthPredictor(levelOptions.filter((each) => each.name === 'all'));
    expect(replay(workloads.byPrompt).pinball50).toBeLessThan(
      0.8 * replay(workloads.byPrompt, whole, alone).pinball50,
    );
  });

  it('tells clients apart, and takes a new one for an average one', () => {
    const prng = new Prng(4);
    const predictor = new LengthPredictor();
    for (let i = 0; i < 400; i++) {
      predictor.observe({ promptTokenCount: promptTokenCountOf(prng), client: 'labels' }, whole(3));
      predictor.observe(
        { promptTokenCount: promptTokenCountOf(prng), client: 'essays' },
        whole(900 + prng.integer(0, 200)),
      );
    }
    expect(predictor.predict({ promptTokenCount: 500, client: 'labels' }).quantile(0.8)).toBe(3);
    expect(predictor.predict({ promptTokenCount: 500, client: 'essays' }).quantile(0.2)).toBeGreaterThan(850);
    const stranger = predictor.predict({ promptTokenCount: 500, client: 'stranger' });
    expect(stranger.quantile(0.25)).toBe(3);
    expect(stranger.quantile(0.75)).toBeGreaterThan(850);
  });

  it('learns that conversations keep to their length, from other conversations', () => {
    const prng = new Prng(5);
    const predictor = new LengthPredictor();
    const turn = (id: number, centre: number) =>
      predictor.observe(
        { promptTokenCount: promptTokenCountOf(prng), prefixIds: [0, id] },
        whole(Math.round(centre * Math.exp(0.1 * prng.normal()))),
      );
    for (let id = 1; id <= 500; id++) {
      const centre = id % 2 === 0 ? 40 : 800;
      turn(id, centre);
      turn(id, centre);
    }
    turn(1001, 40);
    turn(1002, 800);
    const next = (id: number) => predictor.predict({ promptTokenCount: 700, prefixIds: [0, id] });
    expect(next(1001).quantile(0.75)).toBeLessThan(100);
    expect(next(1002).quantile(0.25)).toBeGreaterThan(400);
  });

  it('never promises more than the limit, and takes any length', () => {
    const predictor = new LengthPredictor();
    for (const tokenCount of [0, 1, 5_000_000]) predictor.observe({ promptTokenCount: 0 }, whole(tokenCount));
    predictor.observe({ promptTokenCount: 10, maxTokenCount: 16 }, { tokenCount: 0, isCensored: true });
    const lengths = predictor.predict({ promptTokenCount: 10, maxTokenCount: 16 });
    expect(lengths.quantile(0.999)).toBe(16);
    expect(lengths.mean).toBeLessThanOrEqual(16);
    expect(lengths.survival(-1)).toBe(1);
    expect(lengths.survival(0)).toBeGreaterThan(0);
  });

  it('changes nothing by predicting, and repeats itself', () => {
    const run = (asks: number) => {
      const predictor = new LengthPredictor();
      for (const { facts, tokenCount } of workloads.bimodal.slice(0, 300)) {
        for (let i = 0; i < asks; i++) predictor.predict({ ...facts, client: i, prefixIds: [i, tokenCount] });
        predictor.observe(facts, whole(tokenCount));
      }
      const lengths = predictor.predict({ promptTokenCount: 321 });
      return [0.1, 0.5, 0.9].map((p) => lengths.quantile(p)).concat(lengths.mean, lengths.survival(200));
    };
    expect(run(3)).toEqual(run(0));
  });
});
