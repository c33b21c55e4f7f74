/** The whole judgement on made-up servers whose truth is known: it passes what is equal, finds what is worse,
 *  and says when it cannot know. */
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { comparePoint, type PointPairs, pairPoint, type Verdict } from '../../src/bench/comparison.js';
import { type ComparedPoint, neverWorse } from '../../src/bench/never-worse.js';
import { type QueueShape, queueRepetitions, queueSlos } from './queue.js';

const quiet: QueueShape = {
  repetitionCount: 10,
  requestCount: 300,
  load: 0.5,
  slowness: 1,
  requestNoise: 0.05,
  runNoise: 0.005,
};
const noisy: QueueShape = { ...quiet, requestCount: 200, load: 0.9, runNoise: 0.15 };

function pairsOf(trial: number, reference: QueueShape, slowness: number): PointPairs {
  const ours = queueRepetitions({ ...reference, slowness }, trial, 1000 + trial);
  return pairPoint(ours, queueRepetitions(reference, trial, 2000 + trial), queueSlos);
}

/** How often each verdict is given, out of eight trials. */
function verdicts(reference: QueueShape, slowness: number): Record<Verdict | 'void', number> {
  const counts = { holds: 0, undecided: 0, fails: 0, void: 0 };
  for (let trial = 0; trial < 8; trial++)
    counts[comparePoint(pairsOf(trial, reference, slowness), new Prng(trial)).verdict]++;
  return counts;
}

describe('verdicts', () => {
  it('an equal strategy holds where noise is small and requests are many', () => {
    const { holds, fails } = verdicts(quiet, 1);
    expect(holds).toBeGreaterThanOrEqual(7);
    expect(fails).toBe(0);
  });

  it('one that takes 30 % longer fails, and never holds', () => {
    const { holds, fails } = verdicts(quiet, 1.3);
    expect(fails).toBeGreaterThanOrEqual(7);
    expect(holds).toBe(0);
  });

  it('where noise is larger than the limits hardly anything is decided, and an equal strategy seldom called worse', () => {
    const { holds, fails } = verdicts(noisy, 1);
    expect(holds).toBeLessThanOrEqual(1);
    expect(fails).toBeLessThanOrEqual(2); // 10 % of sixty trials: five bounds of 5 % each, which go together
  });

  it('few requests decide nothing', () => {
    const { holds, fails } = verdicts({ ...quiet, load: 0.8, requestCount: 10, runNoise: 0.05 }, 1);
    expect(holds + fails).toBeLessThanOrEqual(2);
  });
});

describe('all points together', () => {
  /** Eight points whose noise decides none of them alone. */
  function sweepOf(slowness: number) {
    const shape = { ...quiet, load: 0.8, requestCount: 60, requestNoise: 0.1, runNoise: 0.02 };
    const pairs = Array.from({ length: 8 }, (_, trial) => pairsOf(trial, shape, slowness));
    const noise = Array.from({ length: 8 }, (_, trial) => pairsOf(100 + trial, shape, 1));
    const points = pairs.map(
      (pair, i): ComparedPoint => ({
        workload: 'made up',
        ratePerSecond: i + 1,
        rateFraction: null,
        reference: 'static',
        referenceScale: '1',
        comparison: comparePoint(pair, new Prng(i)),
        noise: comparePoint(noise[i]!, new Prng(i)),
      }),
    );
    return neverWorse(points, { comparison: pairs, noise }, new Prng(1));
  }

  it('decide what no point alone does', () => {
    const equal = sweepOf(1);
    expect(equal.holdsCount).toBeLessThan(4);
    expect(equal.overall.tpot).toMatchObject({ verdict: 'holds' });
    const { ttft, ...others } = equal.byMetric;
    expect(ttft.holds + ttft.undecided + ttft.fails).toBe(8);
    for (const count of Object.values(others)) expect(count.fails).toBe(0);
    const slow = sweepOf(1.15);
    expect(slow.overall.tpot).toMatchObject({ verdict: 'fails' });
    expect(slow.overall.goodput).toMatchObject({ verdict: 'fails' });
    expect(slow.noise.overall.tpot).toMatchObject({ verdict: 'holds' });
  });
});
