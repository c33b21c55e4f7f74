/** Goodput at one rate: of the real engine and router on virtual time under every strategy, of the best
 *  policy that was found on modelled workers, and the bound. Used by scripts/bench-goodput.mjs.
 *  Invariant: everything at a point gets the same requests at the same times; what came of them depends on
 *  the seeds alone. */
import { percentile } from '../../base/percentiles.js';
import {
  type LoadRecord,
  lengthClassOf,
  type PlannedRequest,
  tpotMsOf,
  ttftMsOf,
} from '../../bench/load-record.js';
import { meetsItsClass } from '../../bench/slo.js';
import type { OverloadPolicy } from '../../control/gateway-api.js';
import { simulatedPlan } from '../simulated-load.js';
import { type SimulatedRun, simulateRuns } from '../simulation.js';
import { bestFound } from './best-found.js';
import { boundWithoutQueues } from './bound.js';
import type { ModelRequest } from './cluster-model.js';
import type { GoodputReference } from './goodput-reference.js';
import type { GoodputCluster, GoodputMode, GoodputWorkload } from './goodput-setup.js';

interface PointOptions {
  readonly cluster: GoodputCluster;
  readonly workload: GoodputWorkload;
  readonly reference: GoodputReference;
  /** Of the saturation. */
  readonly ofSaturation: number;
  readonly seeds: readonly number[];
  readonly onOverload: OverloadPolicy;
  /** Absent: large enough for figures that are published. */
  readonly size?: RunSize;
}

/** How much is sent, of each seed. */
interface RunSize {
  /** How long a cluster has the rate before, in a run of its own; */
  readonly settleMs: number;
  /** then unmeasured requests before those that count, and after them. */
  readonly warmupMs: number;
  readonly tailMs: number;
  /** So many requests count, or those of so long where these are more. */
  readonly countedMin: number;
  readonly countedMs: number;
}

/** What one mode did with the requests of all seeds. Latencies: p99 of those within their SLO; null: none
 *  was. */
export interface ModeResult extends GoodputMode {
  readonly goodput: number;
  readonly requestCount: number;
  readonly shedCount: number;
  readonly goodCount: number;
  /** Completed while those that count came, in time or not. */
  readonly completedPerSecond: number;
  readonly ttftP99: number | null;
  readonly tpotP99: number | null;
  readonly itlP99: number | null;
  /** p99 of all that were served. */
  readonly servedTtftP99: number | null;
  readonly servedTpotP99: number | null;
}

/** Of adaptive, and of the better static mode. */
interface Pair {
  readonly adaptive: number | null;
  readonly reference: number | null;
}

export interface GoodputPoint {
  readonly workload: string;
  readonly ofSaturation: number;
  readonly ratePerSecond: number;
  readonly onOverload: OverloadPolicy;
  /** Requests within their SLO a second; of a static strategy with and without pacing, whichever is
   *  better. */
  readonly goodput: Readonly<
    Record<'collocated' | 'disaggregated' | 'adaptive' | 'bestFound' | 'bound', number>
  >;
  /** The better static mode. */
  readonly reference: GoodputMode;
  readonly bestPolicy: string;
  readonly ttftP99: Pair;
  readonly tpotP99: Pair;
  readonly itlP99: Pair;
  readonly modes: readonly ModeResult[];
  /** Adaptive when late requests are served instead; null: as in `modes`. */
  readonly late: ModeResult | null;
}

export const goodputModes: readonly GoodputMode[] = [
  { strategy: 'collocated', pacing: 'off' },
  { strategy: 'collocated', pacing: 'on' },
  { strategy: 'disaggregated', pacing: 'off' },
  { strategy: 'disaggregated', pacing: 'on' },
  { strategy: 'adaptive', pacing: 'on' },
];

const publishedSize: RunSize = {
  settleMs: 6000,
  warmupMs: 2000,
  tailMs: 1000,
  countedMin: 400,
  countedMs: 3000,
};
const idleMs = 4000;
const drainMs = 3_600_000;

export async function measurePoint(options: PointOptions): Promise<GoodputPoint> {
  const { cluster, workload, reference, ofSaturation, seeds, onOverload } = options;
  const ratePerSecond = ofSaturation * reference.saturationPerSecond;
  const modes: ModeResult[] = [];
  for (const mode of goodputModes) modes.push(await measureMode(options, mode, ratePerSecond));
  const late = onOverload === 'late' ? null : await measureLate(options, ratePerSecond);
  const best = (strategy: GoodputMode['strategy']) =>
    better(modes.filter((mode) => mode.strategy === strategy));
  const [collocated, disaggregated, adaptive] = [best('collocated'), best('disaggregated'), best('adaptive')];
  const betterStatic = better([collocated, disaggregated]);
  const { share, policy } = bestOf(options, ratePerSecond);
  const [seed = 1] = seeds;
  const sample = modelled(requestsOf(options, seed, ratePerSecond), reference);
  const pair = (name: 'ttftP99' | 'tpotP99' | 'itlP99') => ({
    adaptive: adaptive[name],
    reference: betterStatic[name],
  });
  return {
    workload: workload.name,
    ofSaturation,
    ratePerSecond,
    onOverload,
    goodput: {
      collocated: collocated.goodput,
      disaggregated: disaggregated.goodput,
      adaptive: adaptive.goodput,
      bestFound: share * ratePerSecond,
      bound: boundWithoutQueues(sample, ratePerSecond, cluster.knowledge, cluster.workers.length),
    },
    reference: { strategy: betterStatic.strategy, pacing: betterStatic.pacing },
    bestPolicy: policy,
    ttftP99: pair('ttftP99'),
    tpotP99: pair('tpotP99'),
    itlP99: pair('itlP99'),
    modes,
    late,
  };
}

function measureLate(options: PointOptions, ratePerSecond: number): Promise<ModeResult> {
  const mode = { strategy: 'adaptive', pacing: 'on' } as const;
  return measureMode({ ...options, onOverload: 'late' }, mode, ratePerSecond);
}

/** Of equals the first. */
function better(results: readonly ModeResult[]): ModeResult {
  return results.reduce((best, each) => (each.goodput > best.goodput ? each : best));
}

export async function measureMode(
  options: PointOptions,
  mode: GoodputMode,
  ratePerSecond: number,
): Promise<ModeResult> {
  const { cluster, workload, reference, seeds, onOverload } = options;
  const { warmupCount, countedCount } = countsAt(options, ratePerSecond);
  const counted: LoadRecord[] = [];
  let [completedCount, countedMs] = [0, 0];
  for (const seed of seeds) {
    const simulation = cluster.simulation(mode, seed, workload.load(seed).contextTokenCount);
    const results = await simulateRuns({ ...simulation, onOverload }, runsOf(options, seed, ratePerSecond));
    const records = results.at(-1)?.records ?? [];
    const mine = records.filter(({ index }) => index >= warmupCount && index < warmupCount + countedCount);
    counted.push(...mine);
    const sentMs = mine.map((record) => record.sentMs);
    const [firstMs, lastMs] = [Math.min(...sentMs), Math.max(...sentMs)];
    const isWithin = ({ outcome, endMs }: LoadRecord) =>
      outcome === 'completed' && endMs >= firstMs && endMs < lastMs;
    completedCount += records.filter(isWithin).length;
    countedMs += lastMs - firstMs;
  }
  const good = counted.filter((record) => meetsItsClass(record, reference.slos));
  const served = counted.filter(({ outcome }) => outcome === 'completed');
  const p99 = (values: readonly (number | undefined)[]) => {
    const known = values.filter((value) => value !== undefined).sort((a, b) => a - b);
    return known.length === 0 ? null : percentile(known, 0.99);
  };
  return {
    ...mode,
    goodput: (ratePerSecond * good.length) / counted.length,
    requestCount: counted.length,
    shedCount: counted.filter(({ outcome }) => outcome === 'rejected').length,
    goodCount: good.length,
    completedPerSecond: (1000 * completedCount) / countedMs,
    ttftP99: p99(good.map(ttftMsOf)),
    tpotP99: p99(good.map(tpotMsOf)),
    itlP99: p99(good.flatMap(({ gapsMs }) => gapsMs)),
    servedTtftP99: p99(served.map(ttftMsOf)),
    servedTpotP99: p99(served.map(tpotMsOf)),
  };
}

function runsOf(options: PointOptions, seed: number, ratePerSecond: number): readonly SimulatedRun[] {
  const { settleCount, ...counts } = countsAt(options, ratePerSecond);
  const run = (planSeed: number, requestCount: number): SimulatedRun => ({
    plan: withSlo(requestsOf(options, planSeed, ratePerSecond, requestCount), options.reference),
    load: {
      warmupMs: 0,
      warmupRequestCount: 0,
      drainMs,
      durationMs: Number.POSITIVE_INFINITY,
      concurrencyMax: Number.POSITIVE_INFINITY,
    },
    idleMs,
  });
  return [run(seed + 500, settleCount), run(seed, total(counts))];
}

function countsAt({ size = publishedSize }: PointOptions, ratePerSecond: number) {
  const { settleMs, warmupMs, tailMs, countedMin, countedMs } = size;
  const countIn = (ms: number) => Math.ceil((ratePerSecond * ms) / 1000);
  return {
    settleCount: countIn(settleMs),
    warmupCount: countIn(warmupMs),
    countedCount: Math.max(countedMin, countIn(countedMs)),
    tailCount: countIn(tailMs),
  };
}

function total({
  warmupCount,
  countedCount,
  tailCount,
}: Omit<ReturnType<typeof countsAt>, 'settleCount'>): number {
  return warmupCount + countedCount + tailCount;
}

function requestsOf(
  options: PointOptions,
  seed: number,
  ratePerSecond: number,
  requestCountMax = total(countsAt(options, ratePerSecond)),
): Iterable<PlannedRequest> {
  const { workload } = options;
  return simulatedPlan({
    ...workload.load(seed),
    arrival: { ratePerSecond, burstiness: 1 },
    requestCountMax,
  });
}

function* withSlo(
  plan: Iterable<PlannedRequest>,
  { slos }: GoodputReference,
): Generator<PlannedRequest, void, undefined> {
  for (const request of plan) yield { ...request, slo: slos[lengthClassOf(request.promptTokenCount)] };
}

function bestOf(options: PointOptions, ratePerSecond: number) {
  const { cluster, reference, seeds } = options;
  const { warmupCount, countedCount } = countsAt(options, ratePerSecond);
  const contextTokenCount = 1; // times do not depend on it
  const loads = seeds.map((seed) => {
    const { timesOf } = cluster.simulation({ strategy: 'adaptive', pacing: 'on' }, seed, contextTokenCount);
    return {
      requests: modelled(requestsOf(options, seed, ratePerSecond), reference),
      firstCounted: warmupCount,
      countedCount,
      times: () => cluster.workers.map((_, index) => timesOf(index)),
    };
  });
  return bestFound(loads, cluster.knowledge, cluster.workers.length);
}

function modelled(plan: Iterable<PlannedRequest>, { slos }: GoodputReference): readonly ModelRequest[] {
  return [...plan].map(({ at, promptTokenCount, wantedTokenCount }) => ({
    atMs: at === 'asap' ? 0 : at,
    promptTokenCount,
    outputTokenCount: wantedTokenCount,
    slo: slos[lengthClassOf(promptTokenCount)],
  }));
}
