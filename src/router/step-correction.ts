/** Keeps the step cost of one kind of worker true while they run: four factors on the parts of the measured
 *  formula. Used by worker-costs.ts.
 *    base      what a step takes whatever it holds     rows     what further rows add
 *    decode    sampling, and keys that decode reads     pairs    keys that prompts attend to */
import { at } from '../base/assert.js';
import { FactorFilter } from './factor-filter.js';
import { rowsMs, type StepCost } from './step-cost.js';
import type { StepWork } from './step-work.js';

/** Of a profile that fits this worker. */
const measured = { partCount: 4, doubt: 0.3, kinship: 0.5, scatter: 0.15, factorMin: 0.3, factorMax: 3 };
/** Of a guess: everything may be wrong by orders, and mostly together. */
const guessed = { partCount: 4, doubt: 1, kinship: 0.8, scatter: 0.25, factorMin: 0.02, factorMax: 50 };

export class StepCorrection {
  #base: StepCost;
  #filter: FactorFilter;
  readonly #origin: 'profile' | 'guess';
  readonly #parts = new Float64Array(4);
  #isScaled = false;

  constructor(base: StepCost, origin: 'profile' | 'guess') {
    this.#base = base;
    this.#origin = origin;
    this.#filter = new FactorFilter(origin === 'profile' ? measured : guessed);
  }

  /** With what it has learned. */
  copy(): StepCorrection {
    const copy = new StepCorrection(this.#base, this.#origin);
    copy.#filter = this.#filter.copy();
    copy.#isScaled = this.#isScaled;
    return copy;
  }

  /** Share by which the corrected formula is off its origin: the largest of |factor − 1|. */
  get drift(): number {
    return Math.max(...this.#filter.factors.map((factor) => Math.abs(factor - 1)));
  }

  predictMs(work: StepWork): number {
    return this.#filter.predict(this.#split(work));
  }

  observe(work: StepWork, ms: number): void {
    if (this.#origin === 'guess' && !this.#isScaled) this.#scale(ms / Math.max(1e-6, this.predictMs(work)));
    this.#filter.observe(this.#split(work), ms);
  }

  /** The formula as it is now. */
  get cost(): StepCost {
    const [base = 1, rows = 1, decode = 1, pairs = 1] = this.#filter.factors;
    const firstMs = at(this.#base.rowKnots, 0).ms;
    return {
      rowKnots: this.#base.rowKnots.map(({ rowCount, ms }) => ({
        rowCount,
        ms: firstMs * base + (ms - firstMs) * rows,
      })),
      msPerSampledRow: this.#base.msPerSampledRow * decode,
      msPerDecodeKvToken: this.#base.msPerDecodeKvToken * decode,
      msPerPrefillPair: this.#base.msPerPrefillPair * pairs,
    };
  }

  /** A guess knows no device: the first step says how fast this kind is, roughly. */
  #scale(factor: number): void {
    this.#isScaled = true;
    const { rowKnots, msPerSampledRow, msPerDecodeKvToken, msPerPrefillPair } = this.#base;
    this.#base = {
      rowKnots: rowKnots.map(({ rowCount, ms }) => ({ rowCount, ms: ms * factor })),
      msPerSampledRow: msPerSampledRow * factor,
      msPerDecodeKvToken: msPerDecodeKvToken * factor,
      msPerPrefillPair: msPerPrefillPair * factor,
    };
  }

  #split(work: StepWork): Float64Array {
    const firstMs = at(this.#base.rowKnots, 0).ms;
    this.#parts[0] = firstMs;
    this.#parts[1] = rowsMs(this.#base.rowKnots, work.decodeCount + work.prefillTokenCount) - firstMs;
    this.#parts[2] =
      work.decodeCount * this.#base.msPerSampledRow + work.decodeKvTokenCount * this.#base.msPerDecodeKvToken;
    this.#parts[3] = work.prefillPairCount * this.#base.msPerPrefillPair;
    return this.#parts;
  }
}
