/* How good a prediction was. Used by ../score-lengths.mjs and its test.
   Pinball loss: Koenker & Bassett 1978; mean over requests, in tokens. Coverage: share of requests in [q10,
   q90]. */

export function pinball(predicted, actual, fraction) {
  return actual >= predicted ? fraction * (actual - predicted) : (1 - fraction) * (predicted - actual);
}

/** Whether `actual` is in the central 80 % interval, in [0, 1]. Lengths are whole numbers, so the interval's
 *  ends carry probability:
    an end counts with the share of it that belongs inside (a randomised interval's expectation), so a right
    prediction scores 0.8.
    `cumulative(n)` = P(length ≤ n). */
export function insideShare(cumulative, actual, low = 0.1, high = 0.9) {
  const above = cumulative(actual);
  const below = cumulative(actual - 1);
  if (above - below <= 0) return above > low && above < high ? 1 : 0;
  return Math.max(0, Math.min(high, above) - Math.max(low, below)) / (above - below);
}

export class Score {
  #count = 0;
  #mae = 0;
  #pinball50 = 0;
  #pinball90 = 0;
  #covered = 0;

  add(prediction, actual) {
    this.#count++;
    this.#mae += Math.abs(prediction.point - actual);
    this.#pinball50 += pinball(prediction.quantile(0.5), actual, 0.5);
    this.#pinball90 += pinball(prediction.quantile(0.9), actual, 0.9);
    this.#covered += insideShare(prediction.cumulative, actual);
  }

  result() {
    const mean = (total) => (this.#count === 0 ? null : Number((total / this.#count).toFixed(4)));
    return {
      mae: mean(this.#mae),
      pinball50: mean(this.#pinball50),
      pinball90: mean(this.#pinball90),
      coverage80: mean(this.#covered),
    };
  }
}
