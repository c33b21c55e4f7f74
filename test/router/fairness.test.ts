/** What is learned of one worker needs more than noise, and fades; of equals none is preferred. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { chooseRoute } from '../../src/router/choose-route.js';
import type { ProfileFile } from '../../src/router/cost-parameters.js';
import { Deviations } from '../../src/router/deviations.js';
import { alone } from '../../src/router/plan.js';
import { uncorrected } from '../../src/router/request-correction.js';
import { stepMs } from '../../src/router/step-cost.js';
import { WorkerCosts } from '../../src/router/worker-costs.js';
import { WorkerLoad } from '../../src/router/worker-load.js';
import { costs, facts, held, worker } from './workers.js';

/** Rounds in which every worker reports: noise of which one report tells the next, and a slowness of its
 *  own. */
function report(
  deviations: Deviations<number>,
  prng: Prng,
  rounds: number,
  slowness: readonly number[],
  likeness = 0,
): void {
  const noise = slowness.map(() => prng.normal());
  for (let round = 0; round < rounds; round++) {
    for (const [id, slow] of slowness.entries()) {
      noise[id] = likeness * (noise[id] ?? 0) + Math.sqrt(1 - likeness ** 2) * prng.normal();
      deviations.observe(id, slow * Math.exp(0.1 * (noise[id] ?? 0)));
    }
  }
}

describe('what a worker has of its own', () => {
  it.each([0, 0.8])(
    'is hardly anything between equal workers, whose reports resemble each other by %f',
    (likeness) => {
      const prng = new Prng(1);
      let toldApart = 0;
      for (let run = 0; run < 200; run++) {
        const deviations = new Deviations<number>();
        report(deviations, prng, prng.integer(2, 200), [1, 1], likeness);
        const factor = deviations.factorOf(0);
        expect(Math.abs(Math.log(factor))).toBeLessThan(0.15);
        if (factor !== 1) toldApart++;
      }
      expect(toldApart).toBeLessThan(0.15 * 200);
    },
  );

  it('is found within ten reports when it is half as much again', () => {
    const deviations = new Deviations<number>();
    report(deviations, new Prng(3), 10, [1, 1.5]);
    expect(deviations.factorOf(1) / deviations.factorOf(0)).toBeGreaterThan(1.25);
    report(deviations, new Prng(4), 200, [1, 1.5]);
    expect(deviations.factorOf(1) / deviations.factorOf(0)).toBeCloseTo(1.5, 1);
  });

  it('fades when it shows nothing any more, in bounded time', () => {
    const deviations = new Deviations<number>();
    report(deviations, new Prng(5), 300, [1, 1.5]);
    let count = 0;
    for (; deviations.factorOf(1) !== 1; count++) {
      expect(count).toBeLessThan(6000);
      deviations.observe(0, 1);
    }
    expect(count).toBeGreaterThan(256);
  });

  it('is nothing where there is nobody to compare with, or nothing was seen', () => {
    const deviations = new Deviations<string>();
    for (let i = 0; i < 100; i++) deviations.observe('alone', 3);
    expect(deviations.factorOf('alone')).toBe(1);
    expect(deviations.factorOf('nobody')).toBe(1);
    for (const ratio of [Number.NaN, 0, -1]) deviations.observe('other', ratio);
    expect(deviations.factorOf('alone')).toBe(1);
  });
});

describe('costs', () => {
  const [w0, w1, w2] = [workerId('w0'), workerId('w1'), workerId('w2')];
  const work = { decodeCount: 8, decodeKvTokenCount: 2000, prefillTokenCount: 0, prefillPairCount: 0 };
  const realMs = 2 * stepMs(costs.step, work);
  const profile = { key: { deviceName: 'test' }, parameters: costs } as unknown as ProfileFile;
  const any = { kind: 'one kind', use: 'any' } as const;
  /** First tokens that take three times as long as they should. */
  const lateTimes = {
    corrections: uncorrected,
    messagesMs: 1,
    waitMs: 20,
    prefillMs: 20,
    stepMs: 5,
    transferMs: 0,
  };
  const late = { ...lateTimes, real: { ttftMs: 120, stepMs: 10, transferMs: null } };

  it('workers that are described alike learn together, others by themselves', () => {
    const all = new WorkerCosts();
    for (const id of [w0, w1]) all.describe(id, any);
    all.describe(w2, { kind: 'another', use: 'any' });
    for (let i = 0; i < 100; i++) all.observe(w0, [{ ...work, ms: realMs }]);
    for (let i = 0; i < 20; i++) all.observeRequest([w0, w0], late);
    expect(all.parametersOf(w1).step).toEqual(all.parametersOf(w0).step);
    expect(stepMs(all.parametersOf(w1).step, work)).toBeCloseTo(realMs, 0);
    expect(stepMs(all.parametersOf(w2).step, work)).not.toBeCloseTo(realMs, 0);
    expect(all.correctionsOf(w1).step).toBeGreaterThan(1.5);
    expect(all.correctionsOf(w1)).toBe(all.correctionsOf(w0));
    expect(all.correctionsOf(w2)).toEqual(uncorrected);
  });

  it('a worker that is used in another way takes along what it knew, and learns by itself from then on', () => {
    const all = new WorkerCosts();
    for (const id of [w0, w1]) all.describe(id, any);
    for (let i = 0; i < 100; i++) all.observe(w0, [{ ...work, ms: realMs }]);
    for (let i = 0; i < 20; i++) all.observeRequest([w0, w0], late);
    const [step, corrections] = [all.parametersOf(w0).step, all.correctionsOf(w0)];
    all.describe(w1, { ...any, use: 'prefill' });
    expect(all.parametersOf(w1).step).toEqual(step);
    expect(all.correctionsOf(w1)).toEqual(corrections);
    for (let i = 0; i < 100; i++) all.observe(w1, [{ ...work, ms: 2 * realMs }]);
    for (let i = 0; i < 20; i++) all.observeRequest([w1, w1], { ...late, real: { ...late.real, stepMs: 5 } });
    expect(all.parametersOf(w0).step).toEqual(step);
    expect(all.correctionsOf(w0)).toBe(corrections);
    expect(stepMs(all.parametersOf(w1).step, work)).toBeGreaterThan(1.5 * realMs);
    all.describe(w1, any);
    expect(all.parametersOf(w1).step).toEqual(step);
  });

  it('a slower worker of a kind costs more, a limit is a multiple of the same', () => {
    const all = new WorkerCosts();
    for (const id of [w0, w1]) all.use(id, profile);
    const prng = new Prng(7);
    for (let i = 0; i < 200; i++) {
      const noisy = () => Math.exp(0.05 * prng.normal());
      all.observe(w0, [{ ...work, ms: realMs * noisy() }]);
      all.observe(w1, [{ ...work, ms: 1.5 * realMs * noisy() }]);
    }
    const [fastMs, slowMs] = [w0, w1].map((id) => stepMs(all.parametersOf(id).step, work)) as [
      number,
      number,
    ];
    expect(slowMs / fastMs).toBeCloseTo(1.5, 1);
    expect(all.statusOf(w1).slowness / all.statusOf(w0).slowness).toBeCloseTo(1.5, 1);
    expect(all.unloadedOf(w1)).toBe(all.unloadedOf(w0));
    all.use(w1, profile); // another device in its place
    expect(all.statusOf(w1).slowness).toBe(1);
  });
});

describe('equal workers', () => {
  const slo = { ttftMs: 500, tpotMs: 50 };
  const ask = (workers: Parameters<typeof alone>[0], more: Parameters<typeof facts>[0]) => {
    const route = chooseRoute(facts({ slo, ...more }), alone(workers, 'collocated'));
    return workers.find(({ id }) => route.path === 'collocated' && id === route.worker)!;
  };
  const idle = (count: number) =>
    Array.from({ length: count }, (_, i) => worker(`w${i}`, 'any', { load: new WorkerLoad() }));

  it.each([3, 64])('take turns: %i of them', (count) => {
    const workers = idle(count);
    const asked: string[] = [];
    for (let i = 0; i < 4 * count; i++) {
      const { id, load } = ask(workers, { nowMs: 1000 * i });
      (load as WorkerLoad).give(1000 * i);
      asked.push(id);
    }
    for (const { id } of workers) expect(asked.filter((each) => each === id)).toHaveLength(4);
  });

  it('are not those of which one holds some of the prefix, or is less busy', () => {
    const [first, second] = idle(2) as [ReturnType<typeof worker>, ReturnType<typeof worker>];
    (second.load as WorkerLoad).give(1);
    expect(ask([first, second], { nowMs: 2 }).id).toBe('w0');
    expect(ask([first, second], { nowMs: 2, promptTokenCount: 100, ...held('w1', 1) }).id).toBe('w1'); // hardly less, but less
    expect(ask([worker('busy', 'any', { decodingCount: 20 }), second], { nowMs: 2 }).id).toBe('w1');
  });
});
