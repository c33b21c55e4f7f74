/** What goodput is measured against: the SLO of each class of prompts, and the rate at which the better
 *  static mode is saturated. Published ones where there are some, so that results can be compared; else
 *  measured as in sweeps: 5 × the TTFT and 2 × the TPOT of requests that are alone. Used by
 *  scripts/bench-goodput.mjs, once for each profile and workload. */
import { type LengthClass, lengthClasses } from '../../bench/load-record.js';
import { summariseSweep } from '../../bench/sweep-summary.js';
import type { ProfileFile } from '../../router/cost-parameters.js';
import type { Slo } from '../../router/slo.js';
import { simulateSweep } from '../sweep.js';
import type { GoodputCluster, GoodputWorkload } from './goodput-setup.js';

export interface GoodputReference {
  readonly saturationPerSecond: number;
  readonly slos: Readonly<Record<LengthClass, Slo>>;
  readonly source: 'published' | 'measured';
}

/** Of docs/results/2026-11-22-sim, the deep profile's matrix: two H200, Qwen3-8B's shape. */
const publishedModel = {
  deviceName: 'NVIDIA H200',
  modelName: 'qwen3/4096x36/151936',
  workerCount: 2,
} as const;
const publishedPerSecond = new Map([
  ['short', 141.9],
  ['long', 38.7],
  ['mixed', 56.9],
]);
const publishedShort: Slo = { ttftMs: 55, tpotMs: 8.74 };
const publishedLong: Slo = { ttftMs: 175, tpotMs: 9.05 };
const publishedSlos = {
  short: publishedShort,
  medium: publishedLong,
  long: publishedLong,
  huge: publishedLong,
};

export function publishedReference(
  { key }: ProfileFile,
  workerCount: number,
  workload: string,
): GoodputReference | null {
  const saturationPerSecond = publishedPerSecond.get(workload);
  const { deviceName, modelName } = publishedModel;
  const isSame =
    key.deviceName === deviceName &&
    key.modelName === modelName &&
    workerCount === publishedModel.workerCount;
  return isSame && saturationPerSecond !== undefined
    ? { saturationPerSecond, slos: publishedSlos, source: 'published' }
    : null;
}

const ofDevice = {
  cuda: { concurrency: 256, requestCount: 350 },
  cpu: { concurrency: 32, requestCount: 200 },
};

export async function measuredReference(
  cluster: GoodputCluster,
  workload: GoodputWorkload,
): Promise<GoodputReference> {
  const { contextTokenCount } = workload.load(0);
  const data = await simulateSweep({
    name: workload.name,
    candidate: 'adaptive',
    seed: 1,
    rateFractions: [],
    workloads: [workload],
    repetitionCount: 1,
    requestCount: 0,
    settleMs: 0,
    warmupMs: 0,
    saturation: ofDevice[cluster.profile.key.threadCount === 0 ? 'cuda' : 'cpu'],
    modes: (['collocated', 'disaggregated'] as const).map((strategy) => ({
      name: strategy,
      simulation: (seed) => cluster.simulation({ strategy, pacing: 'off' }, seed, contextTokenCount),
    })),
  });
  const { slos, saturation } = summariseSweep(data);
  const saturationPerSecond = Math.max(...saturation.map(({ requestsPerSecond }) => requestsPerSecond));
  return { saturationPerSecond, slos: completed(slos[workload.name] ?? {}), source: 'measured' };
}

/** Classes that no request that was alone had are given the SLO of the next shorter one that some had, or
 *  the next longer. */
function completed(measured: Readonly<Partial<Record<LengthClass, Partial<Slo>>>>): GoodputReference['slos'] {
  const nothing: Slo = { ttftMs: Number.POSITIVE_INFINITY, tpotMs: Number.POSITIVE_INFINITY };
  const known = lengthClasses.filter((each) => measured[each] !== undefined);
  const sloOf = (lengthClass: LengthClass): Slo => {
    const index = lengthClasses.indexOf(lengthClass);
    const shorter = known.filter((each) => lengthClasses.indexOf(each) <= index).at(-1);
    const nearest = shorter ?? known[0];
    return { ...nothing, ...(nearest === undefined ? {} : measured[nearest]) };
  };
  return { short: sloOf('short'), medium: sloOf('medium'), long: sloOf('long'), huge: sloOf('huge') };
}
