/** How the tokens of a request are chosen. Plain data with every default made explicit; server/ and control/
 *  fill it in. */
import type { TokenId } from '../base/ids.js';

export interface SamplingParams {
  readonly temperature: number; // 0: greedy
  readonly topK: number; // 0: off
  readonly topP: number; // 1: off
  readonly minP: number; // 0: off
  readonly repetitionPenalty: number; // 1: off
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly logitBias: readonly (readonly [TokenId, number])[];
  /** All that may be drawn. Absent: the whole vocabulary. */
  readonly allowedTokenIds?: readonly TokenId[];
  /** What the text must be, as packGrammar of grammar/ writes it. Absent: anything. */
  readonly grammar?: string;
  /** Same seed and request: same tokens whatever the batch. Choice i draws from seed + i, a whole number
   *  below 2^53. */
  readonly seed: number;
  readonly choiceCount: number; // n
  readonly maxTokenCount: number;
  readonly minTokenCount: number;
  /** For benchmarks: each choice ends with reason 'stop' after this many tokens, at most maxTokenCount,
   *  whatever they are. Read where the engine ends a choice and nowhere else: a length known beforehand would
   *  make routing and admission look better than they are. */
  readonly forcedTokenCount?: number;
  /** End-of-sequence ids of the model; empty with ignore_eos. */
  readonly endTokenIds: readonly TokenId[];
  /** The request's own stop ids. */
  readonly stopTokenIds: readonly TokenId[];
  /** Log-probability of each token and this many alternatives; null: none. */
  readonly topLogprobCount: number | null;
  /** The same for prompt tokens; null: none. */
  readonly promptLogprobCount: number | null;
}

export const greedy: SamplingParams = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: [],
  seed: 0,
  choiceCount: 1,
  maxTokenCount: 16,
  minTokenCount: 0,
  endTokenIds: [],
  stopTokenIds: [],
  topLogprobCount: null,
  promptLogprobCount: null,
};
