/** What is asked of an engine and what `generate` answers. Plain data. Read by engine/, worker/ and
 *  control/. */
import type { RequestId, TokenId } from '../base/ids.js';
import type { SamplingParams } from './sampling-params.js';
import type { FinishReason, TokenLogprob, TokenOutput } from './token-event.js';

/** By when the tokens of a request are due, given as durations, since no two processes share a clock. */
export interface TokenDeadlines {
  /** From now; negative when it is over. */
  readonly firstTokenInMs: number;
  /** What the first token was allowed in all. */
  readonly ttftMs: number;
  /** Per token after the first, on average. */
  readonly tpotMs: number;
  /** Since the first token was emitted; absent: there is none yet. */
  readonly sinceFirstTokenMs?: number;
}

export interface GenerationRequest {
  readonly id: RequestId;
  readonly promptIds: readonly TokenId[];
  readonly sampling: SamplingParams;
  /** Tokens each choice already has (resumed after a hand-over, a preempted or dead worker). Absent or empty:
   *  none yet. A choice whose tokens already end it (stop id, length) stays ended and emits nothing. */
  readonly outputs?: readonly (readonly TokenId[])[];
  /** Lower first, then arrival order. Default 0. */
  readonly priority?: number;
  /** Steps are paced by them. Absent: nothing is promised. */
  readonly deadlines?: TokenDeadlines;
  /** Requests share cached prefixes only with requests of the same salt. */
  readonly cacheSalt?: string;
}

export interface ChoiceResult {
  readonly tokens: readonly TokenOutput[];
  readonly finishReason: FinishReason;
}

export interface GenerationResult {
  readonly id: RequestId;
  readonly choices: readonly ChoiceResult[];
  readonly promptLogprobs: readonly TokenLogprob[] | null;
  readonly cachedTokenCount: number;
  /** From the call of `generate` to the first token of any choice. */
  readonly ttftMs: number;
  /** From the call of `generate` to the last token. */
  readonly e2elMs: number;
}
