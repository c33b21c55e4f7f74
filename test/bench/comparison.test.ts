/** Whether a candidate is worse: equal strategies pass, worse ones do not, and losses count as infinitely
 *  late. */
import { describe, expect, it } from 'vitest';
import { percentile } from '../../src/base/percentiles.js';
import { Prng } from '../../src/base/prng.js';
import { bootstrapMeanRatio, bootstrapRatio, percentileAt, ratio, total } from '../../src/bench/bootstrap.js';
import { comparePoint, pairPoint } from '../../src/bench/comparison.js';
import type { LoadRecord } from '../../src/bench/load-record.js';
import { type RecordShape, record } from './records.js';

const slos = { short: { ttftMs: 100, tpotMs: 20 } };

/** Five repetitions of latencies with scatter, the same for every seed but changed by `change`. */
function repetitions(
  seed: number,
  count: number,
  change: (shape: RecordShape) => RecordShape = (shape) => shape,
): LoadRecord[][] {
  const prng = new Prng(seed);
  return Array.from({ length: 5 }, () =>
    Array.from({ length: count }, (_, index) => {
      const shape = { ttftMs: 40 + 80 * prng.uniform(), gapMs: 8 + 14 * prng.uniform() };
      return record({ index, scheduledMs: index * 10, ...change(shape) });
    }),
  );
}
const compare = (ours: LoadRecord[][], theirs: LoadRecord[][]) =>
  comparePoint(pairPoint(ours, theirs, slos), new Prng(1));

describe('comparePoint', () => {
  it('a strategy against itself is 1 throughout', () => {
    const same = compare(repetitions(1, 100), repetitions(1, 100));
    expect(same).toMatchObject({
      verdict: 'holds',
      requestCount: 500,
      latencyPercentile: 'p90',
    });
    expect(same.goodput['1']).toMatchObject({ ratio: 1, low95: 1, high95: 1, verdict: 'holds' });
    expect(same.ttft).toEqual({ ratio: 1, low95: 1, high95: 1, verdict: 'holds' });
  });

  it('takes p99 from a thousand requests on', () => {
    expect(compare(repetitions(1, 200), repetitions(1, 200)).latencyPercentile).toBe('p99');
    expect(compare(repetitions(1, 199), repetitions(1, 199)).latencyPercentile).toBe('p90');
  });

  it('shows a third more latency as worse', () => {
    const slow = compare(
      repetitions(1, 200, ({ ttftMs = 0, gapMs = 0 }) => ({ ttftMs: 1.33 * ttftMs, gapMs })),
      repetitions(1, 200),
    );
    expect(slow.ttft.ratio).toBeCloseTo(1.33, 2);
    expect(slow.tpot.ratio).toBe(1);
    expect(slow.goodput['1'].ratio).toBeLessThan(0.9);
    expect(slow).toMatchObject({ verdict: 'fails', ttft: { verdict: 'fails' }, tpot: { verdict: 'holds' } });
  });

  it('bounds enclose the ratio and grow with less data', () => {
    const many = compare(repetitions(1, 200), repetitions(2, 200)).goodput['1'];
    const few = compare(repetitions(1, 20), repetitions(2, 20)).goodput['1'];
    for (const { low95, ratio: value, high95 } of [many, few]) {
      expect(low95).toBeLessThanOrEqual(value);
      expect(high95).toBeGreaterThanOrEqual(value);
    }
    expect(few.high95 - few.low95).toBeGreaterThan(many.high95 - many.low95);
  });

  it('a rejected request is infinitely late', () => {
    let n = 0;
    const rejecting = repetitions(1, 100, (shape) => ({
      ...shape,
      outcome: n++ % 5 === 0 ? 'rejected' : 'completed',
    }));
    const lost = compare(rejecting, repetitions(1, 100));
    expect(lost.ttft.ratio).toBe(Number.POSITIVE_INFINITY);
    expect(lost).toMatchObject({ verdict: 'fails' });
    expect(compare(repetitions(1, 100), rejecting)).toMatchObject({ verdict: 'holds' });
    expect(compare(rejecting, rejecting).ttft.ratio).toBe(1);
  });

  it('does not judge the goodput of a handful', () => {
    const ours = repetitions(1, 100, (shape) => ({ ...shape, ttftMs: 400 })); // none within any target
    // about one in forty
    const theirs = repetitions(1, 100, (shape) => ({ ...shape, ttftMs: shape.ttftMs! < 42 ? 30 : 400 }));
    const { goodput } = compare(ours, theirs);
    expect(goodput['1'].referenceShare).toBeGreaterThan(0);
    expect(goodput['1']).toMatchObject({ ratio: 0, verdict: 'not judged' });
  });

  it('pairs by index: what one side never sent is left out of both', () => {
    const partial = repetitions(1, 100).map((list) => list.filter(({ index }) => index % 2 === 0));
    expect(compare(partial, repetitions(1, 100))).toMatchObject({ requestCount: 250, verdict: 'holds' });
  });

  it('is void when either generator was late', () => {
    const late = repetitions(1, 100, (shape) => ({ ...shape, delayMs: 6 }));
    expect(compare(late, repetitions(1, 100)).verdict).toBe('void');
    expect(compare(repetitions(1, 100), late).verdict).toBe('void');
  });
});

describe('bootstrap', () => {
  const drawn = (prng: Prng, mean: number, count = 60) =>
    Float64Array.from({ length: count }, () => mean + prng.normal());

  /** Of 200 trials, the share in which the upper 95 % bound lies below the true ratio 1.1. `sharedNoise`: of
   *  a repetition as a whole. */
  function missedShare(repetitionCount: number, sharedNoise: number): number {
    const prng = new Prng(7);
    let missedCount = 0;
    for (let trial = 0; trial < 200; trial++) {
      const paired = Array.from({ length: repetitionCount }, () => {
        const machine = 1 + sharedNoise * prng.normal();
        return { candidate: drawn(prng, 11 * machine), reference: drawn(prng, 10) };
      });
      if (bootstrapRatio(paired, total, new Prng(trial)).high95 < 1.1) missedCount++;
    }
    return missedCount / 200;
  }

  it.each([
    [5, 0],
    [5, 0.05],
    [10, 0.05],
  ])(
    'misses the true ratio about as often as it says: %d repetitions, noise of their own %d',
    (repetitionCount, sharedNoise) => {
      // says 5 %; 200 trials of that have a deviation of 1.5 %
      expect(missedShare(repetitionCount, sharedNoise)).toBeGreaterThan(0);
      expect(missedShare(repetitionCount, sharedNoise)).toBeLessThan(0.1);
    },
  );

  it('what both strategies of a repetition share does not widen the bounds: pairing counts', () => {
    const prng = new Prng(3);
    const weather = Array.from({ length: 6 }, () => 1 + prng.uniform());
    const of = (mean: number) =>
      weather.map((factor) => drawn(prng, 100 * mean).map((value) => value * factor));
    const [candidate, reference] = [of(1.1), of(1)];
    const paired = candidate.map((values, i) => ({ candidate: values, reference: reference[i]! }));
    const unpaired = candidate.map((values, i) => ({
      candidate: values,
      reference: reference[(i + 1) % 6]!,
    }));
    const width = (bounds: { low95: number; high95: number }) => bounds.high95 - bounds.low95;
    expect(width(bootstrapRatio(paired, total, prng))).toBeLessThan(
      0.2 * width(bootstrapRatio(unpaired, total, prng)),
    );
  });

  it('the mean over points is known better than any of them', () => {
    const prng = new Prng(5);
    const point = () =>
      Array.from({ length: 5 }, () => ({ candidate: drawn(prng, 10), reference: drawn(prng, 10) }));
    const points = Array.from({ length: 8 }, point);
    const mean = bootstrapMeanRatio(
      points.map((repetitions) => ({ repetitions, statistic: total })),
      prng,
    )!;
    const width = (bounds: { low95: number; high95: number }) => bounds.high95 - bounds.low95;
    expect(mean.ratio).toBeCloseTo(1, 1);
    for (const repetitions of points)
      expect(width(mean)).toBeLessThan(width(bootstrapRatio(repetitions, total, prng)));
    expect(bootstrapMeanRatio([], prng)).toBeNull();
  });

  it('one pair alone bounds nothing; one repetition of many is cut in parts', () => {
    const one = { candidate: Float64Array.of(2), reference: Float64Array.of(1) };
    expect(bootstrapRatio([one], total, new Prng(1))).toEqual({
      ratio: 2,
      low95: 0,
      high95: Number.POSITIVE_INFINITY,
    });
    const prng = new Prng(1);
    const { low95, high95 } = bootstrapRatio(
      [{ candidate: drawn(prng, 20), reference: drawn(prng, 10) }],
      total,
      prng,
    );
    expect(low95).toBeGreaterThan(1.5);
    expect(high95).toBeLessThan(2.5);
    expect(high95).toBeGreaterThan(low95);
  });

  it('a percentile of resampled clusters is that of their values written out', () => {
    const prng = new Prng(2);
    const clusters = [drawn(prng, 1, 13), drawn(prng, 3, 8), drawn(prng, 0, 5)];
    for (const fraction of [0, 0.37, 0.5, 0.9, 0.99, 1]) {
      const counts = Uint16Array.of(2, 0, 3);
      const written = [0, 0, 2, 2, 2].flatMap((i) => [...clusters[i]!]).sort((a, b) => a - b);
      expect(percentileAt(fraction)(clusters)(counts)).toBeCloseTo(percentile(written, fraction), 9);
    }
  });

  it('ratios and percentiles know infinity', () => {
    expect(ratio(0, 0)).toBe(1);
    expect(ratio(5, 0)).toBe(Number.POSITIVE_INFINITY);
    expect(ratio(5, Number.POSITIVE_INFINITY)).toBe(0);
    const values = Float64Array.from([3, 1, Number.POSITIVE_INFINITY, 2]);
    const once = (fraction: number) => percentileAt(fraction)([values])(Uint16Array.of(1));
    expect(once(0.5)).toBe(2.5);
    expect(once(0.9)).toBe(Number.POSITIVE_INFINITY);
    expect(once(1)).toBe(Number.POSITIVE_INFINITY);
  });
});
