/** When requests arrive: milliseconds since the start of the run, rising. Open loop: no arrival waits for an
 *  answer. Used by serve.ts. */
import { Prng } from '../base/prng.js';

interface ArrivalOptions {
  /** Requests per second; Infinity: all at once. */
  readonly ratePerSecond: number;
  /** Shape of the gamma-distributed gaps, as in vLLM's benchmark: 1 is Poisson, below 1 burstier, Infinity
   *  evenly spaced. */
  readonly burstiness: number;
  readonly seed: number;
}

/** The gaps have mean 1/rate whatever the burstiness. Same seed, other rate: the same pattern, stretched. */
export function* arrivals({
  ratePerSecond,
  burstiness,
  seed,
}: ArrivalOptions): Generator<number | 'asap', never, undefined> {
  const prng = new Prng(seed);
  const meanGapMs = 1000 / ratePerSecond;
  for (let at = 0; ; at += meanGapMs * unitGap(prng, burstiness))
    yield ratePerSecond === Number.POSITIVE_INFINITY ? 'asap' : at;
}

/** Mean 1, variance 1/shape. */
function unitGap(prng: Prng, shape: number): number {
  if (shape === Number.POSITIVE_INFINITY) return 1;
  return shape === 1 ? prng.exponential(1) : gamma(prng, shape) / shape;
}

/** Marsaglia and Tsang, "A simple method for generating gamma variables" (2000); shapes below 1 by their
 *  boost. */
export function gamma(prng: Prng, shape: number): number {
  if (shape < 1) return gamma(prng, shape + 1) * (1 - prng.uniform()) ** (1 / shape);
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = prng.normal();
    const v = (1 + c * x) ** 3;
    if (v <= 0) continue;
    if (Math.log(1 - prng.uniform()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
  }
}
