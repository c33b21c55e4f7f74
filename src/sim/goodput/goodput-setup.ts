/** What goodput is measured of: workers with a profile's times, and a workload. Used by goodput-reference.ts
 *  and goodput-point.ts; made by scripts/bench-goodput.mjs and tests. */
import type { TraceEntry } from '../../bench/trace.js';
import { parseWorkerSpecs, type WorkerSpec } from '../../control/worker-spec.js';
import type { ProfileFile } from '../../router/cost-parameters.js';
import type { Strategy } from '../../router/route.js';
import { defaultStepLimits } from '../../worker/step-limits.js';
import { timesFromProfiles } from '../profile-times.js';
import { type SimulatedLoadOptions, simulatedVocabCount } from '../simulated-load.js';
import type { SimulatedSettings, SimulationOptions } from '../simulation.js';
import { MeasuredSteps } from '../step-times.js';
import type { Knowledge } from './step-policies.js';

export interface GoodputWorkload {
  readonly name: string;
  /** Of a seed, without arrivals. */
  readonly load: (seed: number) => Omit<SimulatedLoadOptions, 'arrival' | 'requestCountMax'>;
}

export interface GoodputCluster {
  readonly profile: ProfileFile;
  readonly workers: readonly WorkerSpec[];
  /** With the times that its workers have in runs with this seed. */
  readonly simulation: (mode: GoodputMode, seed: number, contextTokenCount: number) => SimulationOptions;
  /** For policies that know everything. */
  readonly knowledge: Knowledge;
}

/** How the workers are run. */
export interface GoodputMode {
  readonly strategy: Strategy;
  /** off: steps take as many prompt tokens as the budget allows. */
  readonly pacing: 'on' | 'off';
}

const isGpu = ({ key }: ProfileFile) => key.threadCount === 0;
const settings: Omit<SimulatedSettings, 'maxModelTokenCount' | 'pacing'> = {
  blockTokenCount: 16,
  blockCount: 24_576,
  prefixCaching: 'off',
  depth: 2,
  vocabCount: simulatedVocabCount,
};

export function goodputCluster(profile: ProfileFile, workerCount: number): GoodputCluster {
  const steps = new MeasuredSteps(profile.samples);
  const timesOf = timesFromProfiles([profile]);
  const specs = Array.from({ length: workerCount }, (_, index) =>
    isGpu(profile) ? `any:cuda:${index}` : 'any:cpu',
  );
  const workers = parseWorkerSpecs(specs.join());
  const { tokenBudget, sequenceCountMax } = defaultStepLimits[isGpu(profile) ? 'cuda' : 'cpu'];
  return {
    profile,
    workers,
    simulation: ({ strategy, pacing }, seed, maxModelTokenCount) => ({
      workers,
      strategy,
      settings: { ...settings, pacing, maxModelTokenCount },
      timesOf: timesOf(seed),
      profileOf: () => profile,
    }),
    knowledge: { predictMs: (work) => steps.meanMs(work), tokenBudget, sequenceCountMax },
  };
}

const contextTokenCount = 4096;
/** Longer prompts of a trace lose their ends. */
const traceContextTokenCount = 32_768;

/** Prompts and answers as in the sweeps of real servers with such devices. */
export function namedWorkload(name: 'short' | 'long' | 'mixed', profile: ProfileFile): GoodputWorkload {
  const [outputTokenCount, outputShape] = isGpu(profile)
    ? ([128, 'range'] as const)
    : ([32, 'lognormal'] as const);
  const lengths = { inputTokenCount: 512, outputTokenCount, rangeRatio: 0, outputShape, lengthScale: 1 };
  const limits = { durationMs: Number.POSITIVE_INFINITY, contextTokenCount };
  return { name, load: (seed) => ({ workload: { name, seed, contentSeed: seed, ...lengths }, ...limits }) };
}

/** The trace's requests in its order; when they come is drawn. */
export function traceWorkload(name: string, trace: readonly TraceEntry[]): GoodputWorkload {
  const lengths = {
    inputTokenCount: 1,
    outputTokenCount: 1,
    rangeRatio: 0,
    outputShape: 'range',
    lengthScale: 1,
  } as const;
  const limits = { durationMs: Number.POSITIVE_INFINITY, contextTokenCount: traceContextTokenCount };
  return {
    name,
    load: (seed) => ({ workload: { name: 'trace', seed, contentSeed: seed, ...lengths, trace }, ...limits }),
  };
}
