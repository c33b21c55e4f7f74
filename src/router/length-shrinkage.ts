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
const trustMin = 1e-4;

/** The bins a step looks at: each by itself, or in groups of about equal parent mass, within which the parent's shape is kept. */
export type Resolution = 'bins' | number;

export class Shrinkage {
  readonly #groupCount: number;
  readonly #isGrouped: boolean;
  readonly #weights = new Float64Array(strengths.length).fill(1 / strengths.length);
  readonly #likelihoods = new Float64Array(strengths.length);
  readonly #groupOf = new Int32Array(binCount);
  readonly #parentMass: Float64Array;
  readonly #ended: Float64Array;
  readonly #atRisk: Float64Array;
  readonly #ratio: Float64Array;

  constructor(resolution: Resolution) {
    this.#isGrouped = resolution !== 'bins';
    this.#groupCount = resolution === 'bins' ? binCount : resolution;
    this.#parentMass = new Float64Array(this.#groupCount);
    this.#ended = new Float64Array(this.#groupCount);
    this.#atRisk = new Float64Array(this.#groupCount);
    this.#ratio = new Float64Array(this.#groupCount);
    if (!this.#isGrouped) for (let bin = 0; bin < binCount; bin++) this.#groupOf[bin] = bin;
  }

  /** How much a context with that many observations is trusted against its parent, in [0, 1]. */
  trust(observationCount: number): number {
    let trust = 0;
    for (let i = 0; i < strengths.length; i++) {
      trust += (this.#weights[i] ?? 0) * (observationCount / (observationCount + (strengths[i] ?? 0)));
    }
    return trust;
  }

  /** Turns `mass` [binCount], the parent's, into the context's, in place. */
  apply(mass: Float64Array, counts: LengthCounts): void {
    const observationCount = counts.observationCount;
    const trust = this.trust(observationCount);
    if (trust < trustMin) return;
    this.#gather(mass, counts);
    this.#scaleTo((observationCount * (1 - trust)) / trust);
    for (let bin = 0; bin < binCount; bin++) mass[bin] = (mass[bin] ?? 0) * (this.#ratio[this.#groupOf[bin] ?? 0] ?? 0);
  }

  /** Weighs the strengths by how well each foresaw `observation`; `mass` is the parent's and stays as it is. */
  learn(mass: Float64Array, counts: LengthCounts, bin: number, observation: LengthObservation): void {
    if (counts.observationCount === 0) return;
    this.#gather(mass, counts);
    const group = this.#groupOf[bin] ?? 0;
    const survivedShare = observation.isCensored ? this.#survivedShare(mass, bin, observation.tokenCount) : 0;
    let total = 0;
    for (let i = 0; i < strengths.length; i++) {
      const likelihood = this.#likelihood(strengths[i] ?? 0, group, observation.isCensored, survivedShare);
      this.#likelihoods[i] = (this.#weights[i] ?? 0) * likelihood;
      total += this.#likelihoods[i] ?? 0;
    }
    if (!(total > 0)) return;
    for (let i = 0; i < strengths.length; i++) {
      this.#weights[i] = ((1 - freshShare) * (this.#likelihoods[i] ?? 0)) / total + freshShare / strengths.length;
    }
  }

  /** Mass, ended and at-risk weights per group. */
  #gather(mass: Float64Array, counts: LengthCounts): void {
    if (this.#isGrouped) this.#group(mass);
    this.#parentMass.fill(0);
    this.#ended.fill(0);
    this.#atRisk.fill(0);
    const { ended, cut, cutExposure } = counts;
    for (let bin = 0; bin < binCount; bin++) {
      const group = this.#groupOf[bin] ?? 0;
      const before = this.#parentMass[group] ?? 0;
      const own = mass[bin] ?? 0;
      this.#parentMass[group] = before + own;
      this.#ended[group] = (this.#ended[group] ?? 0) + (ended[bin] ?? 0);
      this.#atRisk[group] = (this.#atRisk[group] ?? 0) + (cut[bin] ?? 0) * before + (cutExposure[bin] ?? 0) * own;
    }
    this.#sumAtRisk(counts);
  }

  /** At risk in a group = all that ended in it or later, all that were cut later, and the exposure of those cut in it. */
  #sumAtRisk(counts: LengthCounts): void {
    const scale = 1 / counts.unit;
    let later = 0;
    let bin = binCount - 1;
    for (let group = this.#groupCount - 1; group >= 0; group--) {
      let cutHere = 0;
      for (; bin >= 0 && this.#groupOf[bin] === group; bin--) cutHere += counts.cut[bin] ?? 0;
      const endedHere = (this.#ended[group] ?? 0) * scale;
      const mass = this.#parentMass[group] ?? 0;
      const exposure = mass > 0 ? ((this.#atRisk[group] ?? 0) * scale) / mass : 0;
      this.#ended[group] = endedHere;
      this.#atRisk[group] = later + endedHere + exposure;
      later += endedHere + cutHere * scale;
    }
  }

  /** A bin belongs to the group that the middle of its mass falls into. */
  #group(mass: Float64Array): void {
    let below = 0;
    for (let bin = 0; bin < binCount; bin++) {
      const own = mass[bin] ?? 0;
      this.#groupOf[bin] = Math.min(this.#groupCount - 1, Math.floor(this.#groupCount * (below + own / 2)));
      below += own;
    }
  }

  /** Fills the ratio of the context's mass to its parent's, per group. */
  #scaleTo(strength: number): void {
    let parentSurvival = 1;
    let survival = 1;
    for (let group = 0; group < this.#groupCount; group++) {
      const parent = this.#parentMass[group] ?? 0;
      const hazard = this.#hazard(strength, group, parentSurvival);
      parentSurvival = Math.max(0, parentSurvival - parent);
      const own = parentSurvival <= 1e-12 ? survival : survival * hazard;
      survival -= own;
      this.#ratio[group] = parent > 0 ? own / parent : 0;
    }
  }

  #hazard(strength: number, group: number, parentSurvival: number): number {
    const parent = this.#parentMass[group] ?? 0;
    if (strength === Number.POSITIVE_INFINITY) return parentSurvival > 0 ? Math.min(1, parent / parentSurvival) : 1;
    const atRisk = strength * parentSurvival + (this.#atRisk[group] ?? 0);
    return atRisk > 0 ? Math.min(1, (strength * parent + (this.#ended[group] ?? 0)) / atRisk) : 1;
  }

  /** Probability of ending in `group`, or of surviving `survivedShare` of it, were the parent worth `strength` observations. */
  #likelihood(strength: number, group: number, isCensored: boolean, survivedShare: number): number {
    let parentSurvival = 1;
    let survival = 1;
    for (let before = 0; before < group; before++) {
      survival *= 1 - this.#hazard(strength, before, parentSurvival);
      parentSurvival = Math.max(0, parentSurvival - (this.#parentMass[before] ?? 0));
    }
    const own = survival * this.#hazard(strength, group, parentSurvival);
    return isCensored ? survival - survivedShare * own : own;
  }

  /** Share of its group's mass that a length cut in `bin` has survived. */
  #survivedShare(mass: Float64Array, bin: number, tokenCount: number): number {
    const group = this.#groupOf[bin] ?? 0;
    let below = (mass[bin] ?? 0) * shareUpTo(bin, tokenCount);
    for (let before = bin - 1; before >= 0 && this.#groupOf[before] === group; before--) below += mass[before] ?? 0;
    const total = this.#parentMass[group] ?? 0;
    return total > 0 ? Math.min(1, below / total) : 0;
  }
}
