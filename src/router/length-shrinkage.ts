/** One step of the hierarchy: what a context's own counts say, shrunk towards what its parent expects. Used by length-predictor.ts.
 *
 *  The prior of a context is a beta-Stacy process around the parent's distribution (Walker & Muliere, Annals of Statistics 1997): the
 *  hazard of bin k, that a length which reached k ends there, is Beta(κ f_k, κ S_k), f and S the parent's mass and survival. Without cut
 *  lengths that is a Dirichlet process; a cut length only counts as "at risk" where it was seen to go on, so censoring is exact:
 *
 *      h_k = (κ f_k + ended_k) / (κ S_k + atRisk_k)        S'_{k+1} = S'_k (1 - h_k)
 *
 *  κ, how many observations the parent is worth, is not chosen but learned: a grid of values, weighted by how well each has predicted
 *  so far (Bayesian model averaging with a fixed share, so that the weights can turn). κ = ∞ says that the context knows nothing.
 *  Invariant: masses stay non-negative and sum to 1. */
import { binCount, shareUpTo } from './length-bins.js';
import type { LengthCounts, LengthObservation } from './length-counts.js';

const strengths = [0.5, 2, 8, 32, 128, 512, Number.POSITIVE_INFINITY] as const;
/** Share of the weights that starts anew with each observation: about one change of mind in a thousand requests. */
const freshShare = 1 / 1000;
/** Below this trust in the context its parent is taken as it is. */
const trustMin = 1e-3;

/** The bins a step looks at: each by itself, or in groups of about equal parent mass, within which the parent's shape is kept. */
export type Resolution = 'bins' | number;

/** What a step looks at: bins, or groups of them. All in units of one observation; `exposure` is the part of their cell that those cut
 *  in it survived. The `From` arrays are sums over a cell and all later ones. */
class Cells {
  readonly parent: Float64Array;
  readonly ended: Float64Array;
  readonly cut: Float64Array;
  readonly exposure: Float64Array;
  readonly parentFrom: Float64Array;
  readonly seenFrom: Float64Array;
  /** [cellCount]: what a cell's mass is multiplied by. */
  readonly ratio: Float64Array;

  constructor(readonly cellCount: number) {
    this.parent = new Float64Array(cellCount);
    this.ended = new Float64Array(cellCount);
    this.cut = new Float64Array(cellCount);
    this.exposure = new Float64Array(cellCount);
    this.parentFrom = new Float64Array(cellCount + 1);
    this.seenFrom = new Float64Array(cellCount + 1);
    this.ratio = new Float64Array(cellCount);
  }

  /** Backwards, so that the small numbers of the tail are summed first and nothing cancels. */
  accumulate(): void {
    for (let cell = this.cellCount - 1; cell >= 0; cell--) {
      this.parentFrom[cell] = this.parentFrom[cell + 1]! + this.parent[cell]!;
      this.seenFrom[cell] = this.seenFrom[cell + 1]! + this.ended[cell]! + this.cut[cell]!;
    }
  }

  /** Fills `ratio` for a parent worth `strength` observations. With all(k) = κ S_k + everything seen in cell k or later, a cell without
   *  cuts has 1 - h_k = all(k+1) / all(k): the product telescopes, and only cells with cuts need the hazard itself. */
  rescale(strength: number): void {
    let survivalPerWeight = 1 / (strength * this.parentFrom[0]! + this.seenFrom[0]!);
    for (let cell = 0; cell < this.cellCount; cell++) {
      const parent = this.parent[cell]!;
      const own = strength * parent + this.ended[cell]!;
      let mass = survivalPerWeight * own;
      if (this.cut[cell]! > 0) {
        const survival = survivalPerWeight * this.#weightFrom(cell, strength);
        const hazard = this.#hazard(cell, strength);
        mass = survival * hazard;
        survivalPerWeight = this.#perWeight(cell, strength, survival * (1 - hazard));
      }
      this.ratio[cell] = parent > 0 ? mass / parent : 0;
    }
  }

  /** Probability of ending in `target`, or of surviving `survivedShare` of it, for a parent worth `strength` observations. */
  likelihood(strength: number, target: number, isCensored: boolean, survivedShare: number): number {
    if (strength === Number.POSITIVE_INFINITY) {
      return isCensored ? this.parentFrom[target]! - survivedShare * this.parent[target]! : this.parent[target]!;
    }
    let survivalPerWeight = 1 / (strength * this.parentFrom[0]! + this.seenFrom[0]!);
    for (let cell = 0; cell < target; cell++) {
      if (this.cut[cell]! === 0) continue;
      const survival = survivalPerWeight * this.#weightFrom(cell, strength);
      survivalPerWeight = this.#perWeight(cell, strength, survival * (1 - this.#hazard(cell, strength)));
    }
    const survival = survivalPerWeight * this.#weightFrom(target, strength);
    const mass = survival * this.#hazard(target, strength);
    return isCensored ? survival - survivedShare * mass : mass;
  }

  #weightFrom(cell: number, strength: number): number {
    return strength * this.parentFrom[cell]! + this.seenFrom[cell]!;
  }

  #hazard(cell: number, strength: number): number {
    const atRisk = this.#weightFrom(cell, strength) - this.cut[cell]! + this.exposure[cell]!;
    return atRisk > 0 ? Math.min(1, (strength * this.parent[cell]! + this.ended[cell]!) / atRisk) : 1;
  }

  #perWeight(cell: number, strength: number, survivalAfter: number): number {
    const weight = this.#weightFrom(cell + 1, strength);
    return weight > 0 ? survivalAfter / weight : 0;
  }
}

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
    const trust = this.trust(counts.observationCount);
    if (trust < trustMin) return;
    this.#gather(mass, counts);
    this.#cells.rescale((counts.observationCount * (1 - trust)) / trust);
    for (let bin = 0; bin < binCount; bin++) mass[bin] = mass[bin]! * this.#cells.ratio[this.#cellOf[bin]!]!;
  }

  /** Weighs the strengths by how well each foresaw `observation`, in `bin`; `mass` is the parent's and stays as it is. */
  learn(mass: Float64Array, counts: LengthCounts, bin: number, observation: LengthObservation): void {
    if (counts.observationCount === 0) return;
    this.#gather(mass, counts);
    const survivedShare = observation.isCensored ? this.#survivedShare(mass, bin, observation.tokenCount) : 0;
    let total = 0;
    for (let i = 0; i < strengths.length; i++) {
      const likelihood = this.#cells.likelihood(strengths[i]!, this.#cellOf[bin]!, observation.isCensored, survivedShare);
      this.#likelihoods[i] = this.#weights[i]! * likelihood;
      total += this.#likelihoods[i]!;
    }
    if (!(total > 0)) return;
    for (let i = 0; i < strengths.length; i++) {
      this.#weights[i] = ((1 - freshShare) * this.#likelihoods[i]!) / total + freshShare / strengths.length;
    }
  }

  /** A bin belongs to the group that the middle of its mass falls into. */
  #gather(mass: Float64Array, counts: LengthCounts): void {
    const { parent, ended, cut, exposure, cellCount } = this.#cells;
    const scale = 1 / counts.unit;
    parent.fill(0);
    ended.fill(0);
    cut.fill(0);
    exposure.fill(0);
    let below = 0;
    for (let bin = 0; bin < binCount; bin++) {
      const own = mass[bin]!;
      const cell = this.#isGrouped ? Math.min(cellCount - 1, Math.floor(cellCount * (below + own / 2))) : bin;
      below += own;
      this.#cellOf[bin] = cell;
      ended[cell] = ended[cell]! + counts.ended[bin]! * scale;
      if (counts.cut[bin]! > 0) {
        cut[cell] = cut[cell]! + counts.cut[bin]! * scale;
        // So far in units of mass survived: within a cell, the parent's mass measures how much of it a cut length has behind it.
        exposure[cell] = exposure[cell]! + (counts.cut[bin]! * parent[cell]! + counts.cutExposure[bin]! * own) * scale;
      }
      parent[cell] = parent[cell]! + own;
    }
    for (let cell = 0; cell < cellCount; cell++) {
      if (cut[cell]! > 0) exposure[cell] = parent[cell]! > 0 ? Math.min(cut[cell]!, exposure[cell]! / parent[cell]!) : 0;
    }
    this.#cells.accumulate();
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
