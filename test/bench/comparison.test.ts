/** Whether a candidate is worse: equal strategies pass, worse ones do not, and losses count as infinitely late. */
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { bootstrapRatio, percentileOf, ratio } from '../../src/bench/bootstrap.js';
import { comparePoint } from '../../src/bench/comparison.js';
import type { RequestRecord } from '../../src/bench/request-record.js';
import { type RecordShape, record } from './records.js';

const slos = { short: { ttftMs: 100, tpotMs: 20 } };

/** Five repetitions of latencies with scatter, the same for every seed but changed by `change`. */
function repetitions(
  seed: number,
  count: number,
  change: (shape: RecordShape) => RecordShape = (shape) => shape,
): RequestRecord[][] {
  const prng = new Prng(seed);
  return Array.from({ length: 5 }, () =>
    Array.from({ length: count }, (_, index) => {
      const shape = { ttftMs: 40 + 80 * prng.uniform(), gapMs: 8 + 14 * prng.uniform() };
      return record({ index, scheduledMs: index * 10, ...change(shape) });
    }),
  );
}
const compare = (ours: RequestRecord[][], theirs: RequestRecord[][]) => comparePoint(ours, theirs, slos, new Prng(1));

describe('comparePoint', () => {
  it('a strategy against itself is 1 throughout', () => {
    const same = compare(repetitions(1, 100), repetitions(1, 100));
    expect(same).toMatchObject({
      isWithin: true,
      isShownWorse: false,
      isVoid: false,
      requestCount: 500,
      latencyPercentile: 'p90',
    });
    expect(same.goodput['1']).toMatchObject({ ratio: 1, low95: 1, high95: 1, isTelling: true });
    expect(same.ttft).toEqual({ ratio: 1, low95: 1, high95: 1 });
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
    expect(slow).toMatchObject({ isWithin: false, isShownWorse: true });
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
    const rejecting = repetitions(1, 100, (shape) => ({ ...shape, outcome: n++ % 5 === 0 ? 'rejected' : 'completed' }));
    const lost = compare(rejecting, repetitions(1, 100));
    expect(lost.ttft.ratio).toBe(Number.POSITIVE_INFINITY);
    expect(lost).toMatchObject({ isWithin: false, isShownWorse: true });
    expect(compare(repetitions(1, 100), rejecting)).toMatchObject({ isWithin: true, isShownWorse: false });
    expect(compare(rejecting, rejecting).ttft.ratio).toBe(1);
  });

  it('does not judge the goodput of a handful', () => {
    const ours = repetitions(1, 100, (shape) => ({ ...shape, ttftMs: 400 })); // none within any target
    const theirs = repetitions(1, 100, (shape) => ({ ...shape, ttftMs: shape.ttftMs! < 42 ? 30 : 400 })); // about one in forty
    const { goodput, isShownWorse } = compare(ours, theirs);
    expect(goodput['1'].referenceShare).toBeGreaterThan(0);
    expect(goodput['1']).toMatchObject({ ratio: 0, isTelling: false });
    expect(isShownWorse).toBe(false);
  });

  it('pairs by index: what one side never sent is left out of both', () => {
    const partial = repetitions(1, 100).map((list) => list.filter(({ index }) => index % 2 === 0));
    expect(compare(partial, repetitions(1, 100))).toMatchObject({ requestCount: 250, isWithin: true });
  });

  it('is void when either generator was late', () => {
    const late = repetitions(1, 100, (shape) => ({ ...shape, delayMs: 6 }));
    expect(compare(late, repetitions(1, 100)).isVoid).toBe(true);
    expect(compare(repetitions(1, 100), late).isVoid).toBe(true);
  });
});

describe('bootstrap', () => {
  it('covers the true ratio of two means about as often as it says', () => {
    const prng = new Prng(7);
    const draw = (mean: number) => Float64Array.from({ length: 60 }, () => mean + prng.normal());
    let belowCount = 0;
    const trialCount = 100;
    for (let trial = 0; trial < trialCount; trial++) {
      const paired = Array.from({ length: 5 }, () => ({ candidate: draw(11), reference: draw(10) }));
      const mean = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0) / values.length;
      if (bootstrapRatio(paired, mean, new Prng(trial)).high95 < 1.1) belowCount++;
    }
    // Says 5 %; five clusters resampled make it somewhat bolder. Above 20 % would be a wrong bound, 0 no bound at all.
    expect(belowCount).toBeGreaterThan(0);
    expect(belowCount / trialCount).toBeLessThan(0.2);
  });

  it('ratios and percentiles know infinity', () => {
    expect(ratio(0, 0)).toBe(1);
    expect(ratio(5, 0)).toBe(Number.POSITIVE_INFINITY);
    expect(ratio(5, Number.POSITIVE_INFINITY)).toBe(0);
    const values = Float64Array.from([3, 1, Number.POSITIVE_INFINITY, 2]);
    expect(percentileOf(values, 0.5)).toBe(2.5);
    expect(percentileOf(values, 0.9)).toBe(Number.POSITIVE_INFINITY);
    expect(percentileOf(values, 1)).toBe(Number.POSITIVE_INFINITY);
  });
});
