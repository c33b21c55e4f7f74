/** Rates × workloads × strategies on virtual time, with the load generator's own rules: targets from unloaded runs, rates from saturation,
 *  paired arrivals, the same summary. Used by scripts/simulate-sweep.mjs.
 *  Invariant: at one point and repetition every strategy gets the same requests at the same times. */
import type { RequestRecord } from '../bench/request-record.js';
import { summariseRun } from '../bench/summary.js';
import type { Stage, SweepData, SweepRun } from '../bench/sweep-file.js';
import { type LoadOptions, simulatedPlan } from './simulated-load.js';
import { type SimulationOptions, type SimulationResult, simulate } from './simulation.js';

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
    readonly load: (seed: number) => Omit<LoadOptions, 'arrival' | 'requestCountMax'>;
  }[];
  /** Of the saturation of the better static mode. */
  readonly rateFractions: readonly number[];
  readonly repetitionCount: number;
  readonly requestCount: number;
  /** Sent first, at the same rate, and not measured: the router has to see requests, and time, before it changes an arrangement. */
  readonly warmup: { readonly requestCount: number; readonly ms: number };
  readonly saturationConcurrency: number;
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
  readonly #runs: SweepRun[] = [];
  readonly #records = new Map<number, readonly RequestRecord[]>();

  constructor(options: SimulatedSweepOptions) {
    this.#options = options;
  }

  data(): SweepData {
    const { name, candidate, modes, seed } = this.#options;
    const targets = Object.fromEntries(modes.map((mode) => [mode.name, 'simulated']));
    const facts = { date: 'virtual', machine: 'virtual time', model: name, seed, targets, candidate, ttftFactor, tpotFactor };
    return { header: { ...facts, runs: this.#runs }, records: this.#records };
  }

  async measure(workload: Workload): Promise<void> {
    const { modes, candidate, rateFractions, repetitionCount } = this.#options;
    const statics = modes.filter(({ name }) => name !== candidate);
    for (const mode of statics) await this.#run(mode, workload, at('unloaded', 0, null, null));
    let saturation = 0;
    for (const mode of statics) {
      const records = await this.#run(mode, workload, at('saturation', 0, null, null));
      saturation = Math.max(saturation, summariseRun(records, null).requestsPerSecond);
    }
    for (const fraction of rateFractions) {
      for (let repetition = 0; repetition < repetitionCount; repetition++) {
        for (const mode of modes) await this.#run(mode, workload, at('point', repetition, saturation * fraction, fraction));
      }
    }
  }

  async #run(mode: SweepMode, workload: Workload, point: Point): Promise<readonly RequestRecord[]> {
    const { seed: baseSeed, requestCount, warmup, saturationConcurrency } = this.#options;
    const { stage, repetition, ratePerSecond } = point;
    const warmupRequestCount = warmup.requestCount + Math.ceil(((ratePerSecond ?? 0) * warmup.ms) / 1000);
    const seed = baseSeed + 1000 * repetition;
    const result = await simulate(
      mode.simulation(seed),
      simulatedPlan({
        ...workload.load(seed),
        arrival: { ratePerSecond: ratePerSecond ?? Number.POSITIVE_INFINITY, burstiness: 1 },
        requestCountMax: warmupRequestCount + (stage === 'unloaded' ? unloadedRequestCount : requestCount),
      }),
      {
        ...{ warmupMs: 0, warmupRequestCount, drainMs, durationMs: Number.POSITIVE_INFINITY },
        concurrencyMax: concurrencyOf(stage, saturationConcurrency),
      },
    );
    this.#runs.push({
      ...{ runIndex: this.#runs.length, workload: workload.name, mode: mode.name, coreShare: 0, shortenedCount: 0 },
      ...point,
    });
    this.#records.set(this.#runs.length - 1, result.records);
    this.#options.tell?.(endLine(workload.name, mode.name, point, result));
    return result.records;
  }
}

function at(stage: Stage, repetition: number, ratePerSecond: number | null, rateFraction: number | null): Point {
  return { stage, repetition, ratePerSecond, rateFraction };
}

function concurrencyOf(stage: Stage, saturationConcurrency: number): number {
  if (stage === 'unloaded') return 1;
  return stage === 'saturation' ? saturationConcurrency : Number.POSITIVE_INFINITY;
}

function endLine(workload: string, mode: string, { stage, ratePerSecond }: Point, { records }: SimulationResult): string {
  const { requestsPerSecond, ttftMs, tpotMs } = summariseRun(records, null);
  const what = ratePerSecond === null ? stage : `${ratePerSecond.toFixed(2)}/s`;
  const ms = (value: number) => value.toFixed(2);
  return `${workload} ${what} ${mode}: ${requestsPerSecond.toFixed(2)} req/s, TTFT p50 ${ms(ttftMs.p50)} p99 ${ms(ttftMs.p99)}, TPOT p50 ${ms(tpotMs.p50)} p99 ${ms(tpotMs.p99)} ms`;
}
