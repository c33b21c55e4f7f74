/** How an engine is set up, what it calls back, and the plain numbers it shows. Read by engine/, worker/ and
 *  control/. */
import type { Clock } from '../base/clock.js';
import type { BlockId, RequestId } from '../base/ids.js';
import type { Device, Stream } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import type { Model } from '../model/model.js';
import type { StepSample, StepWork } from '../router/step-work.js';
import type { MaskSource } from './mask-source.js';

export interface EngineConfig {
  readonly device: Device;
  /** For this engine alone: its activations serve one stream. */
  readonly model: Model;
  readonly kv: { readonly blockTokenCount: number; readonly blockCount: number; readonly dtype: Dtype };
  /** Query tokens per step, prefill chunks included; at most the model's rowCountMax. */
  readonly tokenBudget: number;
  /** Most prompt tokens of one sequence per step. */
  readonly prefillChunkTokenCount: number;
  /** Most sequences (choices) with a batch slot in the batch. Lowered to tokenBudget and the model's logit
   *  rows where those are smaller. */
  readonly sequenceCountMax: number;
  readonly maxModelTokenCount: number;
  readonly prefixCaching: 'on' | 'off';
  /** Steps in flight. 2: the next step is launched before the last one's tokens are read. */
  readonly depth: 1 | 2;
  readonly clock: Clock;
  /** What steps take: with it they are paced by the deadlines of their requests. Absent: steps are as large
   *  as the budget allows. */
  readonly stepTimes?: StepTimeModel;
  /** Absent: requests with a grammar are refused. */
  readonly masks?: MaskSource;
}

/** A span of one prompt whose K and V a step computes (or that the prefix cache already held: then start..end
 *  was cached and is not computed; such a span comes once, before the first computed one). */
export interface PrefillChunk {
  readonly requestId: RequestId;
  readonly firstToken: number;
  readonly endToken: number;
  /** Block table of the whole prompt. */
  readonly blockIds: readonly BlockId[];
  readonly isLast: boolean;
}

export interface EngineHooks {
  /** Just before a hand-over request's first chunk is scheduled: the moment to reserve at the other side. */
  onPrefillStart?(requestId: RequestId, cachedTokenCount: number): void;
  /** While a step is being enqueued, after `layer`'s K and V of these chunks are in the cache (hand-over
   *  requests only). Work that waits for an event recorded on `stream` now sees them. */
  onLayer?(layer: number, chunks: readonly PrefillChunk[], stream: Stream): void;
  /** A step has ended: what it computed, and how long it kept the device busy. */
  onStep?(sample: StepSample): void;
}

export interface Reservation {
  /** Block table for prompt and growth. */
  readonly blockIds: readonly BlockId[];
  /** Blocks before this position hold valid K and V already and must not be written. A multiple of the
   *  block's token count. */
  readonly cachedTokenCount: number;
}

/** Plain numbers, cheap to make; counters run from the engine's start. */
export interface EngineSnapshot {
  readonly runningCount: number;
  /** Of the running ones, those past their prompt. */
  readonly decodingCount: number;
  readonly waitingCount: number;
  /** Hand-over requests whose prompt is done and whose blocks are held until release. */
  readonly heldCount: number;
  readonly reservedCount: number;
  /** Tokens that running and waiting sequences still have to compute before their next sampled token. */
  readonly queuedTokenCount: number;
  /** Tokens in the caches of running sequences. */
  readonly runningTokenCount: number;
  readonly sequenceCountMax: number;
  readonly blockTokenCount: number;
  readonly blockCount: number;
  readonly freeBlockCount: number;
  readonly ownedBlockCount: number;
  readonly cachedBlockCount: number;
  readonly stepsInFlightCount: number;
  readonly stepCount: number;
  /** From launch to commit of the last finished step. */
  readonly lastStepMs: number;
  readonly preemptionCount: number;
  readonly promptTokenCount: number;
  readonly generatedTokenCount: number;
  readonly prefixHitTokenCount: number;
  readonly prefixQueryTokenCount: number;
}

/** What a step is expected to take, kept true by what steps took. */
export interface StepTimeModel {
  predictMs(work: StepWork): number;
  observe(work: StepWork, ms: number): void;
}
