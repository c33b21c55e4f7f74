/** What all points of a sweep say together: how often the candidate held against the better static mode, the
 *  extremes, and the mean over all points, which is decided long before single points are. The same for a
 *  static mode against itself (A/A): what of it is noise. Used by sweep-summary.ts; `bench:report` prints
 *  it. */
import type { Prng } from '../base/prng.js';
import { bootstrapMeanRatio, total } from './bootstrap.js';
import {
  type Comparison,
  goodputVerdict,
  isTelling,
  type JudgedBounds,
  type JudgedGoodput,
  judgedLatency,
  type PointPairs,
  type Scale,
  tailOf,
  type Verdict,
} from './comparison.js';

export interface ComparedPoint {
  readonly workload: string;
  readonly ratePerSecond: number;
  readonly rateFraction: number | null;
  /** The static mode with the higher goodput. */
  readonly reference: string;
  /** Of which SLO scale: twice where hardly anything keeps it. */
  readonly referenceScale: Scale;
  readonly comparison: Comparison | null;
  /** A static mode against itself. */
  readonly noise: Comparison | null;
}

/** Geometric means over the points that are not void; goodput at SLO scale 1, where it is judged. null: no
 *  such point. */
export interface Overall {
  readonly goodput: JudgedBounds | null;
  readonly ttft: JudgedBounds | null;
  readonly tpot: JudgedBounds | null;
}

export const metrics = ['goodputHalf', 'goodput', 'goodputTwice', 'ttft', 'tpot'] as const;
type Metric = (typeof metrics)[number];

export interface VerdictCounts {
  readonly pointCount: number;
  readonly holdsCount: number;
  readonly undecidedCount: number;
  readonly failsCount: number;
  readonly voidCount: number;
  /** Goodput at SLO scale 1 above the reference's beyond noise. */
  readonly betterCount: number;
  /** A point's verdict is that of its worst metric: here each on its own. */
  readonly byMetric: Readonly<Record<Metric, Readonly<Record<Verdict, number>>>>;
  readonly overall: Overall;
}

export interface NeverWorse extends VerdictCounts {
  /** Over all points that are not void, SLO scale 1, where it is judged; null: no such point. */
  readonly goodputRatioMin: number | null;
  readonly ttftP99RatioMax: number | null;
  readonly tpotP99RatioMax: number | null;
  /** The same counts of A/A: a candidate that is as good as the reference has about these. */
  readonly noise: VerdictCounts;
  readonly points: readonly ComparedPoint[];
}

/** Pairs in the order of the points; null where there is no comparison. */
interface ComparedPairs {
  readonly comparison: readonly (PointPairs | null)[];
  readonly noise: readonly (PointPairs | null)[];
}

export function neverWorse(points: readonly ComparedPoint[], pairs: ComparedPairs, prng: Prng): NeverWorse {
  const valid = present(points.map(({ comparison }) => comparison)).filter(
    ({ verdict }) => verdict !== 'void',
  );
  const judged = valid.map(({ goodput }) => goodput['1']).filter(({ verdict }) => verdict !== 'not judged');
  const extreme = (pick: (...values: number[]) => number, bounds: readonly { readonly ratio: number }[]) =>
    bounds.length === 0 ? null : pick(...bounds.map(({ ratio }) => ratio));
  return {
    goodputRatioMin: extreme(Math.min, judged),
    ttftP99RatioMax: extreme(
      Math.max,
      valid.map(({ ttft }) => ttft),
    ),
    tpotP99RatioMax: extreme(
      Math.max,
      valid.map(({ tpot }) => tpot),
    ),
    ...counts(
      points.map(({ comparison }) => comparison),
      pairs.comparison,
      prng,
    ),
    noise: counts(
      points.map(({ noise }) => noise),
      pairs.noise,
      prng,
    ),
    points: points.map(
      ({ workload, ratePerSecond, rateFraction, reference, referenceScale, comparison, noise }) => ({
        workload,
        ratePerSecond,
        rateFraction,
        reference,
        referenceScale,
        comparison,
        noise,
      }),
    ),
  };
}

function counts(
  all: readonly (Comparison | null)[],
  pairs: readonly (PointPairs | null)[],
  prng: Prng,
): VerdictCounts {
  const comparisons = present(all);
  const count = (wanted: Comparison['verdict']) =>
    comparisons.filter(({ verdict }) => verdict === wanted).length;
  return {
    pointCount: comparisons.length,
    holdsCount: count('holds'),
    undecidedCount: count('undecided'),
    failsCount: count('fails'),
    voidCount: count('void'),
    betterCount: comparisons.filter(isBetter).length,
    byMetric: byMetricOf(comparisons.filter(({ verdict }) => verdict !== 'void')),
    overall: overallOf(
      present(pairs).filter(({ isVoid }) => !isVoid),
      prng,
    ),
  };
}

function byMetricOf(comparisons: readonly Comparison[]): VerdictCounts['byMetric'] {
  const verdictsOf = (verdict: (comparison: Comparison) => JudgedGoodput['verdict']) => {
    const all = comparisons.map(verdict);
    const count = (wanted: Verdict) => all.filter((each) => each === wanted).length;
    return { holds: count('holds'), undecided: count('undecided'), fails: count('fails') };
  };
  return {
    goodputHalf: verdictsOf(({ goodput }) => goodput['0.5'].verdict),
    goodput: verdictsOf(({ goodput }) => goodput['1'].verdict),
    goodputTwice: verdictsOf(({ goodput }) => goodput['2'].verdict),
    ttft: verdictsOf(({ ttft }) => ttft.verdict),
    tpot: verdictsOf(({ tpot }) => tpot.verdict),
  };
}

function isBetter({ verdict, goodput }: Comparison): boolean {
  return verdict !== 'void' && goodput['1'].verdict !== 'not judged' && goodput['1'].low95 > 1;
}

function overallOf(points: readonly PointPairs[], prng: Prng): Overall {
  const telling = points.filter((point) => isTelling(point, '1'));
  const goodput = bootstrapMeanRatio(
    telling.map((point) => ({ repetitions: point.goodput['1'], statistic: total })),
    prng,
  );
  const latencyOf = (metric: 'ttft' | 'tpot') => {
    const bounds = bootstrapMeanRatio(
      points.map((point) => ({ repetitions: point[metric], statistic: tailOf(point) })),
      prng,
    );
    return bounds === null ? null : judgedLatency(bounds);
  };
  return {
    goodput: goodput === null ? null : { ...goodput, verdict: goodputVerdict(goodput) },
    ttft: latencyOf('ttft'),
    tpot: latencyOf('tpot'),
  };
}

const present = <Item>(items: readonly (Item | null)[]): readonly Item[] =>
  items.filter((item) => item !== null);
