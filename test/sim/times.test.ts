import { describe, expect, it } from 'vitest';
import { percentile } from '../../src/base/percentiles.js';
import { Prng } from '../../src/base/prng.js';
import type { StepWork } from '../../src/router/step-work.js';
import { fastestLinkSamples, MeasuredLink } from '../../src/sim/link-times.js';
import { MeasuredSteps } from '../../src/sim/step-times.js';
import { VirtualClock } from '../../src/sim/virtual-clock.js';
import { syntheticSamples } from './clusters.js';

/** Flat up to 64 rows, then rising: a roofline. */
const roofline = ({ decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount }: StepWork) =>
  5 +
  0.03 * Math.max(0, decodeCount + prefillTokenCount - 64) +
  2e-5 * decodeKvTokenCount +
  1e-6 * prefillPairCount;

describe('step times', () => {
  const works: readonly StepWork[] = [
    { decodeCount: 3, decodeKvTokenCount: 2000, prefillTokenCount: 0, prefillPairCount: 0 },
    { decodeCount: 48, decodeKvTokenCount: 40_000, prefillTokenCount: 0, prefillPairCount: 0 },
    { decodeCount: 0, decodeKvTokenCount: 0, prefillTokenCount: 300, prefillPairCount: 120_000 },
    { decodeCount: 12, decodeKvTokenCount: 9000, prefillTokenCount: 200, prefillPairCount: 60_000 },
  ];

  it('are those of the formula behind samples without scatter', () => {
    const times = new MeasuredSteps(syntheticSamples(roofline, 0, 1)).timesFor(new Prng(1));
    for (const work of works) expect(Math.abs(times.draw(work) / roofline(work) - 1)).toBeLessThan(0.02);
  });

  it('scatter as the samples do', () => {
    const times = new MeasuredSteps(syntheticSamples(roofline, 0.2, 1)).timesFor(new Prng(1));
    for (const work of works) {
      const ratios = Array.from({ length: 400 }, () => times.draw(work) / roofline(work)).sort(
        (a, b) => a - b,
      );
      expect(percentile(ratios, 0.5)).toBeGreaterThan(0.8);
      expect(percentile(ratios, 0.5)).toBeLessThan(1.25);
      expect(percentile(ratios, 1) / percentile(ratios, 0)).toBeGreaterThan(1.2);
    }
  });
});

describe('link times', () => {
  const samples = [1e4, 1e5, 1e6, 1e7].flatMap((bytes) => [
    { connector: 'tcp', bytes, ms: 0.5 + bytes / 1e6 },
    { connector: 'peer', bytes, ms: 0.05 + bytes / 1e7 },
  ]);

  it('are those of the fastest connector', () => {
    const times = new MeasuredLink(fastestLinkSamples(samples)).timesFor(new Prng(1));
    expect(times.drawLatency()).toBeCloseTo(0.05, 3);
    expect(times.draw(2e6)).toBeCloseTo(0.2, 3);
  });
});

describe('virtual clock', () => {
  it('fires in order, one promise chain between two timers', async () => {
    const clock = new VirtualClock();
    const seen: string[] = [];
    const chain = async () => {
      for (let i = 0; i < 5; i++) await Promise.resolve();
      seen.push(`chain at ${clock.nowMs()}`);
    };
    clock.after(2, () => seen.push('b'));
    clock.after(1, () => {
      seen.push('a');
      void chain();
    });
    clock.after(1.5, () => seen.push('never')).cancel();
    clock.after(2, () => seen.push('c'));
    await clock.drive(clock.sleep(3));
    expect(seen).toEqual(['a', 'chain at 1', 'b', 'c']);
    expect(clock.nowMs()).toBe(3);
  });

  it('keeps order over many timers, most of them cancelled', async () => {
    const clock = new VirtualClock();
    const prng = new Prng(3);
    const fired: number[] = [];
    const handles = Array.from({ length: 20_000 }, () => {
      const atMs = prng.integer(1, 500);
      return clock.after(atMs, () => fired.push(atMs));
    });
    for (const [index, handle] of handles.entries()) if (index % 50 !== 0) handle.cancel();
    await clock.drive(clock.sleep(1000));
    expect(fired).toHaveLength(400);
    expect(fired).toEqual([...fired].sort((a, b) => a - b));
  });

  it('says so when nothing is left to wait for', async () => {
    await expect(new VirtualClock().drive(new Promise(() => {}))).rejects.toThrow(/standstill/);
  });
});
