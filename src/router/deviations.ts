/** By how much each worker is slower or faster than its kind: a factor of its own on what the kind is
 *  predicted to take. Used by worker-costs.ts, of steps.
 *
 *  Every worker's mean of ln(real ÷ predicted of its kind) is compared with the mean over all of them. Its
 *  prior is 0: the difference counts as far as it is more than its own noise (the positive part of James and
 *  Stein's rule, with two standard errors for one),
 *
 *      own = difference · max(0, 1 − (2 · standard error)² ÷ difference²)
 *
 *  and the standard error knows that observations in a row resemble each other. What a worker has shown ages
 *  with what any of its kind show, so one that is asked no more is taken for one of its kind again, and
 *  asked.
 *  Invariants: equal workers are held to differ in one case of twenty and then hardly; O(workers) an
 *  observation. */

/** Observations of one worker that are remembered: reports of its steps, one in 100 ms while it is busy. */
const memoryCount = 256;
const standardErrors = 2;
/** Until workers of the kind have shown their noise: a third, and alike in a row; it weighs as much as two
 *  observations. */
const [priorNoise, priorLikeness, priorWeight] = [0.3, 0.5, 2];
/** Beyond that many standard deviations an observation is cut, as in factor-filter.ts. */
const outlierDeviations = 3;

interface Evidence {
  weight: number;
  mean: number;
  /** Its latest observation less the mean before it; null: it has none. */
  lastError: number | null;
}

export class Deviations<Id> {
  readonly #evidence = new Map<Id, Evidence>();
  #all: { readonly count: number; readonly mean: number; readonly inverse: number } | null = null;
  /** Of errors, over all workers: weight, Σ error², Σ error · the one before it of that worker. */
  #noise = {
    weight: priorWeight,
    squares: priorWeight * priorNoise ** 2,
    products: priorWeight * priorLikeness * priorNoise ** 2,
  };

  /** `ratio`: real over predicted of the kind. */
  observe(id: Id, ratio: number): void {
    if (!(ratio > 0)) return;
    this.#all = null;
    this.#age();
    const evidence = this.#of(id);
    const reach = outlierDeviations * Math.sqrt(this.#noise.squares / this.#noise.weight);
    const error = Math.max(-reach, Math.min(reach, Math.log(ratio) - evidence.mean));
    evidence.weight++;
    evidence.mean += error / evidence.weight;
    if (evidence.lastError !== null) {
      this.#noise.weight++;
      this.#noise.squares += error * error;
      this.#noise.products += error * evidence.lastError;
    }
    evidence.lastError = error;
  }

  /** What the worker takes over what its kind takes; 1: nothing is known against it. O(1) while nothing new
   *  was observed. */
  factorOf(id: Id): number {
    const own = this.#evidence.get(id);
    this.#all ??= this.#sum();
    const { count, mean, inverse } = this.#all;
    if (own === undefined || own.weight < 1 || count < 2) return 1;
    const difference = own.mean - mean;
    // of own less the mean that it is part of
    const variance = this.#variance() * ((1 - 2 / count) / own.weight + inverse / count ** 2);
    const kept = 1 - (standardErrors ** 2 * variance) / difference ** 2;
    return kept > 0 ? Math.exp(kept * difference) : 1;
  }

  /** It is another worker now, or gone. */
  forget(id: Id): void {
    this.#evidence.delete(id);
    this.#all = null;
  }

  /** Over those that have shown anything of late: their mean, and Σ 1 / weight. */
  #sum() {
    const known = [...this.#evidence.values()].filter(({ weight }) => weight >= 1);
    const count = known.length;
    let [mean, inverse] = [0, 0];
    for (const each of known) {
      mean += each.mean / count;
      inverse += 1 / each.weight;
    }
    return { count, mean, inverse };
  }

  /** Of one observation, as far as a mean is concerned: as much larger as observations in a row are alike. */
  #variance(): number {
    const { weight, squares, products } = this.#noise;
    const likeness = Math.max(0, Math.min(0.95, products / squares));
    return ((squares / weight) * (1 + likeness)) / (1 - likeness);
  }

  /** One observation of many workers: each forgets as much as one in `memoryCount` of its own would make it
   *  forget. */
  #age(): void {
    const left = 1 - 1 / (memoryCount * Math.max(1, this.#evidence.size));
    for (const evidence of this.#evidence.values()) evidence.weight *= left;
    this.#noise.weight *= left;
    this.#noise.squares *= left;
    this.#noise.products *= left;
  }

  #of(id: Id): Evidence {
    const evidence = this.#evidence.get(id) ?? { weight: 0, mean: 0, lastError: null };
    this.#evidence.set(id, evidence);
    return evidence;
  }
}
