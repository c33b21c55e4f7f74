/** How much KV the sequences of a worker will hold together when they are longest: prompt, what there is, and
 *  what is expected to come, as a quantile over all of them. Lengths are taken to be independent, so their
 *  sum is far less uncertain than its parts. Pure; used by control/decode-room.ts, which lets nobody in who
 *  does not fit, and by the choice of a worker (prediction.ts), which sees who would wait. */
import type { LengthDistribution } from './length-distribution.js';

export interface KvClaim {
  /** Tokens of its prompt that take blocks of their own. */
  readonly promptTokenCount: number;
  readonly choiceCount: number;
  /** Generated so far, over all choices. */
  readonly generatedTokenCount: number;
  readonly lengths: Pick<LengthDistribution, 'remainingMean' | 'mean' | 'quantile'>;
}

/** What one or many will hold when they are longest: mean and variance in tokens, so that those of many add
 *  up. */
export interface KvDemand {
  readonly tokenCount: number;
  readonly variance: number;
}

/** Nine times in ten the sequences need no more than admission has counted with. */
const deviations = 1.2816;
const fraction = 0.9;

/** `blockTokenCount` since half of each last block is lost on average. */
export function demandOf(claim: KvClaim, blockTokenCount: number): KvDemand {
  const { promptTokenCount, choiceCount, generatedTokenCount } = claim;
  const { tokenCount, variance } = growthOf(claim);
  return {
    tokenCount: promptTokenCount + generatedTokenCount + tokenCount + (choiceCount * blockTokenCount) / 2,
    variance,
  };
}

/** Of what is yet to be generated. */
export function growthOf({
  choiceCount,
  generatedTokenCount,
  lengths,
}: Omit<KvClaim, 'promptTokenCount'>): KvDemand {
  const each = generatedTokenCount / choiceCount;
  const mean = generatedTokenCount === 0 ? lengths.mean : lengths.remainingMean(each);
  const high = lengths.quantile(fraction, generatedTokenCount === 0 ? -1 : each) - each;
  return {
    tokenCount: choiceCount * mean,
    variance: choiceCount * (Math.max(0, high - mean) / deviations) ** 2,
  };
}

/** Tokens that are enough nine times in ten. */
export function tokensFor({ tokenCount, variance }: KvDemand): number {
  return tokenCount + deviations * Math.sqrt(Math.max(0, variance));
}
