/** A simulated sweep has the runs of a real one, in its order and with its pairs. */
import { describe, expect, it } from 'vitest';
import { summariseSweep } from '../../src/bench/sweep-summary.js';
import type { Strategy } from '../../src/router/route.js';
import { simulatedVocabCount } from '../../src/sim/simulated-load.js';
import { simulateSweep } from '../../src/sim/sweep.js';
import { cluster, settings } from './clusters.js';

const mode = (name: Strategy) => ({
  name,
  simulation: () =>
    cluster('any:cpu*2', name, { settings: { ...settings, vocabCount: simulatedVocabCount } }),
});

describe('simulateSweep', () => {
  it('asks every mode for the same at each point, the first static one twice', async () => {
    const data = await simulateSweep({
      name: 'test',
      candidate: 'adaptive',
      seed: 1,
      rateFractions: [0.5],
      repetitionCount: 2,
      requestCount: 30,
      settleMs: 500,
      warmupMs: 100,
      saturation: { concurrency: 8, requestCount: 40 },
      modes: (['collocated', 'disaggregated', 'adaptive'] as const).map(mode),
      workloads: [
        {
          name: 'short',
          load: (seed) => ({
            workload: {
              name: 'short',
              seed,
              contentSeed: seed,
              inputTokenCount: 1,
              outputTokenCount: 8,
              rangeRatio: 0,
              outputShape: 'lognormal',
              lengthScale: 1,
            },
            durationMs: Number.POSITIVE_INFINITY,
            contextTokenCount: 4096,
          }),
        },
      ],
    });
    const { runs } = data.header;
    const prepared = ['collocated', 'disaggregated'].flatMap((name) => [
      `${name} unloaded`,
      `${name} saturation`,
    ]);
    const measured = ['collocated', 'disaggregated', 'adaptive'].flatMap((name) =>
      ['warmup 0', 'point 0', 'point 1'].map((each) => `${name} ${each}`),
    );
    const again = ['warmup 0', 'repeat 0', 'repeat 1'].map((each) => `collocated ${each}`);
    expect(
      runs.map((run) => `${run.mode} ${run.stage}${run.ratePerSecond === null ? '' : ` ${run.repetition}`}`),
    ).toEqual([...prepared, ...measured, ...again]);

    const arrivals = (stage: string, repetition: number) =>
      runs
        .filter((run) => run.stage === stage && run.repetition === repetition)
        .map(({ runIndex }) => data.records.get(runIndex)?.map(({ scheduledMs }) => scheduledMs));
    const [first, ...others] = arrivals('point', 0);
    for (const each of [...others, ...arrivals('repeat', 0)]) expect(each).toEqual(first);
    expect(arrivals('point', 1)[0]).not.toEqual(first);

    const [point] = summariseSweep(data).points;
    expect(point?.comparison?.requestCount).toBe(60);
    expect(point?.noise?.ttft.ratio).toBeCloseTo(1, 6); // steps without scatter: a twin does the same
  });
});
