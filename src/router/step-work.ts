/** What one step of an engine computes, in the numbers its time depends on. Counted by engine/ for every
 *  step, measured by profile/, predicted by step-cost.ts, imitated by sim/. */

export interface StepWork {
  /** Rows of sequences that decode: one per choice. Each reads all weights' products, its K and V, and is
   *  sampled. */
  readonly decodeCount: number;
  /** Keys those rows attend to, together: K and V of this many tokens are read. */
  readonly decodeKvTokenCount: number;
  /** Prompt tokens computed, over all chunks of the step. */
  readonly prefillTokenCount: number;
  /** Keys those tokens attend to, together: Σ over chunks of n tokens from position p: n·p + n·(n + 1)/2. */
  readonly prefillPairCount: number;
}

/** A step that ran, and how long the device was busy with it (from its launch or the end of the step before,
 *  whichever was later). */
export interface StepSample extends StepWork {
  readonly ms: number;
}

/** Keys that `tokenCount` tokens from position `startPosition` on attend to, causally, together. */
export function prefillPairCountOf(startPosition: number, tokenCount: number): number {
  return tokenCount * startPosition + (tokenCount * (tokenCount + 1)) / 2;
}
