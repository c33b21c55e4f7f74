/** The measured time of a step as a formula: what profile/ fits and the cost model predicts with. Pure.
 *  ms = rows(decodeCount + prefillTokenCount) + decodeCount · msPerSampledRow + decodeKvTokenCount ·
 *  msPerDecodeKvToken
 *       + prefillPairCount · msPerPrefillPair
 *  rows() is piecewise linear: flat while the weights' bytes are the limit, then rising with the
 *  arithmetic. */
import { assert, at } from '../base/assert.js';
import type { StepWork } from './step-work.js';

interface RowKnot {
  readonly rowCount: number;
  readonly ms: number;
}

export interface StepCost {
  /** Ascending in rowCount, at least two, never falling in ms. Between them linear; beyond the last, its
   *  slope goes on. */
  readonly rowKnots: readonly RowKnot[];
  readonly msPerSampledRow: number;
  readonly msPerDecodeKvToken: number;
  readonly msPerPrefillPair: number;
}

/** Milliseconds that the step is expected to take. An empty step takes none. */
export function stepMs(cost: StepCost, work: StepWork): number {
  const rowCount = work.decodeCount + work.prefillTokenCount;
  if (rowCount === 0) return 0;
  return (
    rowsMs(cost.rowKnots, rowCount) +
    work.decodeCount * cost.msPerSampledRow +
    work.decodeKvTokenCount * cost.msPerDecodeKvToken +
    work.prefillPairCount * cost.msPerPrefillPair
  );
}

/** The part that depends on the rows alone. */
export function rowsMs(knots: readonly RowKnot[], rowCount: number): number {
  assert(knots.length >= 2, 'a step cost has at least two knots');
  let index = 1;
  while (index < knots.length - 1 && at(knots, index).rowCount < rowCount) index++;
  const left = at(knots, index - 1);
  const right = at(knots, index);
  const slope = (right.ms - left.ms) / (right.rowCount - left.rowCount);
  // below the first knot: not less than it
  return Math.max(left.ms, right.ms + slope * (rowCount - right.rowCount));
}
