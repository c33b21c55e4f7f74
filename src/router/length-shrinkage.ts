/** One step of the hierarchy: what a context's own counts say, shrunk towards what its parent expects. Used
 *  by length-levels.ts.
 *
 *  The posterior, given that the parent is worth κ observations, is in length-cells.ts. κ is not chosen but
 *  learned: a grid of values, weighted by how well each has predicted so far (Bayesian model averaging, with
 *  a fixed share that lets the weights turn; Herbster & Warmuth 1998). κ = ∞ says that the context knows
 *  nothing.
 *  Invariant: masses stay non-negative and sum to 1. */
import { binCount, binOf, shareUpTo } from './length-bins.js';
import { Cells } from './length-cells.js';
import type { LengthCounts, LengthObservation } from './length-counts.js';

const strengths = [0.5, 2, 8, 32, 128, 512, Number.POSITIVE_INFINITY] as const;
/** Share of the weights that starts anew with each observation: about one change of mind in a thousand
 *  requests. */
const freshShare = 1 / 1000;
/** Below this trust in the context its parent is taken as it is. */
const trustMin = 1e-3;

/** The bins a step looks at: each by itself, or in groups of about equal parent mass, within which the
 *  parent's shape is kept. */
export type Resolution = 'bins' | number;

export class Shrinkage {
  readonly #cells: Cells;
  readonly #weights = new Float64Array(strengths.length);
  readonly #likelihoods = new Float64Array(strengths.length);
  /** [binCount]: the cell of each bin. */
  readonly #cellOf = new Int32Array(binCount);
  readonly #isGrouped: boolean;

  /** `firstStrengthMax`: the most that the parent is held to be worth to begin with. */
  constructor(resolution: Resolution, firstStrengthMax: number) {
    const firstCount = strengths.filter((strength) => strength <= firstStrengthMax).length;
    this.#weights.fill(1 / firstCount, 0, firstCount);
    this.#isGrouped = resolution !== 'bins';
    this.#cells = new Cells(resolution === 'bins' ? binCount : resolution);
    for (let bin = 0; bin < binCount; bin++) this.#cellOf[bin] = bin;
  }

  /** How much a context with that many observations is trusted against its parent, in [0, 1]. */
  trust(observationCount: number): number {
    let trust = 0;
    for (let i = 0; i < strengths.length; i++) {
      trust += this.#weights[i]! * (observationCount / (observationCount + strengths[i]!));
    }
    return trust;
  }

  /** Turns `mass` [binCount], the parent's, into the context's, in place. */
  apply(mass: Float64Array, counts: LengthCounts): void {
    if (this.trust(counts.observationCount) < trustMin) return;
    this.#gather(mass, counts);
    this.#reshape(mass, counts);
  }

  /** From the cells as they were gathered. */
  #reshape(mass: Float64Array, counts: LengthCounts): void {
    const trust = this.trust(counts.observationCount);
    if (trust < trustMin) return;
    this.#cells.rescale((counts.observationCount * (1 - trust)) / trust);
    const cellOf = this.#cellOf;
    const { ratio } = this.#cells;
    for (let bin = 0; bin < binCount; bin++) mass[bin] = mass[bin]! * ratio[cellOf[bin]!]!;
  }

  /** Weighs the strengths by how well each foresaw the observations, then turns `mass`, the parent's, into
   *  the context's. */
  learn(mass: Float64Array, counts: LengthCounts, observations: readonly LengthObservation[]): void {
    if (counts.observationCount === 0) return;
    this.#gather(mass, counts);
    for (const observation of observations) this.#weigh(mass, observation);
    this.#reshape(mass, counts);
  }

  #weigh(mass: Float64Array, observation: LengthObservation): void {
    const bin = binOf(observation.tokenCount);
    const survivedShare = observation.isCensored ? this.#survivedShare(mass, bin, observation.tokenCount) : 0;
    let total = 0;
    for (let i = 0; i < strengths.length; i++) {
      const likelihood = this.#cells.likelihood(
        strengths[i]!,
        this.#cellOf[bin]!,
        observation.isCensored,
        survivedShare,
      );
      this.#likelihoods[i] = this.#weights[i]! * likelihood;
      total += this.#likelihoods[i]!;
    }
    if (!(total > 0)) return;
    for (let i = 0; i < strengths.length; i++) {
      this.#weights[i] = ((1 - freshShare) * this.#likelihoods[i]!) / total + freshShare / strengths.length;
    }
  }

  /** Fills the cells. A bin belongs to the group that the middle of its mass falls into. */
  #gather(mass: Float64Array, counts: LengthCounts): void {
    const { parent, ended, cut, exposure, cellCount } = this.#cells;
    const { ended: endedIn, cut: cutIn, cutExposure } = counts;
    const cellOf = this.#cellOf;
    const scale = 1 / counts.unit;
    cut.fill(0);
    exposure.fill(0);
    if (this.#isGrouped) this.#sortIntoGroups(mass);
    parent.fill(0);
    ended.fill(0);
    for (let bin = 0; bin < binCount; bin++) {
      const cell = cellOf[bin]!;
      const before = parent[cell]!;
      const own = mass[bin]!;
      parent[cell] = before + own;
      ended[cell] = ended[cell]! + endedIn[bin]! * scale;
      const cutHere = cutIn[bin]!;
      if (cutHere === 0) continue;
      cut[cell] = cut[cell]! + cutHere * scale;
      // So far in units of mass survived: within a cell, the parent's mass measures how much of it a cut
      // length has behind it.
      exposure[cell] = exposure[cell]! + (cutHere * before + cutExposure[bin]! * own) * scale;
    }
    for (let cell = 0; cell < cellCount; cell++) {
      if (cut[cell]! > 0)
        exposure[cell] = parent[cell]! > 0 ? Math.min(cut[cell]!, exposure[cell]! / parent[cell]!) : 0;
    }
    this.#cells.accumulate();
  }

  #sortIntoGroups(mass: Float64Array): void {
    const groupCount = this.#cells.cellCount;
    const cellOf = this.#cellOf;
    let group = 0;
    let below = 0;
    for (let bin = 0; bin < binCount; bin++) {
      const own = mass[bin]!;
      const middle = (below + own / 2) * groupCount;
      while (middle >= group + 1 && group < groupCount - 1) group++;
      below += own;
      cellOf[bin] = group;
    }
  }

  /** Share of its cell's mass that a length cut in `bin` has survived. */
  #survivedShare(mass: Float64Array, bin: number, tokenCount: number): number {
    const cell = this.#cellOf[bin]!;
    let below = mass[bin]! * shareUpTo(bin, tokenCount);
    for (let before = bin - 1; before >= 0 && this.#cellOf[before] === cell; before--) below += mass[before]!;
    const total = this.#cells.parent[cell]!;
    return total > 0 ? Math.min(1, below / total) : 0;
  }
}
