/** Is the candidate worse than the reference at a point? Goodput at least 0.97 ×, tail TTFT and TPOT at most 1.10 ×, each with the 95 %
 *  bootstrap bound on the safe side. A request that was rejected, failed or never ended is a missed target with infinite latencies. */
import { assert } from '../base/assert.js';
import type { Prng } from '../base/prng.js';
import { type Bounds, bootstrapRatio, type PairedRepetition, percentileOf } from './bootstrap.js';
import { type RequestRecord, tpotMsOf, ttftMsOf } from './request-record.js';
import { meetsItsClass, type SloByClass, scaledSlo } from './slo.js';
import { generatorDelayMsLimit } from './summary.js';
import type { SweepPoint } from './sweep-summary.js';

export const limits = { goodputRatioMin: 0.97, latencyRatioMax: 1.1 } as const;
/** p99 of fewer requests is the fate of a handful. */
const p99RequestCountMin = 1000;

/** Where the reference itself keeps fewer within the targets, the ratio of the two is that of two handfuls and is not judged. */
const tellingShareMin = 0.05;

export const scales = ['0.5', '1', '2'] as const;
export type Scale = (typeof scales)[number];

export interface Comparison {
  readonly requestCount: number;
  readonly latencyPercentile: 'p90' | 'p99';
  /** By target scale. */
  readonly goodput: Readonly<Record<Scale, GoodputBounds>>;
  readonly ttft: Bounds;
  readonly tpot: Bounds;
  /** The generator was late in one of the two: nothing is shown. */
  readonly isVoid: boolean;
  /** Every bound is within its limit. */
  readonly isWithin: boolean;
  /** Some ratio is past its limit beyond what noise explains. */
  readonly isShownWorse: boolean;
}

export interface GoodputBounds extends Bounds {
  /** Requests of the reference that met the targets, of all. */
  readonly referenceShare: number;
  /** Enough of them for the ratio to be judged. */
  readonly isTelling: boolean;
}

type Repetitions = readonly (readonly RequestRecord[])[];

export function comparePoint(candidate: Repetitions, reference: Repetitions, slos: SloByClass, prng: Prng): Comparison {
  const paired = pairs(candidate, reference);
  const requestCount = paired.reduce((count, [ours]) => count + ours.length, 0);
  const latencyPercentile = requestCount >= p99RequestCountMin ? 'p99' : 'p90';
  const fraction = latencyPercentile === 'p99' ? 0.99 : 0.9;
  const bounds = (value: (record: RequestRecord) => number, statistic: (values: Float64Array) => number) =>
    bootstrapRatio(
      paired.map((pair) => valuesOf(pair, value)),
      statistic,
      prng,
    );
  const goodAt = (scale: Scale): GoodputBounds => {
    const targets = scaledSlo(slos, Number(scale));
    const isGood = (record: RequestRecord) => (meetsItsClass(record, targets) ? 1 : 0);
    const goodCount = paired.reduce((count, [, theirs]) => count + sum(Float64Array.from(theirs, isGood)), 0);
    const referenceShare = goodCount / Math.max(1, requestCount);
    return { ...bounds(isGood, sum), referenceShare, isTelling: referenceShare >= tellingShareMin };
  };
  const tail = (values: Float64Array) => percentileOf(values, fraction);
  const goodput = { '0.5': goodAt('0.5'), '1': goodAt('1'), '2': goodAt('2') };
  const ttft = bounds((record) => latency(record, ttftMsOf), tail);
  const tpot = bounds((record) => latency(record, tpotMsOf), tail);
  const latencies = [ttft, tpot];
  const goodputs = Object.values(goodput).filter(({ isTelling }) => isTelling);
  return {
    requestCount,
    latencyPercentile,
    goodput,
    ttft,
    tpot,
    isVoid: [candidate, reference].some(isLate),
    isWithin:
      goodputs.every(({ low95 }) => low95 >= limits.goodputRatioMin) &&
      latencies.every(({ high95 }) => high95 <= limits.latencyRatioMax),
    isShownWorse:
      goodputs.some(({ high95 }) => high95 < limits.goodputRatioMin) ||
      latencies.some(({ low95 }) => low95 > limits.latencyRatioMax),
  };
}

/** Requests with the same index, repetition by repetition. */
function pairs(
  candidate: Repetitions,
  reference: Repetitions,
): readonly (readonly [readonly RequestRecord[], readonly RequestRecord[]])[] {
  return candidate.flatMap((ours, repetition) => {
    const theirs = new Map((reference[repetition] ?? []).map((record) => [record.index, record]));
    const both = ours.filter(({ index }) => theirs.has(index));
    if (both.length === 0) return [];
    return [[both, both.map(({ index }) => theirs.get(index) as RequestRecord)] as const];
  });
}

function valuesOf(
  [ours, theirs]: readonly [readonly RequestRecord[], readonly RequestRecord[]],
  value: (record: RequestRecord) => number,
): PairedRepetition {
  assert(ours.length === theirs.length, 'pairs of requests');
  return { candidate: Float64Array.from(ours, value), reference: Float64Array.from(theirs, value) };
}

/** An answer of one token has no TPOT: 0 never makes a tail. */
function latency(record: RequestRecord, value: (record: RequestRecord) => number | undefined): number {
  return record.outcome === 'completed' ? (value(record) ?? 0) : Number.POSITIVE_INFINITY;
}

function isLate(repetitions: Repetitions): boolean {
  const delays = Float64Array.from(repetitions.flat(), ({ delayMs }) => delayMs);
  return percentileOf(delays, 0.99) > generatorDelayMsLimit;
}

const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0);

export interface NeverWorse {
  /** Over all points that are not void, target scale 1, where it is telling; null: no such point. */
  readonly goodputRatioMin: number | null;
  readonly ttftP99RatioMax: number | null;
  readonly tpotP99RatioMax: number | null;
  readonly pointCount: number;
  readonly voidCount: number;
  readonly withinCount: number;
  readonly shownWorseCount: number;
  /** Points where the candidate's goodput is above the better static mode's beyond noise. */
  readonly shownBetterCount: number;
  readonly points: readonly {
    readonly workload: string;
    readonly ratePerSecond: number;
    readonly rateFraction: number | null;
    readonly reference: string;
    readonly comparison: Comparison;
  }[];
}

export function neverWorse(points: readonly SweepPoint[]): NeverWorse {
  const compared = points.flatMap(({ workload, ratePerSecond, rateFraction, reference, comparison }) =>
    comparison === null ? [] : [{ workload, ratePerSecond, rateFraction, reference, comparison }],
  );
  const valid = compared.map(({ comparison }) => comparison).filter(({ isVoid }) => !isVoid);
  const telling = valid.map(({ goodput }) => goodput['1']).filter(({ isTelling }) => isTelling);
  const extreme = (pick: (...values: number[]) => number, values: readonly number[]) =>
    values.length === 0 ? null : pick(...values);
  return {
    goodputRatioMin: extreme(
      Math.min,
      telling.map(({ ratio }) => ratio),
    ),
    ttftP99RatioMax: extreme(
      Math.max,
      valid.map(({ ttft }) => ttft.ratio),
    ),
    tpotP99RatioMax: extreme(
      Math.max,
      valid.map(({ tpot }) => tpot.ratio),
    ),
    pointCount: compared.length,
    voidCount: compared.length - valid.length,
    withinCount: valid.filter(({ isWithin }) => isWithin).length,
    shownWorseCount: valid.filter(({ isShownWorse }) => isShownWorse).length,
    shownBetterCount: telling.filter(({ low95 }) => low95 > 1).length,
    points: compared,
  };
}
