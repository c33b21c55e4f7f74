/** Token counts drawn from seeded distributions. Used by workload.ts. */
import type { Prng } from '../base/prng.js';

export interface TokenLengths {
  readonly draw: (prng: Prng) => number;
  readonly max: number;
}

/** Whole numbers from low to high, both included. */
export function uniformLength(low: number, high: number): TokenLengths {
  const from = Math.max(1, Math.round(low));
  const to = Math.max(from, Math.round(high));
  return { draw: (prng) => prng.integer(from, to), max: to };
}

/** As vLLM's --random-range-ratio: uniform in mean × (1 ± ratio). */
export function rangeLength(mean: number, ratio: number): TokenLengths {
  return uniformLength(mean * (1 - ratio), mean * (1 + ratio));
}

/** Answers of real services have a long right tail. σ of the logarithm is 0.8; what would be over 8 × the
 *  mean is cut there. */
export function lognormalLength(mean: number): TokenLengths {
  const sigma = 0.8;
  const mu = Math.log(mean) - (sigma * sigma) / 2;
  const max = Math.max(1, Math.round(8 * mean));
  return {
    draw: (prng) => Math.min(max, Math.max(1, Math.round(Math.exp(mu + sigma * prng.normal())))),
    max,
  };
}
