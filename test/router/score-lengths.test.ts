import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import type { LengthFacts, LengthObservation } from '../../src/router/length-predictor.js';

interface Prediction {
  readonly point: number;
  quantile(fraction: number): number;
  cumulative(tokenCount: number): number;
}
interface Predictor {
  predict(facts: LengthFacts): Prediction;
  observe(facts: LengthFacts, observation: LengthObservation): void;
}
interface TraceRequest {
  readonly facts: LengthFacts;
  readonly tokenCount: number;
}

const load = async <Module>(file: string) =>
  (await import(
    pathToFileURL(path.resolve(import.meta.dirname, '../../scripts/score-lengths', file)).href
  )) as Module;
const { insideShare, pinball, Score } = await load<{
  insideShare(cumulative: (n: number) => number, actual: number): number;
  pinball(predicted: number, actual: number, fraction: number): number;
  Score: new () => { add(prediction: Prediction, actual: number): void; result(): Record<string, number> };
}>('scores.mjs');
const { BucketMean, RollingQuantiles } =
  await load<Record<'BucketMean' | 'RollingQuantiles', new () => Predictor>>('baselines.mjs');
const { censorer } = await load<{
  censorer(
    requests: readonly TraceRequest[],
    how: { censor: number; cut: 'uniform' | 'independent' },
    prng: Prng,
  ): (tokenCount: number) => LengthObservation;
}>('censor.mjs');

describe('scores', () => {
  it('pinball loss weighs under- and over-prediction', () => {
    expect(pinball(10, 20, 0.9)).toBeCloseTo(9);
    expect(pinball(20, 10, 0.9)).toBeCloseTo(1);
  });

  it('gives a right prediction of whole numbers a coverage of exactly 0.8', () => {
    const mass = [0.15, 0.3, 0.2, 0.05, 0.3];
    const cumulative = (n: number) => mass.slice(0, n + 1).reduce((a, b) => a + b, 0);
    const covered = mass.reduce((sum, share, n) => sum + share * insideShare(cumulative, n), 0);
    expect(covered).toBeCloseTo(0.8, 12);
  });

  it('counts a length without mass as inside between the quantiles, outside beyond them', () => {
    const point = (n: number) => (n < 5 ? 0 : n < 9 ? 0.5 : 1);
    expect([insideShare(point, 2), insideShare(point, 7), insideShare(point, 20)]).toEqual([0, 1, 0]);
  });

  it('averages over requests', () => {
    const score = new Score();
    const prediction = { point: 10, quantile: () => 10, cumulative: (n: number) => (n >= 10 ? 1 : 0) };
    score.add(prediction, 10);
    score.add(prediction, 20);
    expect(score.result()).toMatchObject({ mae: 5, pinball50: 2.5, pinball90: 4.5 });
  });
});

describe('rivals', () => {
  const whole = (tokenCount: number) => ({ tokenCount, isCensored: false });

  it('nanoPD: default, then the mean of all, then that of the class from five on', () => {
    const predictor = new BucketMean();
    const short = { promptTokenCount: 60 };
    expect(predictor.predict(short).point).toBe(256);
    for (let i = 0; i < 4; i++) predictor.observe(short, whole(10));
    predictor.observe({ promptTokenCount: 9000 }, whole(110));
    expect(predictor.predict(short).point).toBe(30);
    predictor.observe(short, whole(10));
    expect(predictor.predict(short).point).toBe(10);
    for (let i = 0; i < 50; i++) predictor.observe(short, whole(20));
    expect(predictor.predict(short).point).toBe(20);
  });

  it('rolling quantiles: those of the last thousand in the class', () => {
    const predictor = new RollingQuantiles();
    const facts = { promptTokenCount: 100 };
    for (let i = 0; i < 500; i++) predictor.observe(facts, whole(1e6));
    for (let i = 1; i <= 1000; i++) predictor.observe(facts, whole(i));
    const prediction = predictor.predict(facts);
    expect([prediction.point, prediction.quantile(0.9), prediction.cumulative(250)]).toEqual([
      500, 900, 0.25,
    ]);
  });
});

describe('cuts', () => {
  const requests = Array.from({ length: 10_000 }, (_, i) => ({
    facts: { promptTokenCount: 1 },
    tokenCount: 1 + (i % 500),
  }));

  it.each(['uniform', 'independent'] as const)(
    '%s: about the wanted share, always short of the truth',
    (cut) => {
      const observe = censorer(requests, { censor: 0.3, cut }, new Prng(3));
      let cutCount = 0;
      for (const { tokenCount } of requests) {
        const observation = observe(tokenCount);
        if (observation.isCensored) {
          cutCount++;
          expect(observation.tokenCount).toBeLessThan(tokenCount);
        } else expect(observation.tokenCount).toBe(tokenCount);
      }
      expect(cutCount / requests.length).toBeGreaterThan(0.28);
      expect(cutCount / requests.length).toBeLessThan(0.32);
    },
  );
});
