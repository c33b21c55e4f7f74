/** How much KV the sequences of a worker will hold together when they are longest: prompt, what there is, and what is expected to come, as a
 *  quantile over all of them. Lengths are taken to be independent, so their sum is far less uncertain than its parts. Pure; used by
 *  control/decode-room.ts. */
import type { LengthDistribution } from './length-distribution.js';

export interface KvClaim {
  /** Tokens of its prompt that take blocks of their own. */
  readonly promptTokenCount: number;
  readonly choiceCount: number;
  /** Generated so far, over all choices. */
  readonly generatedTokenCount: number;
  readonly lengths: Pick<LengthDistribution, 'remainingMean' | 'mean' | 'quantile'>;
}

/** Nine times in ten the sequences need no more than admission has counted with. */
const deviations = 1.2816;
const fraction = 0.9;

/** Tokens of KV; `blockTokenCount` since half of each last block is lost on average. */
export function kvTokensNeeded(claims: Iterable<KvClaim>, blockTokenCount: number): number {
  let [held, growth, variance] = [0, 0, 0];
  for (const { promptTokenCount, choiceCount, generatedTokenCount, lengths } of claims) {
    const each = generatedTokenCount / choiceCount;
    const mean = generatedTokenCount === 0 ? lengths.mean : lengths.remainingMean(each);
    const high = lengths.quantile(fraction, generatedTokenCount === 0 ? -1 : each) - each;
    held += promptTokenCount + generatedTokenCount + (choiceCount * blockTokenCount) / 2;
    growth += choiceCount * mean;
    variance += choiceCount * (Math.max(0, high - mean) / deviations) ** 2;
  }
  return held + growth + deviations * Math.sqrt(variance);
}
