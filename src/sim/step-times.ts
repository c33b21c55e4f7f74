/** How long simulated steps take: drawn from steps that were measured, with their scatter. Used by
 *  timed-device.ts. A formula fitted here carries a measurement over to the work at hand: ms = formula(work)
 *  · measured / formula(measured), the measured step being one of the nearest, by chance. So what the formula
 *  gets wrong near the measurements is put right by them, and what the router believes (its own fit, of other
 *  terms) is nowhere in it. */
import { assert, at } from '../base/assert.js';
import type { Prng } from '../base/prng.js';
import { fitNonNegative, predict } from '../profile/least-squares.js';
import type { StepSample, StepWork } from '../router/step-work.js';

export interface StepTimes {
  /** Milliseconds that a step with this work takes this time. */
  draw(work: StepWork): number;
}

const neighbourCount = 8;
/** Where the time of a step may bend as its rows grow: from the weights' bytes to arithmetic. */
const rowHinges = [16, 64, 256, 1024] as const;
/** Places are known to a quarter; this is more than the largest. */
const placeCountMax = 128;

/** Fitted once for a profile, drawn from by every worker with its own random sequence. */
export class MeasuredSteps {
  readonly #weights: readonly number[];
  readonly #places: readonly (readonly number[])[];
  /** Measured over formula. */
  readonly #ratios: readonly number[];
  /** By place: ratios of the samples closest to it. */
  readonly #nearest = new Map<number, readonly number[]>();

  constructor(samples: readonly StepSample[]) {
    assert(samples.length > 0, 'no step was measured');
    this.#weights = fitNonNegative(
      samples.map((sample) => ({ features: featuresOf(sample), value: sample.ms })),
    );
    this.#places = samples.map((sample) => placeOf(sample).map((value) => value / 4));
    this.#ratios = samples.map((sample) => sample.ms / this.#formula(sample));
  }

  timesFor(prng: Prng): StepTimes {
    return { draw: (work) => this.#formula(work) * prng.pick(this.#near(work)) };
  }

  /** Milliseconds that steps with this work take on average. */
  meanMs(work: StepWork): number {
    const near = this.#near(work);
    return (this.#formula(work) * near.reduce((sum, ratio) => sum + ratio, 0)) / near.length;
  }

  #formula(work: StepWork): number {
    return predict(this.#weights, featuresOf(work));
  }

  #near(work: StepWork): readonly number[] {
    const place = placeOf(work);
    const key = place.reduce((sum, value) => sum * placeCountMax + Math.round(value), 0);
    const known = this.#nearest.get(key);
    if (known !== undefined) return known;
    const distances = this.#places.map((other, index) => {
      const distance = place.reduce((sum, value, i) => sum + (Math.round(value) / 4 - at(other, i)) ** 2, 0);
      return { index, distance };
    });
    distances.sort((a, b) => a.distance - b.distance || a.index - b.index);
    const near = distances.slice(0, neighbourCount).map(({ index }) => at(this.#ratios, index));
    this.#nearest.set(key, near);
    return near;
  }
}

/** What the time of a step grows with; each never makes it shorter. */
function featuresOf({
  decodeCount,
  decodeKvTokenCount,
  prefillTokenCount,
  prefillPairCount,
}: StepWork): number[] {
  const rowCount = decodeCount + prefillTokenCount;
  const beyond = rowHinges.map((hinge) => Math.max(0, rowCount - hinge));
  return [1, rowCount, ...beyond, decodeCount, decodeKvTokenCount, prefillPairCount];
}

/** In quarters of a doubling. Steps are alike when each of their numbers is, as a ratio; rows count most,
 *  since most of the time is theirs. */
function placeOf({
  decodeCount,
  decodeKvTokenCount,
  prefillTokenCount,
  prefillPairCount,
}: StepWork): number[] {
  return [
    4 * Math.log2(1 + decodeCount),
    4 * Math.log2(1 + prefillTokenCount),
    2 * Math.log2(1 + decodeKvTokenCount / 64),
    2 * Math.log2(1 + prefillPairCount / 1024),
  ];
}
