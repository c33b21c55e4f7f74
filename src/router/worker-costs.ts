/** What each worker costs: its profile, or a guess where there is none, kept true by what its steps took. Used by control/coordinator.
 *  Invariant: parametersOf always answers, and costs O(1) while nothing new was observed. */

import type { WorkerId } from '../base/ids.js';
import { percentile } from '../base/percentiles.js';
import type { CostParameters, ProfileFile } from './cost-parameters.js';
import { type Corrections, RequestCorrection, type RequestOutcomeTimes } from './request-correction.js';
import { StepCorrection } from './step-correction.js';
import type { StepCost } from './step-cost.js';
import type { StepSample } from './step-work.js';
import { type UnloadedRatios, UnloadedTimes } from './unloaded-ratios.js';

/** What is known of a worker without measuring it. */
export interface WorkerShape {
  readonly tokenBudget: number;
  readonly prefillChunkTokenCount: number;
  readonly kvBytesPerToken: number;
}

/** Before anything is known: a step's shape (flat, then rising with the rows), which the first step that is reported scales. Messages and
 *  links are taken to be slow, so that nothing is handed over for a gain that only a guess promises. */
export const guessedParameters: CostParameters = {
  step: {
    rowKnots: [
      { rowCount: 1, ms: 1 },
      { rowCount: 16, ms: 2 },
      { rowCount: 512, ms: 40 },
    ],
    msPerSampledRow: 0.02,
    msPerDecodeKvToken: 1e-4,
    msPerPrefillPair: 1e-6,
  },
  links: [{ connector: 'unknown', latencyMs: 1, bytesPerSecond: 1e9 }],
  request: { arrivalMs: 1, tokenMs: 0.5, handOverMs: 3, handOverMsPerToken: 0 },
  kvBytesPerToken: 65_536,
  tokenBudget: 512,
  prefillChunkTokenCount: 512,
};

/** Errors of the last steps, for the drift metric. */
const recentErrorCount = 256;

/** How well a worker's costs are known. */
export interface WorkerCostStatus {
  readonly id: WorkerId;
  readonly origin: 'profile' | 'guess';
  /** Share by which steps are off what was measured beforehand. */
  readonly drift: number;
  /** |predicted − real| / real of its last steps. */
  readonly stepError: { readonly count: number; readonly median: number; readonly p90: number };
  readonly corrections: Corrections;
  /** By what requests that were alone took longer than these costs say: limits are multiples of what they took. */
  readonly unloaded: UnloadedRatios;
}

class WorkerCost {
  readonly origin: 'profile' | 'guess';
  readonly unloaded: UnloadedTimes;
  readonly #base: CostParameters;
  readonly #correction: StepCorrection;
  readonly requests = new RequestCorrection();
  readonly #errors: number[] = [];
  #current: CostParameters | null = null;

  /** `unloaded`: of all workers of its kind. */
  constructor(profile: ProfileFile | null, unloaded: UnloadedTimes) {
    this.unloaded = unloaded;
    this.origin = profile === null ? 'guess' : 'profile';
    const { links, ...measured } = profile?.parameters ?? guessedParameters;
    this.#base = { ...measured, links: links.length > 0 ? links : guessedParameters.links }; // one worker alone has no link to measure
    this.#correction = new StepCorrection(this.#base.step, this.origin);
  }

  /** As profiled; null: nothing was measured. */
  get measuredStep(): StepCost | null {
    return this.origin === 'profile' ? this.#base.step : null;
  }

  get drift(): number {
    return this.#correction.drift;
  }

  get stepErrors(): readonly number[] {
    return this.#errors;
  }

  parameters(shape: Partial<WorkerShape>): CostParameters {
    this.#current ??= { ...this.#base, step: this.#correction.cost, ...shape };
    return this.#current;
  }

  observe(samples: readonly StepSample[]): void {
    for (const sample of samples) {
      if (!(sample.ms > 0)) continue;
      this.#errors.push(Math.abs(this.#correction.predictMs(sample) / sample.ms - 1));
      if (this.#errors.length > recentErrorCount) this.#errors.shift();
      this.#correction.observe(sample, sample.ms);
    }
    this.#current = null;
  }
}

/** Where a request's prompt is computed and where it decodes: one worker twice, or two. */
type Sides = readonly [prefill: WorkerId, decode: WorkerId];

export class WorkerCosts {
  readonly #costs = new Map<WorkerId, WorkerCost>();
  readonly #unloadedByKind = new Map<string, UnloadedTimes>();

  /** Forgets what was learned of the worker. */
  use(id: WorkerId, profile: ProfileFile | null): void {
    this.#costs.set(id, this.#make(profile));
  }

  /** As its profile has it; null: it has none. */
  measuredStepOf(id: WorkerId): StepCost | null {
    return this.#of(id).measuredStep;
  }

  observe(id: WorkerId, samples: readonly StepSample[]): void {
    this.#of(id).observe(samples);
  }

  parametersOf(id: WorkerId, shape: Partial<WorkerShape> = {}): CostParameters {
    return this.#of(id).parameters(shape);
  }

  observeRequest([prefill, decode]: Sides, times: RequestOutcomeTimes): void {
    this.#of(prefill).requests.observePrompt(times);
    this.#of(decode).requests.observeSteps(times);
  }

  /** Those that the prediction of such a request holds. */
  correctionsFor([prefill, decode]: Sides): Corrections {
    return { ...this.correctionsOf(prefill), step: this.correctionsOf(decode).step };
  }

  correctionsOf(id: WorkerId): Corrections {
    return this.#of(id).requests.corrections;
  }

  /** A request has had the system to itself: its times over what the costs say, null where they do not compare. */
  observeUnloaded(
    [prefill, decode]: Sides,
    { ttft, tpot }: { readonly ttft: number | null; readonly tpot: number | null },
  ): void {
    this.#of(prefill).unloaded.observe({ ttft, tpot: null });
    this.#of(decode).unloaded.observe({ ttft: null, tpot });
  }

  unloadedOf(id: WorkerId): UnloadedRatios {
    return this.#of(id).unloaded.ratios;
  }

  /** For metrics and people. */
  statusOf(id: WorkerId): WorkerCostStatus {
    const { origin, drift, stepErrors, requests, unloaded } = this.#of(id);
    const sorted = [...stepErrors].sort((a, b) => a - b);
    const stepError = { count: sorted.length, median: percentile(sorted, 0.5), p90: percentile(sorted, 0.9) };
    return { id, origin, drift, stepError, corrections: requests.corrections, unloaded: unloaded.ratios };
  }

  #of(id: WorkerId): WorkerCost {
    const cost = this.#costs.get(id) ?? this.#make(null);
    this.#costs.set(id, cost);
    return cost;
  }

  /** Workers with one profile are of one kind: an idle system asks the first of them alone. */
  #make(profile: ProfileFile | null): WorkerCost {
    const kind = profile === null ? 'guess' : JSON.stringify(profile.key);
    const unloaded = this.#unloadedByKind.get(kind) ?? new UnloadedTimes();
    this.#unloadedByKind.set(kind, unloaded);
    return new WorkerCost(profile, unloaded);
  }
}
