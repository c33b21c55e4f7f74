/** What the server needs of the engine room. control/'s Gateway has this shape; server tests use a fake one.
 *  Invariant: every stream a handler opens is iterated to its end or cancelled. */
import type { RequestId, TokenId } from '../base/ids.js';
import type { SamplingParams } from '../engine/sampling-params.js';
import type { TokenEvent } from '../engine/token-event.js';

export interface RequestInput {
  readonly id: RequestId;
  readonly promptIds: readonly TokenId[];
  readonly sampling: SamplingParams;
  readonly priority?: number;
  readonly deadlineMs?: number;
  readonly cacheSalt?: string;
}

export interface RouteSummary {
  readonly path: 'collocated' | 'disaggregated';
  readonly workers: readonly string[];
}

/** Events of one request, ending after every choice has finished. Leaving the iteration early cancels the request everywhere. */
export interface GenerationStream extends AsyncIterable<TokenEvent> {
  cancel(): void;
  /** Ends one choice silently: its stop string was seen in the text. */
  stopChoice(choiceIndex: number): void;
  readonly route: Promise<RouteSummary>;
}

/** Plain numbers of one worker's engine, since it started. */
export interface WorkerLoad {
  readonly runningCount: number;
  readonly waitingCount: number;
  readonly blockCount: number;
  readonly freeBlockCount: number;
  readonly ownedBlockCount: number;
  readonly cachedBlockCount: number;
  readonly preemptionCount: number;
  readonly prefixQueryTokenCount: number;
  readonly prefixHitTokenCount: number;
}

export interface WorkerView {
  readonly id: string;
  readonly role: string;
  readonly state: string;
  /** Absent until the worker has reported once. */
  readonly load?: WorkerLoad;
}

export interface Health {
  readonly status: 'loading' | 'ok' | 'stalled' | 'no_workers';
  readonly detail: string;
}

export interface Backend {
  submit(input: RequestInput): GenerationStream;
  health(): Health;
  workers(): readonly WorkerView[];
  /** Everything known of the workers, as JSON-able data for GET /workers. */
  describeWorkers(): readonly object[];
}
