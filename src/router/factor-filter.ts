/** Learns by what factors the parts of a predicted time are wrong, from the times that were measured: time ≈
 *  Σ factor · part. Used for steps (step-correction.ts) and for requests (request-correction.ts). A Kalman
 *  filter whose factors walk slowly, which is recursive least squares that forgets; errors count relative to
 *  the prediction, outliers less.
 *  Invariants: factors stay within their bounds; O(parts²) an observation; the same observations give the
 *  same factors. */

interface FactorFilterOptions {
  readonly partCount: number;
  /** How far from 1 a factor is held to be at first (standard deviation). */
  readonly doubt: number;
  /** How far all of them are off together rather than each by itself, 0 to 1: a first observation of one part
   *  then tells of the others. */
  readonly kinship: number;
  /** Scatter of one measurement, as a share of the prediction. */
  readonly scatter: number;
  readonly factorMin: number;
  readonly factorMax: number;
}

/** What a factor may change within one observation: a standard deviation of a tenth after a thousand. */
const walkPerObservation = 0.1 / Math.sqrt(1000);
/** Errors beyond this many standard deviations are cut: a pause of the machine says nothing about the
 *  model. */
const outlierDeviations = 3;

export class FactorFilter {
  readonly factors: Float64Array;
  /** [partCount, partCount] */
  readonly #covariance: Float64Array;
  readonly #options: FactorFilterOptions;
  readonly #gain: Float64Array;

  constructor(options: FactorFilterOptions) {
    const { partCount, doubt, kinship } = options;
    this.#options = options;
    this.factors = new Float64Array(partCount).fill(1);
    this.#gain = new Float64Array(partCount);
    this.#covariance = new Float64Array(partCount * partCount).fill(kinship * doubt * doubt);
    for (let i = 0; i < partCount; i++) this.#covariance[i * partCount + i] = doubt * doubt;
  }

  /** With what it has learned; from now on each learns by itself. */
  copy(): FactorFilter {
    const copy = new FactorFilter(this.#options);
    copy.factors.set(this.factors);
    copy.#covariance.set(this.#covariance);
    return copy;
  }

  /** Σ factor · part. */
  predict(parts: ArrayLike<number>): number {
    let total = 0;
    for (let i = 0; i < this.factors.length; i++) total += (this.factors[i] ?? 0) * (parts[i] ?? 0);
    return total;
  }

  /** `parts` as predicted with factors of 1; measured in the same unit. */
  observe(parts: ArrayLike<number>, measured: number): void {
    const predicted = this.predict(parts);
    if (!(predicted > 0) || !(measured > 0)) return;
    const { partCount, scatter } = this.#options;
    const [covariance, gain] = [this.#covariance, this.#gain];
    let spread = 0;
    for (let i = 0; i < partCount; i++) {
      let sum = 0;
      for (let j = 0; j < partCount; j++)
        sum += (covariance[i * partCount + j] ?? 0) * ((parts[j] ?? 0) / predicted);
      gain[i] = sum;
      spread += sum * ((parts[i] ?? 0) / predicted);
    }
    const variance = spread + scatter * scatter;
    const reach = outlierDeviations * Math.sqrt(variance);
    const error = Math.max(-reach, Math.min(reach, measured / predicted - 1));
    for (let i = 0; i < partCount; i++) {
      for (let j = 0; j < partCount; j++) {
        const index = i * partCount + j;
        covariance[index] = (covariance[index] ?? 0) - ((gain[i] ?? 0) * (gain[j] ?? 0)) / variance;
      }
    }
    for (let i = 0; i < partCount; i++) this.#move(i, ((gain[i] ?? 0) / variance) * error);
  }

  #move(index: number, change: number): void {
    const { partCount, factorMin, factorMax, doubt } = this.#options;
    this.factors[index] = Math.max(factorMin, Math.min(factorMax, (this.factors[index] ?? 1) + change));
    const own = index * partCount + index;
    const walk = walkPerObservation * (this.factors[index] ?? 1);
    this.#covariance[own] = Math.min(doubt * doubt, (this.#covariance[own] ?? 0) + walk * walk);
  }
}
