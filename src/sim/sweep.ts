/** Rates × workloads × strategies on virtual time, with the load generator's own rules: SLOs from unloaded
 *  runs, rates from saturation, paired arrivals, A/A, the same summary. Used by scripts/simulate-sweep.mjs.
 *  Invariants: at one point and repetition every strategy gets the same requests at the same times;
 *  repetitions of a point follow each other on one cluster, which rests between them for as long as the
 *  others would be asked. */
import type { LoadRecord } from '../bench/load-record.js';
import { summariseRun } from '../bench/summary.js';
import type { Stage, SweepData, SweepRun } from '../bench/sweep-file.js';
import { type SimulatedLoadOptions, simulatedPlan } from './simulated-load.js';
import {
  type SimulatedRun,
  type SimulationOptions,
  type SimulationResult,
  simulateRuns,
} from './simulation.js';

interface SweepMode {
  readonly name: string;
  /** For this seed: of arrivals and of the times that are drawn. */
  readonly simulation: (seed: number) => SimulationOptions;
}

interface SimulatedSweepOptions {
  readonly name: string;
  /** Held against the others. */
  readonly candidate: string;
  readonly modes: readonly SweepMode[];
  readonly workloads: readonly {
    readonly name: string;
    readonly load: (seed: number) => Omit<SimulatedLoadOptions, 'arrival' | 'requestCountMax'>;
  }[];
  /** Of the saturation of the better static mode. */
  readonly rateFractions: readonly number[];
  readonly repetitionCount: number;
  readonly requestCount: number;
  /** How long a cluster has a point's rate before its first repetition. */
  readonly settleMs: number;
  /** Of every repetition, sent first and not measured. */
  readonly warmupMs: number;
  /** How much is open while saturation is measured, and with how many requests. */
  readonly saturation: { readonly concurrency: number; readonly requestCount: number };
  readonly seed: number;
  readonly tell?: (line: string) => void;
}

const unloadedRequestCount = 40;
const drainMs = 3_600_000;
const ttftFactor = 5;
const tpotFactor = 2;

export async function simulateSweep(options: SimulatedSweepOptions): Promise<SweepData> {
  const sweep = new SimulatedSweep(options);
  for (const workload of options.workloads) await sweep.measure(workload);
  return sweep.data();
}

type Workload = SimulatedSweepOptions['workloads'][number];
type Point = Pick<SweepRun, 'stage' | 'repetition' | 'ratePerSecond' | 'rateFraction'>;

class SimulatedSweep {
  readonly #options: SimulatedSweepOptions;
  readonly #listed: SweepRun[] = [];
  readonly #records = new Map<number, readonly LoadRecord[]>();

  constructor(options: SimulatedSweepOptions) {
    this.#options = options;
  }

  data(): SweepData {
    const { name, candidate, modes, seed } = this.#options;
    const targets = Object.fromEntries(modes.map((mode) => [mode.name, 'simulated']));
    const facts = {
      date: 'virtual',
      machine: 'virtual time',
      model: name,
      seed,
      targets,
      candidate,
      ttftFactor,
      tpotFactor,
    };
    return { header: { ...facts, runs: this.#listed }, records: this.#records };
  }

  async measure(workload: Workload): Promise<void> {
    const { modes, candidate, rateFractions } = this.#options;
    const statics = modes.filter(({ name }) => name !== candidate);
    let saturation = 0;
    for (const mode of statics) {
      const [, records = []] = await this.#runs(mode, workload, [at('unloaded', 0), at('saturation', 0)]);
      saturation = Math.max(saturation, summariseRun(records, null).requestsPerSecond);
    }
    for (const fraction of rateFractions) await this.#measurePoint(workload, saturation * fraction, fraction);
  }

  async #measurePoint(workload: Workload, ratePerSecond: number, rateFraction: number): Promise<void> {
    const { modes, candidate, repetitionCount } = this.#options;
    const repetitions = Array.from({ length: repetitionCount }, (_, repetition) => repetition);
    const pointsOf = (stage: Stage) => [
      at('warmup', 0, ratePerSecond, rateFraction),
      ...repetitions.map((repetition) => at(stage, repetition, ratePerSecond, rateFraction)),
    ];
    for (const mode of modes) await this.#runs(mode, workload, pointsOf('point'));
    const twin = modes.find(({ name }) => name !== candidate);
    if (twin !== undefined) await this.#runs(twin, workload, pointsOf('repeat'));
  }

  /** One after the other on one cluster. A twin's differs in what is drawn. */
  async #runs(
    mode: SweepMode,
    workload: Workload,
    points: readonly Point[],
  ): Promise<readonly (readonly LoadRecord[])[]> {
    const { seed } = this.#options;
    const isTwin = points.some(({ stage }) => stage === 'repeat');
    const results = await simulateRuns(
      mode.simulation(isTwin ? seed + 1 : seed),
      points.map((point) => this.#runOf(workload, point)),
    );
    for (const [place, result] of results.entries()) {
      const point = points[place];
      if (point === undefined) continue;
      this.#records.set(this.#listed.length, result.records);
      this.#listed.push({
        runIndex: this.#listed.length,
        workload: workload.name,
        mode: mode.name,
        coreShare: 0,
        shortenedCount: 0,
        ...point,
      });
      this.#options.tell?.(endLine(workload.name, mode.name, point, result));
    }
    return results.map(({ records }) => records);
  }

  #runOf(workload: Workload, { stage, repetition, ratePerSecond }: Point): SimulatedRun {
    const { seed: baseSeed, requestCount, warmupMs, settleMs, saturation, modes } = this.#options;
    const seed = baseSeed + 1000 * repetition + (stage === 'warmup' ? 500 : 0);
    const countIn = (ms: number) => Math.ceil(((ratePerSecond ?? 0) * ms) / 1000);
    const warmupRequestCount = stage === 'warmup' ? countIn(settleMs) : countIn(warmupMs);
    const measuredCounts: Readonly<Record<Stage, number>> = {
      warmup: 0,
      unloaded: unloadedRequestCount,
      saturation: saturation.requestCount,
      point: requestCount,
      repeat: requestCount,
    };
    const requestCountMax = warmupRequestCount + measuredCounts[stage];
    return {
      plan: simulatedPlan({
        ...workload.load(seed),
        arrival: { ratePerSecond: ratePerSecond ?? Number.POSITIVE_INFINITY, burstiness: 1 },
        requestCountMax,
      }),
      load: {
        warmupMs: 0,
        warmupRequestCount,
        drainMs,
        durationMs: Number.POSITIVE_INFINITY,
        concurrencyMax: concurrencyOf(stage, saturation.concurrency),
      },
      // the others, and the twin
      idleMs: ratePerSecond === null ? 0 : (modes.length * 1000 * requestCountMax) / ratePerSecond,
    };
  }
}

function at(
  stage: Stage,
  repetition: number,
  ratePerSecond: number | null = null,
  rateFraction: number | null = null,
): Point {
  return { stage, repetition, ratePerSecond, rateFraction };
}

function concurrencyOf(stage: Stage, saturationConcurrency: number): number {
  if (stage === 'unloaded') return 1;
  return stage === 'saturation' ? saturationConcurrency : Number.POSITIVE_INFINITY;
}

function endLine(
  workload: string,
  mode: string,
  { stage, ratePerSecond }: Point,
  { records }: SimulationResult,
): string {
  const { requestsPerSecond, ttftMs, tpotMs } = summariseRun(records, null);
  const what = ratePerSecond === null ? stage : `${ratePerSecond.toFixed(2)}/s`;
  const ms = (value: number) => value.toFixed(2);
  return `${workload} ${what} ${mode}: ${requestsPerSecond.toFixed(2)} req/s, TTFT p50 ${ms(ttftMs.p50)} p99 ${ms(ttftMs.p99)}, TPOT p50 ${ms(tpotMs.p50)} p99 ${ms(tpotMs.p99)} ms`;
}
