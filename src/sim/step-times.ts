/** How long simulated steps take: drawn from steps that were measured, with their scatter. Used by timed-device.ts.
 *  A formula fitted here carries a measurement over to the work at hand: ms = formula(work) · measured / formula(measured), the measured
 *  step being one of the nearest, by chance. So what the formula gets wrong near the measurements is put right by them, and what the router
 *  believes (its own fit) is nowhere in it. */
import { assert, at } from '../base/assert.js';
import type { Prng } from '../base/prng.js';
import type { StepSample, StepWork } from '../router/step-work.js';

export interface StepTimes {
  /** Milliseconds that a step with this work takes this time. */
  draw(work: StepWork): number;
}

const neighbourCount = 8;
/** Where the time of a step may bend as its rows grow: from the weights' bytes to arithmetic. */
const rowHinges = [16, 64, 256, 1024] as const;

export class SampledStepTimes implements StepTimes {
  readonly #prng: Prng;
  readonly #weights: readonly number[];
  readonly #places: readonly (readonly number[])[];
  /** Measured over formula. */
  readonly #ratios: readonly number[];
  readonly #nearest = new Map<string, readonly number[]>();

  constructor(samples: readonly StepSample[], prng: Prng) {
    assert(samples.length > 0, 'no step was measured');
    this.#prng = prng;
    this.#weights = fitNonNegative(
      samples.map((sample) => featuresOf(sample).map((value) => value / sample.ms)),
      samples.map(() => 1),
    );
    this.#places = samples.map(placeOf);
    this.#ratios = samples.map((sample) => sample.ms / this.#formula(sample));
  }

  draw(work: StepWork): number {
    return this.#formula(work) * at(this.#ratios, this.#prng.pick(this.#near(work)));
  }

  #formula(work: StepWork): number {
    const features = featuresOf(work);
    return this.#weights.reduce((sum, weight, i) => sum + weight * at(features, i), 0);
  }

  #near(work: StepWork): readonly number[] {
    const place = placeOf(work).map((value) => Math.round(4 * value) / 4);
    const key = place.join();
    const known = this.#nearest.get(key);
    if (known !== undefined) return known;
    const distances = this.#places.map((other, index) => {
      return { index, distance: place.reduce((sum, value, i) => sum + (value - at(other, i)) ** 2, 0) };
    });
    distances.sort((a, b) => a.distance - b.distance || a.index - b.index);
    const near = distances.slice(0, neighbourCount).map(({ index }) => index);
    this.#nearest.set(key, near);
    return near;
  }
}

/** What the time of a step grows with; each never makes it shorter. */
function featuresOf(work: StepWork): number[] {
  const { decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount } = work;
  const rowCount = decodeCount + prefillTokenCount;
  const beyond = rowHinges.map((hinge) => Math.max(0, rowCount - hinge));
  return [1, rowCount, ...beyond, decodeCount, decodeKvTokenCount, prefillPairCount];
}

/** Steps are alike when each of their numbers is, as a ratio. Rows count most, since most of the time is theirs. */
function placeOf({ decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount }: StepWork): number[] {
  return [
    Math.log2(1 + decodeCount),
    Math.log2(1 + prefillTokenCount),
    0.5 * Math.log2(1 + decodeKvTokenCount / 64),
    0.5 * Math.log2(1 + prefillPairCount / 1024),
  ];
}

/** argmin |A·x − b|² with x ≥ 0, by coordinate descent; a: [rows][columns]. */
export function fitNonNegative(a: readonly (readonly number[])[], b: readonly number[]): readonly number[] {
  const columnCount = at(a, 0).length;
  const product = (left: (row: number) => number, right: (row: number) => number) =>
    a.reduce((sum, _, row) => sum + left(row) * right(row), 0);
  const column = (index: number) => (row: number) => at(at(a, row), index);
  const gram = Array.from({ length: columnCount }, (_, i) =>
    Array.from({ length: columnCount }, (_, j) => product(column(i), column(j))),
  );
  const moments = Array.from({ length: columnCount }, (_, i) => product(column(i), (row) => at(b, row)));
  const x = new Array<number>(columnCount).fill(0);
  for (let sweep = 0; sweep < 2000; sweep++) {
    for (let i = 0; i < columnCount; i++) {
      const row = at(gram, i);
      const diagonal = at(row, i);
      if (diagonal === 0) continue;
      const rest = row.reduce((sum, value, j) => (j === i ? sum : sum + value * at(x, j)), 0);
      x[i] = Math.max(0, (at(moments, i) - rest) / diagonal);
    }
  }
  return x;
}
