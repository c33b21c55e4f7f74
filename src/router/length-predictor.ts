/** Predicts a request's output length before it is generated: online, Bayesian, a distribution. Used by the
 *  router (decode time) and by admission (KV growth). `observe` tells it how long an output became, also when
 *  it was cut; `predict` changes nothing. Both take O(1) time, memory is bounded, nothing is trained
 *  beforehand. Why it is built so: docs/architecture/length-predictor.md.
 *  Invariant: the same calls in the same order give the same distributions. */
import { binCount, binStart } from './length-bins.js';
import type { LengthObservation } from './length-counts.js';
import { LengthDistribution } from './length-distribution.js';
import {
  type ContextKey,
  type History,
  type KnownFacts,
  type LengthFacts,
  LengthLevel,
  levelOptions,
} from './length-levels.js';
import { RecentMap } from './recent-map.js';

export type { LengthFacts, LengthObservation };

const prefixCountMax = 16384;
const promptLengthCountMax = 4096;
/** Weight of the latest output in a history, once there are as many: conversations change their subject. */
const latestShareMin = 1 / 4;

/** What is expected before anything was seen: each octave up to 2,048 tokens is as likely as another, each
 *  beyond half its predecessor. */
const priorFlatTokenCount = 2048;

export class LengthPredictor {
  readonly #prior = priorMass();
  readonly #levels: readonly LengthLevel[];
  readonly #byPrefix = new RecentMap<ContextKey, History>(prefixCountMax);
  readonly #byPromptLength = new RecentMap<number, History>(promptLengthCountMax);

  constructor(options = levelOptions) {
    this.#levels = options.map((each) => new LengthLevel(each));
  }

  /** The distribution of the output's length, cut at the request's own limit. */
  predict(facts: LengthFacts): LengthDistribution {
    const known = this.#know(facts);
    const mass = this.#prior.slice();
    for (const level of this.#levels) {
      const counts = level.find(known);
      if (counts === undefined) continue;
      for (const shrinkage of level.shrinkages) shrinkage.apply(mass, counts);
    }
    return new LengthDistribution(mass, facts.maxTokenCount);
  }

  /** Learns from an output that ended, or was cut (`isCensored`), after `tokenCount` tokens. */
  observe(facts: LengthFacts, observation: LengthObservation): void {
    this.observeAll(facts, [observation]);
  }

  /** The same, from all choices of a request: none of them was known when the others were expected, so the
   *  levels are looked at once. */
  observeAll(facts: LengthFacts, observations: readonly LengthObservation[]): void {
    const known = this.#know(facts);
    const mass = this.#prior.slice();
    for (const level of this.#levels) {
      const counts = level.touch(known);
      if (counts === undefined) continue;
      for (const shrinkage of level.shrinkages) shrinkage.learn(mass, counts, observations);
      for (const observation of observations) counts.add(observation);
    }
    this.#remember(facts, observations, new LengthDistribution(mass));
  }

  #know(facts: LengthFacts): KnownFacts {
    const prefixIds = facts.prefixIds ?? [];
    let deepestPrefix: ContextKey | undefined;
    let deepestHistory: History | undefined;
    for (let index = prefixIds.length - 1; index >= 0 && deepestHistory === undefined; index--) {
      deepestPrefix = prefixIds[index];
      if (deepestPrefix !== undefined) deepestHistory = this.#byPrefix.peek(deepestPrefix);
    }
    const sameLengthHistory = this.#byPromptLength.peek(facts.promptTokenCount);
    return { facts, shortestPrefix: prefixIds[0], deepestPrefix, deepestHistory, sameLengthHistory };
  }

  /** A cut output counts as what was to be expected of it when it was cut. */
  #remember(
    facts: LengthFacts,
    observations: readonly LengthObservation[],
    expected: LengthDistribution,
  ): void {
    const samples = observations.map(({ tokenCount, isCensored }) =>
      Math.log2(1 + (isCensored ? expected.quantile(0.5, tokenCount) : tokenCount)),
    );
    for (const id of facts.prefixIds ?? []) extend(this.#byPrefix, id, samples);
    extend(this.#byPromptLength, facts.promptTokenCount, samples);
  }
}

function extend<Key>(histories: RecentMap<Key, History>, key: Key, samples: readonly number[]): void {
  let { meanLog2, count } = histories.peek(key) ?? { meanLog2: 0, count: 0 };
  for (const sample of samples) {
    count++;
    meanLog2 += Math.max(latestShareMin, 1 / count) * (sample - meanLog2);
  }
  histories.set(key, { meanLog2, count });
}

function priorMass(): Float64Array {
  const mass = new Float64Array(binCount);
  let total = 0;
  for (let bin = 0; bin < binCount; bin++) {
    const start = 1 + binStart(bin);
    const end = 1 + binStart(bin + 1);
    mass[bin] = Math.log2(end / start) * Math.min(1, priorFlatTokenCount / start);
    total += mass[bin] ?? 0;
  }
  for (let bin = 0; bin < binCount; bin++) mass[bin] = (mass[bin] ?? 0) / total;
  return mass;
}
