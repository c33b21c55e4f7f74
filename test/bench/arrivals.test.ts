/** Arrival processes: their mean and scatter, and that a rate only stretches them. */
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { arrivals, gamma } from '../../src/bench/arrivals.js';

function gapsOf(ratePerSecond: number, burstiness: number, count: number): number[] {
  const times = arrivals({ ratePerSecond, burstiness, seed: 3 });
  const list = Array.from({ length: count + 1 }, () => Number(times.next().value));
  return list.slice(1).map((at, i) => at - list[i]!);
}

function moments(values: readonly number[]): { mean: number; variance: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { mean, variance: values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length };
}

describe('arrivals', () => {
  // 40,000 gaps: the mean of gamma(shape) has relative deviation 1/√(40,000 shape), at most 1 % at shape
  // 0.25; five of those are allowed.
  it.each([0.25, 0.5, 1, 2, 10])(
    'burstiness %d: mean gap 1/rate, squared variation 1/burstiness',
    (burstiness) => {
      const { mean, variance } = moments(gapsOf(50, burstiness, 40_000));
      expect(mean / 20).toBeGreaterThan(0.95);
      expect(mean / 20).toBeLessThan(1.05);
      expect((variance / mean ** 2) * burstiness).toBeGreaterThan(0.88);
      expect((variance / mean ** 2) * burstiness).toBeLessThan(1.12);
    },
  );

  it('is evenly spaced at infinite burstiness', () => {
    for (const gap of gapsOf(4, Number.POSITIVE_INFINITY, 20)) expect(gap).toBeCloseTo(250, 9);
  });

  it('stretches one pattern to any rate', () => {
    const slow = gapsOf(1, 1, 100);
    const fast = gapsOf(10, 1, 100);
    slow.forEach((gap, i) => {
      expect(gap).toBeCloseTo(10 * fast[i]!, 6);
    });
  });

  it('has no times at rate inf', () => {
    const times = arrivals({ ratePerSecond: Number.POSITIVE_INFINITY, burstiness: 1, seed: 0 });
    expect([times.next().value, times.next().value]).toEqual(['asap', 'asap']);
  });
});

describe('gamma', () => {
  it.each([0.3, 1, 4.5])('shape %d has mean and variance equal to it', (shape) => {
    const prng = new Prng(11);
    const { mean, variance } = moments(Array.from({ length: 40_000 }, () => gamma(prng, shape)));
    expect(mean / shape).toBeGreaterThan(0.95);
    expect(mean / shape).toBeLessThan(1.05);
    expect(variance / shape).toBeGreaterThan(0.88);
    expect(variance / shape).toBeLessThan(1.12);
  });
});
