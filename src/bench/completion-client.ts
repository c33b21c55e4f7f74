/** What the load generator needs of a server: one streamed completion, with the times at which its tokens
 *  came. */
import type { Outcome, PlannedRequest } from './load-record.js';

/** A request made ready before its time, so that nothing but sending is left to do then. */
export interface PreparedRequest {
  /** Sends now; never rejects. `signal` cuts it: the outcome is then 'unfinished'. */
  send(signal: AbortSignal): Promise<CompletionAnswer>;
}

export interface CompletionClient {
  prepare(request: PlannedRequest): PreparedRequest;
}

/** Times are those of the clock the client was made with. */
export interface CompletionAnswer {
  readonly outcome: Outcome;
  readonly sentMs: number;
  readonly endMs: number;
  /** Arrivals of chunks that carry tokens. */
  readonly chunkMs: readonly number[];
  /** What the server counted, else the chunks. */
  readonly outputTokenCount: number;
  /** What the server counted, if it tells. */
  readonly promptTokenCount?: number;
  readonly status?: number;
  readonly error?: string;
  readonly id?: string;
  readonly route?: string;
}
