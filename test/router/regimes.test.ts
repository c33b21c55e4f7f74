/** What the arranger remembers: the requests of one load, and what was learned of each kind of load. */
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { RecentRequests } from '../../src/router/recent-requests.js';
import { Regimes, type Replayed } from '../../src/router/regimes.js';

const prng = new Prng(7);

function add(recent: RecentRequests, count: number, { perMs = 0.02, promptTokenCount = 500, fromMs = 0 } = {}): number {
  let arrivalMs = fromMs;
  for (let i = 0; i < count; i++) {
    arrivalMs += -Math.log(1 - prng.uniform()) / perMs;
    const spread = promptTokenCount * (0.5 + prng.uniform());
    recent.add({ arrivalMs, promptTokenCount: spread, expectedTokenCount: 50, outputTokenCount: 50 });
  }
  return arrivalMs;
}

describe('recent requests', () => {
  it('keep a steady load, and no more than 256 of it', () => {
    const recent = new RecentRequests();
    let forgotten = 0;
    let fromMs = 0;
    for (let i = 0; i < 200; i++) {
      fromMs = add(recent, 12, { fromMs });
      if (recent.forgetOthers()) forgotten++;
    }
    expect(recent.count).toBeLessThanOrEqual(256);
    expect(forgotten).toBeLessThanOrEqual(2);
    expect(recent.load.perMs).toBeGreaterThan(0.02 / 1.25);
    expect(recent.load.perMs).toBeLessThan(0.02 * 1.25);
  });

  it('idle time between bouts is no part of the rate', () => {
    const recent = new RecentRequests();
    let fromMs = 0;
    for (let bout = 0; bout < 5; bout++) fromMs = 60_000 + add(recent, 50, { fromMs });
    expect(recent.forgetOthers()).toBe(false);
    expect(recent.load.perMs).toBeGreaterThan(0.02 / 1.4);
    const { requests } = recent;
    for (const [index, { arrivalMs }] of requests.entries()) {
      expect(arrivalMs).toBeGreaterThanOrEqual(requests[index - 1]?.arrivalMs ?? 0);
    }
  });

  it('another rate, other prompts: what was before is forgotten', () => {
    for (const other of [{ perMs: 0.05 }, { perMs: 0.008 }, { promptTokenCount: 900 }]) {
      const recent = new RecentRequests();
      const fromMs = add(recent, 200);
      let isForgotten = false;
      let atMs = fromMs;
      for (let i = 0; i < 8; i++) {
        atMs = add(recent, 12, { ...other, fromMs: atMs });
        isForgotten = recent.forgetOthers() || isForgotten;
      }
      expect(isForgotten, JSON.stringify(other)).toBe(true);
      expect(recent.count).toBeLessThanOrEqual(160);
    }
  });

  it('a burst that is over is forgotten as soon as there are enough after it', () => {
    const recent = new RecentRequests();
    const fromMs = add(recent, 256, { perMs: 100 });
    add(recent, 60, { fromMs: fromMs + 30_000 });
    expect(recent.forgetOthers()).toBe(true);
    add(recent, 12, { fromMs: fromMs + 40_000 });
    recent.forgetOthers();
    expect(recent.load.perMs).toBeLessThan(0.04);
  });
});

describe('regimes', () => {
  const load = (perMs: number) => ({ perMs, promptTokenCount: 500, outputTokenCount: 50 });
  const replayed = (replayedScore: number): Replayed => ({
    arrangement: { kind: 'whole' },
    name: 'whole',
    replayedScore,
    ttftMsTail: 100,
    tpotMsTail: 10,
  });

  it('a load that comes back finds what was learned of it; a new one begins with what the nearest uses', () => {
    const regimes = new Regimes();
    const slow = regimes.of(load(0.01));
    slow.current = { kind: 'split', prefillCount: 1 };
    const fast = regimes.of(load(0.03));
    expect(fast).not.toBe(slow);
    expect(fast.current).toEqual(slow.current);
    fast.current = { kind: 'whole' };
    expect(regimes.of(load(0.0105))).toBe(slow);
    expect(regimes.of(load(0.028))).toBe(fast);
    regimes.clear();
    expect(regimes.of(load(0.028)).current).toBeNull();
  });

  it('a load near the edge between two does not go to and fro', () => {
    const regimes = new Regimes();
    const first = regimes.of(load(0.02));
    expect(regimes.of(load(0.025))).toBe(first);
    expect(regimes.of(load(0.0165))).toBe(first);
  });

  it('means: many requests tell more than few, and what is known follows in the end', () => {
    const regime = new Regimes().of(load(0.02));
    regime.learn([replayed(1)], 40, load(0.02));
    expect(regime.learn([replayed(0)], 160, load(0.02))[0]?.replayedScore).toBeCloseTo(1 / 17, 9);
    for (let i = 0; i < 40; i++) regime.learn([replayed(1)], 256, load(0.02));
    expect(regime.learn([replayed(1)], 256, load(0.02))[0]?.replayedScore).toBeGreaterThan(0.99);
  });

  it('memory is bounded', () => {
    const regimes = new Regimes();
    const first = regimes.of(load(1e-6));
    for (let i = 1; i < 40; i++) regimes.of(load(1e-6 * 1.5 ** i));
    expect(regimes.of(load(1e-6))).not.toBe(first);
  });
});
