/** What each worker costs: its profile, or a guess where there is none, kept true by what steps and requests
 *  took. Used by control/coordinator. Workers of one kind (device, settings, profile) that are used alike
 *  learn together; a worker has a factor of its own only as far as it is beyond noise that it is slower or
 *  faster than they (deviations.ts). Used alike, since the formula errs in one way for prompts and in another
 *  for decodes. Who is used in another way takes along what it knew, unless others of its kind know better.
 *  Invariant: parametersOf always answers, and costs O(1) while nothing new was observed. */

import type { WorkerId } from '../base/ids.js';
import { percentile } from '../base/percentiles.js';
import type { CostParameters, ProfileFile } from './cost-parameters.js';
import { Deviations } from './deviations.js';
import { type Corrections, RequestCorrection, type RequestOutcomeTimes } from './request-correction.js';
import type { WorkerRole } from './snapshot.js';
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

/** Before anything is known: a step's shape (flat, then rising with the rows), which the first step that is
 *  reported scales. Messages and links are taken to be slow, so that nothing is handed over for a gain that
 *  only a guess promises. */
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
  /** Share by which steps of its kind are off what was measured beforehand. */
  readonly drift: number;
  /** By what its steps take longer than those of its kind; 1: nothing beyond noise. */
  readonly slowness: number;
  /** |predicted − real| / real of its last steps. */
  readonly stepError: { readonly count: number; readonly median: number; readonly p90: number };
  readonly corrections: Corrections;
  /** By what requests that were alone took longer than these costs say: SLOs are multiples of what they
   *  took. */
  readonly unloaded: UnloadedRatios;
}

/** Workers that cost the same, as far as nobody has shown otherwise: of one kind, and used alike. */
class KindCost {
  readonly origin: 'profile' | 'guess';
  /** Of all workers of its kind. */
  readonly unloaded: UnloadedTimes;
  readonly requests: RequestCorrection;
  /** Of steps: they tell what a worker's device takes, whatever it is asked. */
  readonly deviations = new Deviations<WorkerId>();
  readonly base: CostParameters;
  readonly #correction: StepCorrection;
  #step: StepCost | null = null;

  constructor(profile: ProfileFile | null, unloaded: UnloadedTimes, before: KindCost | null) {
    this.unloaded = unloaded;
    this.origin = profile === null ? 'guess' : 'profile';
    const { links, ...measured } = profile?.parameters ?? guessedParameters;
    // one worker alone has no link to measure
    this.base = { ...measured, links: links.length > 0 ? links : guessedParameters.links };
    this.#correction =
      before === null ? new StepCorrection(this.base.step, this.origin) : before.#correction.copy();
    this.requests = before?.requests.copy() ?? new RequestCorrection();
  }

  get drift(): number {
    return this.#correction.drift;
  }

  /** As it is now: the same object while nothing new was observed. */
  get step(): StepCost {
    this.#step ??= this.#correction.cost;
    return this.#step;
  }

  /** Of worker `id`. Returns by how much each step was off what had been expected of it. */
  observe(id: WorkerId, samples: readonly StepSample[]): readonly number[] {
    const own = this.deviations.factorOf(id);
    let [realMs, predictedMs] = [0, 0];
    const errors: number[] = [];
    for (const sample of samples) {
      if (!(sample.ms > 0)) continue;
      const expectedMs = this.#correction.predictMs(sample);
      errors.push(Math.abs((own * expectedMs) / sample.ms - 1));
      realMs += sample.ms;
      predictedMs += expectedMs;
      this.#correction.observe(sample, sample.ms / own);
    }
    // steps in a row resemble each other: they are one observation
    if (predictedMs > 0) this.deviations.observe(id, realMs / predictedMs);
    this.#step = null;
    return errors;
  }
}

class WorkerCost {
  readonly kind: KindCost;
  readonly profile: ProfileFile | null;
  readonly stepErrors: number[] = [];
  readonly #id: WorkerId;
  #parameters: {
    readonly step: StepCost;
    readonly slowness: number;
    readonly corrected: CostParameters;
  } | null = null;

  constructor(id: WorkerId, kind: KindCost, profile: ProfileFile | null) {
    this.#id = id;
    this.kind = kind;
    this.profile = profile;
  }

  get slowness(): number {
    return this.kind.deviations.factorOf(this.#id);
  }

  /** The same object while nothing new was observed. */
  parameters(shape: Partial<WorkerShape>): CostParameters {
    const [{ base, step }, slowness] = [this.kind, this.slowness];
    if (this.#parameters?.step !== step || this.#parameters.slowness !== slowness)
      this.#parameters = { step, slowness, corrected: { ...base, step: slower(step, slowness), ...shape } };
    return this.#parameters.corrected;
  }

  observe(samples: readonly StepSample[]): void {
    this.stepErrors.push(...this.kind.observe(this.#id, samples));
    this.stepErrors.splice(0, this.stepErrors.length - recentErrorCount);
  }
}

function slower(step: StepCost, by: number): StepCost {
  if (by === 1) return step;
  return {
    rowKnots: step.rowKnots.map(({ rowCount, ms }) => ({ rowCount, ms: ms * by })),
    msPerSampledRow: step.msPerSampledRow * by,
    msPerDecodeKvToken: step.msPerDecodeKvToken * by,
    msPerPrefillPair: step.msPerPrefillPair * by,
  };
}

/** Workers described alike learn together. */
interface Description {
  /** Its device, model and settings, as a name. */
  readonly kind: string;
  readonly use: WorkerRole;
}

/** Where a request's prompt is computed and where it decodes: one worker twice, or two. */
type Sides = readonly [prefill: WorkerId, decode: WorkerId];

export class WorkerCosts {
  readonly #costs = new Map<WorkerId, WorkerCost>();
  readonly #kinds = new Map<string, KindCost>();
  readonly #unloadedByKind = new Map<string, UnloadedTimes>();
  readonly #descriptions = new Map<WorkerId, Description>();

  /** Forgets what was learned of the worker. */
  use(id: WorkerId, profile: ProfileFile | null): void {
    this.#enter(id, profile, null);
  }

  describe(id: WorkerId, { kind, use }: Description): void {
    const known = this.#descriptions.get(id);
    if (known?.kind === kind && known.use === use) return;
    const { profile, kind: before } = this.#of(id);
    this.#descriptions.set(id, { kind, use });
    this.#enter(id, profile, known?.kind === kind ? before : null);
  }

  /** As its profile has it; null: it has none. */
  measuredStepOf(id: WorkerId): StepCost | null {
    return this.#of(id).profile?.parameters.step ?? null;
  }

  observe(id: WorkerId, samples: readonly StepSample[]): void {
    this.#of(id).observe(samples);
  }

  parametersOf(id: WorkerId, shape: Partial<WorkerShape> = {}): CostParameters {
    return this.#of(id).parameters(shape);
  }

  observeRequest([prefill, decode]: Sides, times: RequestOutcomeTimes): void {
    this.#of(prefill).kind.requests.observePrompt(times);
    this.#of(decode).kind.requests.observeSteps(times);
  }

  /** Those that the prediction of such a request holds. */
  correctionsFor([prefill, decode]: Sides): Corrections {
    return { ...this.correctionsOf(prefill), step: this.correctionsOf(decode).step };
  }

  correctionsOf(id: WorkerId): Corrections {
    return this.#of(id).kind.requests.corrections;
  }

  /** A request has had the system to itself: its times over what the costs say, null where they do not
   *  compare. */
  observeUnloaded(
    [prefill, decode]: Sides,
    { ttft, tpot }: { readonly ttft: number | null; readonly tpot: number | null },
  ): void {
    this.#of(prefill).kind.unloaded.observe({ ttft, tpot: null });
    this.#of(decode).kind.unloaded.observe({ ttft: null, tpot });
  }

  unloadedOf(id: WorkerId): UnloadedRatios {
    return this.#of(id).kind.unloaded.ratios;
  }

  /** For metrics and people. */
  statusOf(id: WorkerId): WorkerCostStatus {
    const { kind, slowness, stepErrors } = this.#of(id);
    const corrections = kind.requests.corrections;
    const sorted = [...stepErrors].sort((a, b) => a - b);
    const stepError = { count: sorted.length, median: percentile(sorted, 0.5), p90: percentile(sorted, 0.9) };
    return {
      id,
      origin: kind.origin,
      drift: kind.drift,
      slowness,
      stepError,
      corrections,
      unloaded: kind.unloaded.ratios,
    };
  }

  #of(id: WorkerId): WorkerCost {
    return this.#costs.get(id) ?? this.#enter(id, null, null);
  }

  /** Among its like. `before`: what is known of it if none of them knows anything. */
  #enter(id: WorkerId, profile: ProfileFile | null, before: KindCost | null): WorkerCost {
    // of whom nothing is known is like nobody
    const { kind = profile === null ? id : null, use = null } = this.#descriptions.get(id) ?? {};
    const kindName = JSON.stringify([profile?.key ?? null, profile?.parameters ?? null, kind]);
    const unloaded = this.#unloadedByKind.get(kindName) ?? new UnloadedTimes();
    this.#unloadedByKind.set(kindName, unloaded);
    const name = JSON.stringify([kindName, use]);
    const shared = this.#kinds.get(name) ?? new KindCost(profile, unloaded, before);
    this.#kinds.set(name, shared);
    this.#costs.get(id)?.kind.deviations.forget(id);
    const cost = new WorkerCost(id, shared, profile);
    this.#costs.set(id, cost);
    return cost;
  }
}
