import { describe, expect, it } from 'vitest';
import { requestId, workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { simulate } from '../../src/sim/simulation.js';
import { MeasuredSteps } from '../../src/sim/step-times.js';
import { cluster, load, plainTimes, poisson, requestAt, settings, syntheticSamples } from './clusters.js';

/** Steps as full as their budget: times can be worked out by hand. */
const unpaced = { settings: { ...settings, pacing: 'off' as const } };

describe('simulation', () => {
  it('is the same to the byte for the same seed', async () => {
    const samples = syntheticSamples(
      ({ decodeCount, prefillTokenCount }) => 1 + 0.05 * decodeCount + 0.01 * prefillTokenCount,
      0.1,
      7,
    );
    const log = async (seed: number) => {
      const lines: string[] = [];
      const timesOf = (index: number) => ({
        ...plainTimes(),
        steps: new MeasuredSteps(samples).timesFor(new Prng(seed + index)),
      });
      const options = cluster('any:cpu,prefill:cpu,decode:cpu', 'adaptive', {
        timesOf,
        onLogLine: (line) => lines.push(line),
      });
      await simulate(options, poisson('mixed', 40, 60, seed), load);
      return lines.join('\n');
    };
    const first = await log(1);
    expect(await log(1)).toBe(first);
    expect(await log(2)).not.toBe(first);
    expect(first).toMatch(/ w0 step decode=/);
    expect(first).toMatch(/ <- (generate|prefill) r0/);
  });

  describe('truth tables: times worked out by hand', () => {
    it.each([
      { promptTokenCount: 100, stepCount: 1 },
      { promptTokenCount: 1300, stepCount: 3 },
    ])('one worker, $promptTokenCount prompt tokens', async ({ promptTokenCount }) => {
      const { records } = await simulate(
        cluster('any:cpu', 'collocated'),
        [requestAt(0, promptTokenCount, 11)],
        load,
      );
      const ttftMs = 0.5 + 0.02 * promptTokenCount + 0.25;
      expect(records).toHaveLength(1);
      expect(records[0]?.firstTokenMs).toBeCloseTo(ttftMs, 1);
      expect(records[0]?.endMs).toBeCloseTo(ttftMs + 10 * 2, 1);
      expect(records[0]?.outputTokenCount).toBe(11);
    });

    it('a prompt that arrives while another decodes lengthens its steps', async () => {
      const plan = [requestAt(0, 100, 20, 0), requestAt(20, 500, 1, 1)];
      const { records } = await simulate(cluster('any:cpu', 'collocated', unpaced), plan, load);
      const gaps = records.find(({ index }) => index === 0)?.gapsMs ?? [];
      expect(Math.max(...gaps)).toBeCloseTo(2 + 0.02 * 500, 1);
      expect(gaps.filter((ms) => Math.abs(ms - 2) < 0.05)).toHaveLength(18);
    });

    it('prefill on one worker, decode on the other', async () => {
      const promptTokenCount = 512;
      const { records, engines } = await simulate(
        cluster('prefill:cpu,decode:cpu', 'disaggregated', unpaced),
        [requestAt(0, promptTokenCount, 3)],
        load,
      );
      const prefillMs = 0.02 * promptTokenCount;
      // of which what is felt lies between the last of 4 layers and all of it
      const copyMs = (promptTokenCount * 1024) / 1e6;
      const [record] = records;
      expect(record?.firstTokenMs).toBeCloseTo(0.5 + prefillMs + 0.25, 1);
      const restMs = 0.1 + 1 + 2; // link latency, hand-over, step; the token's own way is in both times
      expect(record?.gapsMs[0]).toBeGreaterThan(copyMs / 4 + restMs - 0.05);
      expect(record?.gapsMs[0]).toBeLessThan(copyMs + restMs + 0.05);
      expect(record?.gapsMs[1]).toBeCloseTo(2, 1);
      expect(engines.map(({ promptTokenCount: count }) => count)).toEqual([promptTokenCount, 0]);
    });
  });

  it('hand-overs take their copies from what a GPU computes next, and from no processor', async () => {
    const copyMs = (512 * 1024) / 1e6;
    const plan = Array.from({ length: 6 }, (_, index) => requestAt(index / 10, 512, 3, index));
    const lastMs = async (workers: string) => {
      const { records } = await simulate(cluster(workers, 'disaggregated', unpaced), plan, load);
      return records.find(({ index }) => index === 5)?.firstTokenMs ?? 0;
    };
    const moreMs = (await lastMs('prefill:cuda:0,decode:cuda:1')) - (await lastMs('prefill:cpu,decode:cpu'));
    expect(moreMs).toBeGreaterThan(2.5 * copyMs);
    expect(moreMs).toBeLessThan(5.01 * copyMs);
  });

  it('hands over while the next prompts are computed: nobody waits for their steps', async () => {
    const plan = Array.from({ length: 8 }, (_, index) => requestAt(index, 512, 4, index));
    const { records } = await simulate(cluster('prefill:cpu,decode:cpu', 'disaggregated'), plan, load);
    const stepMs = 0.02 * 512;
    expect(records.map(({ transferMs }) => transferMs)).not.toContain(undefined);
    for (const { transferMs } of records) expect(transferMs).toBeLessThan(stepMs / 2);
  });

  it('goes on elsewhere when a worker is killed', async () => {
    const faults = [
      {
        atMs: 200,
        strike: (workers: { kill(id: ReturnType<typeof workerId>): void }) => workers.kill(workerId('w0')),
      },
    ];
    const { records } = await simulate(
      cluster('any:cpu*2', 'collocated', { faults }),
      poisson('mixed', 50, 60),
      load,
    );
    expect(records).toHaveLength(60);
    expect(
      records.every(
        (record) => record.outcome === 'completed' && record.outputTokenCount === record.wantedTokenCount,
      ),
    ).toBe(true);
  });

  it('finds a block that somebody keeps', async () => {
    const keep = {
      atMs: 10,
      strike: (workers: {
        engines: readonly { engine: { reserve(request: object, growthTokenCount: number): unknown } }[];
      }) => {
        workers.engines[0]?.engine.reserve(
          { id: requestId('keeper'), promptIds: [1, 2, 3], sampling: greedy },
          0,
        );
      },
    };
    const options = cluster('any:cpu', 'collocated', { faults: [keep as never] });
    await expect(simulate(options, [requestAt(0, 50, 2)], load)).rejects.toThrow(/w0 keeps 1 blocks/);
  });

  it('rejects what is over the limit, and loses nothing', async () => {
    const options = cluster('any:cpu', 'collocated', { limits: { requestCountMax: 4 } });
    const { records } = await simulate(options, poisson('short', 2000, 50), load);
    const count = (outcome: string) => records.filter((record) => record.outcome === outcome).length;
    expect(count('rejected')).toBeGreaterThan(0);
    expect(count('rejected') + count('completed')).toBe(50);
  });
});
