/** Everything that is measured about one kind of worker and the ways between them: made by profile/,
 *  corrected by online-correction, read by the cost model. Plain data, as it lies in a profile file. */
import type { StepCost } from './step-cost.js';
import type { StepSample } from './step-work.js';

/** Moving bytes over one connector: latencyMs + bytes / bytesPerSecond. */
export interface LinkCost {
  readonly connector: string;
  readonly latencyMs: number;
  readonly bytesPerSecond: number;
}

/** What a request costs beside steps and bytes: messages, packing, the event loops in between.
 *  Milliseconds. */
export interface RequestCost {
  /** From its arrival at the gateway until the worker can schedule it. */
  readonly arrivalMs: number;
  /** From the end of a step until its token is at the gateway. */
  readonly tokenMs: number;
  /** Of a hand-over, its bytes apart: reserve, handle, resume. */
  readonly handOverMs: number;
  /** The part of it that grows with the prompt: block lists, the last layers' bytes. */
  readonly handOverMsPerToken: number;
}

export interface CostParameters {
  readonly step: StepCost;
  readonly links: readonly LinkCost[];
  readonly request: RequestCost;
  readonly kvBytesPerToken: number;
  /** Query tokens that a step may hold, and those of one prompt in it. */
  readonly tokenBudget: number;
  readonly prefillChunkTokenCount: number;
}

/** The five numbers that a person can read (design section 7); derived from CostParameters. */
export interface ReadableParameters {
  /** α: prefill, milliseconds per prompt token. */
  readonly prefillMsPerToken: number;
  /** β: decode, milliseconds per step at batch 1. */
  readonly decodeMsPerStep: number;
  /** The batch from which a decode step takes 1.5 β. */
  readonly batchThreshold: number;
  /** γ: what a prompt token computed in the same step adds to the step of those who decode, milliseconds. */
  readonly interferenceMsPerToken: number;
  /** Of the fastest connector; null: none was measured. */
  readonly linkGBPerSecond: number | null;
}

/** Which measurements fit which workers. */
export interface ProfileKey {
  /** As the driver or the CPU names it. */
  readonly deviceName: string;
  readonly threadCount: number;
  readonly modelName: string;
  readonly weightFormat: string;
  readonly kvDtype: string;
  /** On a GPU whose rows do not depend on the rest of the step: other products, other times. Absent
   *  everywhere else. */
  readonly batchInvariant?: 'on' | undefined;
  /** Of this file's format and of what is measured. */
  readonly version: 1;
}

export interface ProfileFile {
  readonly key: ProfileKey;
  readonly measuredAt: string;
  readonly parameters: CostParameters;
  readonly readable: ReadableParameters;
  /** |fitted − measured| / measured over the samples. */
  readonly fitError: { readonly median: number; readonly p90: number };
  /** Raw, with their scatter: sim/ draws from them. */
  readonly samples: readonly StepSample[];
  readonly linkSamples: readonly {
    readonly connector: string;
    readonly bytes: number;
    readonly ms: number;
  }[];
}
