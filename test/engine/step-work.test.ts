/** What the engine says about its steps: counted exactly, and timed as busy time. */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { stepWorkOf } from '../../src/engine/step-work.js';
import { prefillPairCountOf, type StepSample } from '../../src/router/step-work.js';
import { packSteps, RecentSteps, stepSampleCountMax, unpackSteps } from '../../src/worker/step-samples.js';
import { ask, golden, openEngine, openRig } from './demo-rig.js';

const sampleOf = (index: number) => ({
  decodeCount: index,
  decodeKvTokenCount: 10 * index,
  prefillTokenCount: 3,
  prefillPairCount: 6,
  ms: index + 0.125,
});

describe('step work', () => {
  it('counts pairs as attention does', () => {
    for (const [start, count] of [
      [0, 1],
      [0, 7],
      [5, 3],
      [100, 64],
    ] as const) {
      let pairs = 0;
      for (let query = start; query < start + count; query++) pairs += query + 1;
      expect(prefillPairCountOf(start, count)).toBe(pairs);
    }
  });

  it('tells rows that decode from prompts', () => {
    const entry = (firstToken: number, endToken: number) => ({
      firstToken,
      endToken,
      sequence: null as never,
    });
    expect(stepWorkOf({ entries: [entry(9, 10), entry(99, 100), entry(0, 4), entry(16, 20)] })).toEqual({
      decodeCount: 2,
      decodeKvTokenCount: 110,
      prefillTokenCount: 8,
      prefillPairCount: 10 + 4 * 16 + 10,
    });
  });
});

describe('recent steps', () => {
  it('keeps the newest, oldest first, and forgets what it gave', () => {
    const recent = new RecentSteps();
    for (let i = 0; i < stepSampleCountMax + 10; i++) recent.add(sampleOf(i));
    const taken = recent.take();
    expect(taken.map(({ decodeCount }) => decodeCount)).toEqual(
      Array.from({ length: stepSampleCountMax }, (_, i) => i + 10),
    );
    expect(recent.take()).toEqual([]);
    recent.add(sampleOf(3));
    expect(recent.take()).toEqual([sampleOf(3)]);
  });

  it('comes through packing as it was', () => {
    const samples = [sampleOf(0), sampleOf(1), sampleOf(7)];
    expect(unpackSteps(packSteps(samples))).toEqual(samples);
  });
});

describe('an engine', () => {
  it('reports every step: all prompt tokens and pairs, once', async () => {
    const rig = await openRig(1);
    const samples: StepSample[] = [];
    const engine = openEngine(
      rig,
      { prefillChunkTokenCount: 64, prefixCaching: 'off' },
      { onStep: (sample) => samples.push(sample) },
    );
    const one = golden.cases.find(({ prompt_ids }) => prompt_ids.length > 128 && prompt_ids.length % 64 > 1)!;
    const startMs = systemClock.nowMs();
    await engine.generate([ask(one)]);
    const wallMs = systemClock.nowMs() - startMs;
    const promptCount = one.prompt_ids.length;
    const sum = (key: keyof StepSample) => samples.reduce((total, sample) => total + sample[key], 0);
    expect(samples).toHaveLength(engine.snapshot().stepCount);
    expect(sum('prefillTokenCount')).toBe(promptCount);
    expect(sum('prefillPairCount')).toBe(prefillPairCountOf(0, promptCount));
    expect(sum('decodeCount')).toBeGreaterThanOrEqual(one.continuation_ids.length - 1);
    expect(Math.min(...samples.map(({ ms }) => ms))).toBeGreaterThan(0);
    expect(sum('ms')).toBeLessThanOrEqual(wallMs); // busy times do not overlap
    await engine.close();
  });
});
