/** Counts what a step computes, in the words of the cost model. Used by engine.ts, for every step. */
import type { StepWork } from '../router/step-work.js';
import { prefillPairCountOf } from '../router/step-work.js';
import type { StepPlan } from './step-plan.js';

/** A sequence with one row costs what a decoding one does, also when that row is the last of its prompt: it
 *  counts as one. */
export function stepWorkOf({ entries }: Pick<StepPlan, 'entries'>): StepWork {
  let decodeCount = 0;
  let decodeKvTokenCount = 0;
  let prefillTokenCount = 0;
  let prefillPairCount = 0;
  for (const { firstToken, endToken } of entries) {
    const tokenCount = endToken - firstToken;
    if (tokenCount === 1) {
      decodeCount++;
      decodeKvTokenCount += endToken;
    } else {
      prefillTokenCount += tokenCount;
      prefillPairCount += prefillPairCountOf(firstToken, tokenCount);
    }
  }
  return { decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount };
}
