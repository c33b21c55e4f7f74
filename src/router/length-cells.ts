/** The posterior of one context over a row of cells (bins of output lengths, or groups of them), given its
 *  parent's expectation and its own counts. Used by length-shrinkage.ts, which fills the arrays.
 *
 *  The prior is a beta-Stacy process around the parent (Walker & Muliere, Annals of Statistics 25, 1997): the
 *  hazard of cell k, that a length which reached k ends there, is Beta(κ f_k, κ S_{k+1}), with f the parent's
 *  mass, S_k its probability of reaching k and κ how many observations the parent is worth. Without cut
 *  lengths that is a Dirichlet process; a cut length counts as "at risk" exactly where it was seen to go on:
 *
 *      h_k = (κ f_k + ended_k) / (κ S_k + atRisk_k)        S'_{k+1} = S'_k (1 - h_k)        f'_k = S'_k h_k
 *
 *  Invariant: the new masses sum to the parent's, 1. */

/** All weights in units of one observation; `exposure` is the part of their cell that those cut in it
 *  survived. The `From` arrays are sums over a cell and all later ones. */
export class Cells {
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
    const { parent, ended, cut, parentFrom, seenFrom, cellCount } = this;
    let parentSum = 0;
    let seenSum = 0;
    for (let cell = cellCount - 1; cell >= 0; cell--) {
      parentSum += parent[cell]!;
      seenSum += ended[cell]! + cut[cell]!;
      parentFrom[cell] = parentSum;
      seenFrom[cell] = seenSum;
    }
  }

  /** Fills `ratio` for a parent worth `strength` observations. With all(k) = κ S_k + everything seen in cell
   *  k or later, a cell without cuts has 1 - h_k = all(k+1) / all(k): the product telescopes, and only cells
   *  with cuts need the hazard itself. */
  rescale(strength: number): void {
    const { parent, ended, cut, ratio, cellCount } = this;
    let survivalPerWeight = 1 / (strength * this.parentFrom[0]! + this.seenFrom[0]!);
    for (let cell = 0; cell < cellCount; cell++) {
      const parentMass = parent[cell]!;
      let mass = survivalPerWeight * (strength * parentMass + ended[cell]!);
      if (cut[cell]! > 0) {
        const survival = survivalPerWeight * this.#weightFrom(cell, strength);
        const hazard = this.#hazard(cell, strength);
        mass = survival * hazard;
        survivalPerWeight = this.#perWeight(cell, strength, survival * (1 - hazard));
      }
      ratio[cell] = parentMass > 0 ? mass / parentMass : 0;
    }
  }

  /** Probability of ending in `target`, or of surviving `survivedShare` of it, for a parent worth `strength`
   *  observations. */
  likelihood(strength: number, target: number, isCensored: boolean, survivedShare: number): number {
    if (strength === Number.POSITIVE_INFINITY) {
      return isCensored
        ? this.parentFrom[target]! - survivedShare * this.parent[target]!
        : this.parent[target]!;
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
    // Nothing is expected beyond, so whoever reaches this cell ends in it: those cut in it have nowhere else
    // to go.
    if (this.parentFrom[cell + 1] === 0) return 1;
    const atRisk = this.#weightFrom(cell, strength) - this.cut[cell]! + this.exposure[cell]!;
    return atRisk > 0 ? Math.min(1, (strength * this.parent[cell]! + this.ended[cell]!) / atRisk) : 1;
  }

  #perWeight(cell: number, strength: number, survivalAfter: number): number {
    const weight = this.#weightFrom(cell + 1, strength);
    return weight > 0 ? survivalAfter / weight : 0;
  }
}
