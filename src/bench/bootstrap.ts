/** Confidence bounds of ratios between two strategies measured on the same arrivals. Used by comparison.ts.
 *  The independent thing is a repetition: its requests stand in one queue and share what the machine did
 *  meanwhile. So repetitions are resampled whole, both strategies of one together, which is what makes
 *  pairing count; requests inside them are not. With few repetitions that is too narrow, by a known amount,
 *  and the percentiles are moved out accordingly (Hesterberg 2015, "What teachers should know about the
 *  bootstrap", expanded percentile interval). */
import { at } from '../base/assert.js';
import type { Prng } from '../base/prng.js';

export interface Bounds {
  readonly ratio: number;
  /** One-sided 95 % bounds: below and above which the ratio lies with probability 5 %. */
  readonly low95: number;
  readonly high95: number;
}

/** One value per request; both lists of a repetition in the order of the plan. */
export interface PairedRepetition {
  readonly candidate: Float64Array;
  readonly reference: Float64Array;
}

/** Prepared once for its clusters, then asked for the figure of a sample in which cluster i occurs counts[i]
 *  times. */
export type Statistic = (clusters: readonly Float64Array[]) => (counts: Uint16Array) => number;

const resampleCount = 2000;
/** Fewer say nothing of their spread: repetitions are then cut in parts of consecutive pairs. */
const clusterCountMin = 5;

/** A point and what is asked of it. */
interface Resampled {
  readonly repetitions: readonly PairedRepetition[];
  readonly statistic: Statistic;
}

export function bootstrapRatio(
  repetitions: readonly PairedRepetition[],
  statistic: Statistic,
  prng: Prng,
): Bounds {
  return boundsOf([new Resampler(clustersOf(repetitions), statistic)], prng);
}

/** The geometric mean of the ratios of several points, each resampled on its own; null: there is none. */
export function bootstrapMeanRatio(points: readonly Resampled[], prng: Prng): Bounds | null {
  if (points.length === 0) return null;
  return boundsOf(
    points.map(({ repetitions, statistic }) => new Resampler(clustersOf(repetitions), statistic)),
    prng,
  );
}

function boundsOf(points: readonly Resampler[], prng: Prng): Bounds {
  const counts = points.map(({ clusterCount }) => clusterCount);
  const meanOf = (ratioOf: (point: Resampler) => number) => {
    const ratios = points.map(ratioOf);
    return ratios.length === 1 ? at(ratios, 0) : Math.exp(sum(ratios.map(Math.log)) / ratios.length);
  };
  const ratio = meanOf((point) => point.whole());
  // one cluster alone says nothing of its spread
  if (Math.min(...counts) < 2) return { ratio, low95: 0, high95: Number.POSITIVE_INFINITY };
  const ratios = Float64Array.from({ length: resampleCount }, () =>
    meanOf((point) => point.draw(prng)),
  ).sort();
  const tail = expandedTail(Math.min(...counts), sum(counts.map((count) => count - 1)));
  return {
    ratio,
    low95: at(ratios, Math.floor(tail * (resampleCount - 1))),
    high95: at(ratios, Math.ceil((1 - tail) * (resampleCount - 1))),
  };
}

class Resampler {
  readonly clusterCount: number;
  readonly #candidate: (counts: Uint16Array) => number;
  readonly #reference: (counts: Uint16Array) => number;

  constructor(clusters: readonly PairedRepetition[], statistic: Statistic) {
    this.clusterCount = clusters.length;
    this.#candidate = statistic(clusters.map(({ candidate }) => candidate));
    this.#reference = statistic(clusters.map(({ reference }) => reference));
  }

  whole(): number {
    return this.#ratio(new Uint16Array(this.clusterCount).fill(1));
  }

  draw(prng: Prng): number {
    const counts = new Uint16Array(this.clusterCount);
    for (let i = 0; i < this.clusterCount; i++) {
      const drawn = prng.integer(0, this.clusterCount - 1);
      counts[drawn] = (counts[drawn] ?? 0) + 1;
    }
    return this.#ratio(counts);
  }

  #ratio(counts: Uint16Array): number {
    return ratio(this.#candidate(counts), this.#reference(counts));
  }
}

/** Of two things that are both unmeasurable (nothing good, or infinitely late), neither is worse. */
export function ratio(candidate: number, reference: number): number {
  if (candidate === reference) return 1;
  return reference === Number.POSITIVE_INFINITY ? 0 : candidate / reference;
}

function clustersOf(repetitions: readonly PairedRepetition[]): readonly PairedRepetition[] {
  const partCount = Math.ceil(clusterCountMin / repetitions.length);
  return repetitions.flatMap(({ candidate, reference }) => {
    const edges = Array.from({ length: partCount + 1 }, (_, i) =>
      Math.round((i * candidate.length) / partCount),
    );
    return edges.slice(1).flatMap((end, i) => {
      const start = at(edges, i);
      return end === start
        ? []
        : [{ candidate: candidate.subarray(start, end), reference: reference.subarray(start, end) }];
    });
  });
}

/** Which share of the resampled ratios lies past the 95 % bound: 5 %, less what k clusters make the bootstrap
 *  too narrow (by √((k − 1) / k)) and what Student's t with these degrees of freedom adds to the normal. */
function expandedTail(clusterCount: number, degreesOfFreedom: number): number {
  const z = 1.6448536;
  const n = degreesOfFreedom;
  // Cornish-Fisher expansion of Student's t quantile, Abramowitz and Stegun 26.7.5
  const t =
    z +
    (z ** 3 + z) / (4 * n) +
    (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * n ** 2) +
    (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * n ** 3);
  return normalTail(t * Math.sqrt(clusterCount / (clusterCount - 1)));
}

/** P(normal > x), Abramowitz and Stegun 26.2.17. */
function normalTail(x: number): number {
  const u = 1 / (1 + 0.2316419 * x);
  const series =
    u * (0.31938153 + u * (-0.356563782 + u * (1.781477937 + u * (-1.821255978 + u * 1.330274429))));
  return (Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)) * series;
}

export const total: Statistic = (clusters) => {
  const sums = clusters.map((values) => sum([...values]));
  return (counts) => sums.reduce((all, value, i) => all + value * (counts[i] ?? 0), 0);
};

/** Walks down from the largest value, so a far tail costs little however many values there are. */
export function percentileAt(fraction: number): Statistic {
  return (clusters) => {
    const entries = clusters.flatMap((values, cluster) => [...values].map((value) => ({ value, cluster })));
    entries.sort((a, b) => (a.value === b.value ? 0 : b.value - a.value));
    const values = Float64Array.from(entries, ({ value }) => value);
    const clusterOf = Uint16Array.from(entries, ({ cluster }) => cluster);
    return (counts) => {
      const valueCount = clusters.reduce((count, { length }, i) => count + length * (counts[i] ?? 0), 0);
      const fromTop = (1 - fraction) * (valueCount - 1);
      let [seenCount, index] = [0, -1];
      const down = (rank: number) => {
        while (seenCount <= rank) seenCount += counts[clusterOf[++index] ?? 0] ?? 0;
        return at(values, index);
      };
      const high = down(Math.floor(fromTop));
      const low = down(Math.ceil(fromTop));
      return high === low ? high : low + (high - low) * (Math.ceil(fromTop) - fromTop);
    };
  };
}

const sum = (values: readonly number[]) => values.reduce((all, value) => all + value, 0);
