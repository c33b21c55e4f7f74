/** A real sweep on virtual time once more. The "real" one is simulated here too, with times that are
 *  known. */
import { describe, expect, it } from 'vitest';
import type { LoadRecord } from '../../src/bench/load-record.js';
import type { Stage, SweepData, SweepRun } from '../../src/bench/sweep-file.js';
import type { Strategy } from '../../src/router/route.js';
import { accuracyOf, accuracyText } from '../../src/sim/accuracy.js';
import { simulateRuns } from '../../src/sim/simulation.js';
import { replaySweep } from '../../src/sim/sweep-replay.js';
import { cluster, load, plainTimes, poisson, requestAt } from './clusters.js';

const modes: readonly Strategy[] = ['collocated', 'disaggregated'];
const clusterOf = (mode: string, slowness = 1) => {
  const { steps, ...times } = plainTimes();
  const timesOf = () => ({
    ...times,
    steps: { draw: (work: Parameters<typeof steps.draw>[0]) => slowness * steps.draw(work) },
  });
  return cluster('any:cpu*2', mode as Strategy, { timesOf });
};

/** Each mode's server: everything at once, then a point at 20 requests a second, measured from the tenth on.
 *  A/A is the same run again. */
async function sweep(): Promise<SweepData> {
  const runs: SweepRun[] = [];
  const records = new Map<number, readonly LoadRecord[]>();
  const add = (
    stage: Stage,
    mode: string,
    ratePerSecond: number | null,
    made: readonly LoadRecord[] = [],
  ) => {
    records.set(runs.length, made);
    runs.push({
      runIndex: runs.length,
      stage,
      mode,
      workload: 'mixed',
      repetition: 0,
      ratePerSecond,
      rateFraction: null,
      coreShare: 0,
      shortenedCount: 0,
    });
  };
  const saturating = [...poisson('mixed', 1e6, 40)].map((each) => ({ ...each, at: 'asap' as const }));
  for (const mode of modes) {
    const [saturation, point] = await simulateRuns(clusterOf(mode), [
      { plan: saturating, load: { ...load, concurrencyMax: 8 } },
      { plan: poisson('mixed', 20, 40, 2), load: { ...load, warmupRequestCount: 10 }, idleMs: 300 },
    ]);
    add('saturation', mode, null, saturation?.records);
    add('point', mode, 20, point?.records);
  }
  add('repeat', 'collocated', 20, records.get(1));
  const facts = {
    date: '',
    machine: '',
    model: '',
    seed: 0,
    targets: {},
    candidate: 'adaptive',
    ttftFactor: 5,
    tpotFactor: 2,
  };
  return { header: { ...facts, runs }, records };
}

describe('replaySweep', () => {
  it('finds what it replays where steps take what they took, to a turn of the event loop', async () => {
    const data = await sweep();
    const { rows, saturations } = accuracyOf(data, [await replaySweep(data, (mode) => clusterOf(mode))]);
    expect(rows.map(({ mode, requestCount }) => [mode, requestCount])).toEqual(
      modes.map((mode) => [mode, 30]),
    );
    for (const row of rows) {
      for (const { error } of [row.ttftP50, row.ttftP99, row.tpotP50, row.tpotP99])
        expect(error).toBeLessThan(0.01);
      expect(row.fraction).toBeGreaterThan(0);
    }
    for (const { realPerSecond, virtualPerSecond } of saturations)
      expect(virtualPerSecond / realPerSecond).toBeCloseTo(1, 1);
    expect(rows.map(({ repeatErrors }) => repeatErrors?.ttftP50)).toEqual([0, undefined]);
  });

  it('tells by how much a simulation is off whose steps take a quarter longer', async () => {
    const data = await sweep();
    const accuracy = accuracyOf(data, [await replaySweep(data, (mode) => clusterOf(mode, 1.25))]);
    for (const { tpotP50 } of accuracy.rows) expect(tpotP50.error).toBeGreaterThan(0.2);
    const text = accuracyText(accuracy);
    expect(text).toMatch(/TPOT p50 0 of 2/);
    expect(text).toMatch(/\| mixed \| collocated \| 20\.0 /);
    expect(text).toMatch(/A\/A 0/);
  });

  it('refuses a sweep without requests', async () => {
    const data = await sweep();
    const bare = { ...data, records: new Map() };
    await expect(replaySweep(bare, (mode) => clusterOf(mode))).rejects.toThrow(
      /run 0 of the sweep has no records/,
    );
  });
});

describe('simulateRuns', () => {
  it('keeps the cluster between runs, and lets it rest', async () => {
    const plan = [requestAt(0, 500, 2)];
    const [first, second] = await simulateRuns(cluster('any:cpu', 'collocated'), [
      { plan, load },
      { plan, load, idleMs: 5000 },
    ]);
    const ttftMs = (records: readonly LoadRecord[] = []) =>
      (records[0]?.firstTokenMs ?? 0) - (records[0]?.sentMs ?? 0);
    expect(ttftMs(first?.records)).toBeGreaterThan(0.02 * 500);
    expect(ttftMs(second?.records)).toBeLessThan(0.02 * 100); // its prompt is in the prefix cache
    expect((second?.simulatedMs ?? 0) - (first?.simulatedMs ?? 0)).toBeGreaterThan(5000);
  });
});
