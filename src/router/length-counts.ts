/** What was seen in one context (everything, a prompt-length class, one client …): ended and cut lengths per
 *  bin, older ones counting less. Used by the levels of length-predictor.ts. Adding is O(1): instead of
 *  shrinking what is there, new observations count more.
 *  Invariant: `observationCount` is the weight of all observations, in units of the newest. */
import { binCount, binOf, shareUpTo } from './length-bins.js';

/** What became of a request. Cut at max_tokens or aborted means: it would have been longer than
 *  `tokenCount`. */
export interface LengthObservation {
  readonly tokenCount: number;
  readonly isCensored: boolean;
}

/** Past this weight the counts are brought back to unit weight; far inside a double's range. */
const unitMax = 1e12;

export class LengthCounts {
  /** [binCount]: weight of observations that ended in a bin. */
  readonly ended = new Float64Array(binCount);
  /** [binCount]: weight of observations that were cut in a bin, having survived all earlier ones. */
  readonly cut = new Float64Array(binCount);
  /** [binCount]: the part of its bin that each cut observation survived, weighted: its exposure there. */
  readonly cutExposure = new Float64Array(binCount);
  /** Weight of the next observation. */
  unit = 1;
  readonly #growth: number;
  #total = 0;

  /** After `halfLifeCount` further observations one counts half. */
  constructor(halfLifeCount: number) {
    this.#growth = 2 ** (1 / halfLifeCount);
  }

  get observationCount(): number {
    return this.#total / this.unit;
  }

  add(observation: LengthObservation): void {
    this.unit *= this.#growth;
    if (this.unit > unitMax) this.#rescale();
    const bin = binOf(observation.tokenCount);
    this.#total += this.unit;
    if (observation.isCensored) {
      this.cut[bin] = (this.cut[bin] ?? 0) + this.unit;
      this.cutExposure[bin] =
        (this.cutExposure[bin] ?? 0) + this.unit * shareUpTo(bin, observation.tokenCount);
    } else {
      this.ended[bin] = (this.ended[bin] ?? 0) + this.unit;
    }
  }

  #rescale(): void {
    for (const weights of [this.ended, this.cut, this.cutExposure]) {
      for (let bin = 0; bin < binCount; bin++) weights[bin] = (weights[bin] ?? 0) / this.unit;
    }
    this.#total /= this.unit;
    this.unit = 1;
  }
}
