/** What is expected of one request's output length: made by length-predictor.ts, read by the router (decode
 *  time), by admission (KV growth at a quantile) and, while the request runs, by preemption (what is left,
 *  given what there is). Lengths are whole tokens; those of one bin are equally likely. Invariant: masses sum
 *  to 1, quantiles rise with their fraction. */
import { binCount, binOf, binStart, binWidth, shareUpTo } from './length-bins.js';

export class LengthDistribution {
  /** [binCount] */
  readonly #mass: Float64Array;
  /** [binCount + 1]: probability of reaching a bin's first length. */
  readonly #reaching = new Float64Array(binCount + 1);
  /** [binCount + 1]: expected tokens from a bin's first length on, times the probability of getting there. */
  readonly #meanFrom = new Float64Array(binCount + 1);
  /** No length is above it: what would be longer is cut there. */
  readonly #maxTokenCount: number;

  /** `mass` [binCount] sums to 1 and now belongs to the distribution. */
  constructor(mass: Float64Array, maxTokenCount: number = Number.POSITIVE_INFINITY) {
    this.#mass = mass;
    this.#maxTokenCount = maxTokenCount;
    for (let bin = binCount - 1; bin >= 0; bin--) {
      const own = mass[bin] ?? 0;
      this.#reaching[bin] = (this.#reaching[bin + 1] ?? 0) + own;
      this.#meanFrom[bin] = (this.#meanFrom[bin + 1] ?? 0) + own * this.#middle(bin);
    }
  }

  /** Expected length in tokens. */
  get mean(): number {
    return this.#meanFrom[0] ?? 0;
  }

  /** Probability that the output is longer than `tokenCount`. */
  survival(tokenCount: number): number {
    if (tokenCount < 0) return 1;
    if (tokenCount >= this.#maxTokenCount) return 0;
    const bin = binOf(tokenCount);
    return (this.#reaching[bin + 1] ?? 0) + (this.#mass[bin] ?? 0) * (1 - shareUpTo(bin, tokenCount));
  }

  /** The least length in tokens that is not exceeded with probability `fraction`, given that `generatedCount`
   *  tokens exist and the output goes on; without that, of the whole output. */
  quantile(fraction: number, generatedCount = -1): number {
    const left = this.survival(generatedCount);
    if (!(left > 0)) return Math.min(this.#maxTokenCount, Math.max(0, generatedCount));
    const target = left * (1 - fraction);
    // Bisection over bins: the last one that is reached with at least the target's probability.
    let low = 0;
    let high = binCount - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#reaching[middle] ?? 0) > target) low = middle;
      else high = middle - 1;
    }
    const own = this.#mass[low] ?? 0;
    const share = own > 0 ? ((this.#reaching[low] ?? 0) - target) / own : 0;
    // The small step back keeps a share that is a whole number of lengths, up to rounding, from costing one
    // more.
    const within = Math.max(0, Math.ceil(share * binWidth(low) - 1e-9) - 1);
    const length = binStart(low) + Math.min(within, binWidth(low) - 1);
    return Math.min(this.#maxTokenCount, Math.max(length, generatedCount + 1));
  }

  /** Expected further tokens, given that `generatedCount` exist and the output goes on. */
  remainingMean(generatedCount: number): number {
    const left = this.survival(generatedCount);
    if (!(left > 0)) return 0;
    const bin = binOf(generatedCount);
    const share = generatedCount < 0 ? 1 : 1 - shareUpTo(bin, generatedCount);
    const restMiddle = Math.min(
      this.#maxTokenCount,
      (Math.floor(generatedCount) + binStart(bin) + binWidth(bin)) / 2,
    );
    const here =
      generatedCount < 0
        ? (this.#mass[bin] ?? 0) * this.#middle(bin)
        : (this.#mass[bin] ?? 0) * share * restMiddle;
    return Math.max(0, ((this.#meanFrom[bin + 1] ?? 0) + here) / left - Math.max(0, generatedCount));
  }

  /** Mean length of a bin, cut at the limit. */
  #middle(bin: number): number {
    return Math.min(this.#maxTokenCount, binStart(bin) + (binWidth(bin) - 1) / 2);
  }
}
