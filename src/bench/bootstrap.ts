/** Confidence bounds of ratios between two strategies measured on the same arrivals. Used by sweep-summary.ts.
 *  Resampled are repetitions, and within each blocks of consecutive requests, kept in pairs: requests behind one another in a queue are not
 *  independent, so resampling them one by one would show too much certainty. */
import { at } from '../base/assert.js';
import type { Prng } from '../base/prng.js';

export interface Bounds {
  readonly ratio: number;
  /** One-sided 95 % bounds: below and above which the ratio lies with probability 5 %. */
  readonly low95: number;
  readonly high95: number;
}

/** One value per request; both lists of a repetition in the order of the plan. */
export interface PairedRepetition {
  readonly candidate: Float64Array;
  readonly reference: Float64Array;
}

const resampleCount = 400;
const blockRequestCount = 20;

export function bootstrapRatio(
  repetitions: readonly PairedRepetition[],
  statistic: (values: Float64Array) => number,
  prng: Prng,
): Bounds {
  const ratioOf = (sample: PairedRepetition) => ratio(statistic(sample.candidate), statistic(sample.reference));
  const ratios = new Float64Array(resampleCount).map(() => ratioOf(resample(repetitions, prng))).sort();
  return {
    ratio: ratioOf(join(repetitions.map((repetition) => ({ repetition, start: 0, count: repetition.candidate.length })))),
    low95: at(ratios, Math.floor(0.05 * (resampleCount - 1))),
    high95: at(ratios, Math.ceil(0.95 * (resampleCount - 1))),
  };
}

/** Of two things that are both unmeasurable (nothing good, or infinitely late), neither is worse. */
export function ratio(candidate: number, reference: number): number {
  if (candidate === reference) return 1;
  return reference === Number.POSITIVE_INFINITY ? 0 : candidate / reference;
}

/** Consecutive requests of one repetition. */
interface Block {
  readonly repetition: PairedRepetition;
  readonly start: number;
  readonly count: number;
}

function resample(repetitions: readonly PairedRepetition[], prng: Prng): PairedRepetition {
  const blocks: Block[] = [];
  for (let i = 0; i < repetitions.length; i++) {
    const repetition = prng.pick(repetitions);
    const count = Math.min(blockRequestCount, repetition.candidate.length);
    const last = repetition.candidate.length - count;
    for (let drawn = 0; drawn < repetition.candidate.length; drawn += count) {
      blocks.push({ repetition, start: prng.integer(0, last), count });
    }
  }
  return join(blocks);
}

function join(blocks: readonly Block[]): PairedRepetition {
  const valueCount = blocks.reduce((sum, { count }) => sum + count, 0);
  const [candidate, reference] = [new Float64Array(valueCount), new Float64Array(valueCount)];
  let offset = 0;
  for (const { repetition, start, count } of blocks) {
    candidate.set(repetition.candidate.subarray(start, start + count), offset);
    reference.set(repetition.reference.subarray(start, start + count), offset);
    offset += count;
  }
  return { candidate, reference };
}

/** As base/percentiles, for values of which some may be infinite. */
export function percentileOf(values: Float64Array, fraction: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = values.slice().sort();
  const position = fraction * (sorted.length - 1);
  const low = at(sorted, Math.floor(position));
  const high = at(sorted, Math.ceil(position));
  return high === low ? low : low + (high - low) * (position - Math.floor(position));
}
