/** Is the candidate worse than the reference at a point? Goodput at least 0.97 ×, tail TTFT and TPOT at most
 *  1.10 ×, each with the 95 % bootstrap bound on the safe side. A request that was rejected, failed or never
 *  ended is a missed SLO with infinite latencies. Used by sweep-summary.ts. */
import { assert } from '../base/assert.js';
import { percentile } from '../base/percentiles.js';
import type { Prng } from '../base/prng.js';
import {
  type Bounds,
  bootstrapRatio,
  type PairedRepetition,
  percentileAt,
  type Statistic,
  total,
} from './bootstrap.js';
import { type LoadRecord, tpotMsOf, ttftMsOf } from './load-record.js';
import { meetsItsClass, type SloByClass, scaledSlo } from './slo.js';
import { generatorDelayMsLimit } from './summary.js';

export const limits = { goodputRatioMin: 0.97, latencyRatioMax: 1.1 } as const;
/** p99 of fewer requests is the fate of a handful. */
const p99RequestCountMin = 1000;

/** Where the reference itself keeps fewer within the SLOs, the ratio of the two is that of two handfuls
 *  and is not judged. */
export const tellingShareMin = 0.05;

export const scales = ['0.5', '1', '2'] as const;
export type Scale = (typeof scales)[number];

/** 'holds': the bound on the unsafe side is within the limit. 'fails': even the bound on the safe side is
 *  past it. 'undecided': the limit lies between the bounds. The strict reading of "never worse" counts what
 *  is undecided as failed. */
export type Verdict = 'holds' | 'undecided' | 'fails';

export interface JudgedBounds extends Bounds {
  readonly verdict: Verdict;
}

export interface JudgedGoodput extends Bounds {
  /** Requests of the reference that met their SLOs, of all. */
  readonly referenceShare: number;
  /** 'not judged': too few of them. */
  readonly verdict: Verdict | 'not judged';
}

export interface Comparison {
  readonly requestCount: number;
  readonly latencyPercentile: 'p90' | 'p99';
  /** By SLO scale. */
  readonly goodput: Readonly<Record<Scale, JudgedGoodput>>;
  readonly ttft: JudgedBounds;
  readonly tpot: JudgedBounds;
  /** The worst of all that is judged. 'void': the generator was late in one of the two, and nothing is
   *  shown. */
  readonly verdict: Verdict | 'void';
}

type Repetitions = readonly (readonly LoadRecord[])[];

/** The values of a comparison, pair by pair, from which its bounds are made. */
export interface PointPairs {
  readonly requestCount: number;
  readonly isVoid: boolean;
  readonly goodput: Readonly<Record<Scale, readonly PairedRepetition[]>>;
  readonly referenceShare: Readonly<Record<Scale, number>>;
  readonly ttft: readonly PairedRepetition[];
  readonly tpot: readonly PairedRepetition[];
}

/** Pairs are requests with the same index of the same repetition. */
export function pairPoint(candidate: Repetitions, reference: Repetitions, slos: SloByClass): PointPairs {
  const paired = pairs(candidate, reference);
  const valuesOf = (value: (record: LoadRecord) => number) =>
    paired.map(([ours, theirs]) => ({
      candidate: Float64Array.from(ours, value),
      reference: Float64Array.from(theirs, value),
    }));
  const goodAt = (scale: Scale) => {
    const scaledSlos = scaledSlo(slos, Number(scale));
    return valuesOf((record) => (meetsItsClass(record, scaledSlos) ? 1 : 0));
  };
  const goodput = { '0.5': goodAt('0.5'), '1': goodAt('1'), '2': goodAt('2') };
  const requestCount = paired.reduce((count, [ours]) => count + ours.length, 0);
  const shareOf = (scale: Scale) =>
    goodput[scale].reduce(
      (count, { reference: theirs }) => count + theirs.reduce((sum, good) => sum + good, 0),
      0,
    ) / Math.max(1, requestCount);
  return {
    requestCount,
    isVoid: [candidate, reference].some(isLate),
    goodput,
    referenceShare: { '0.5': shareOf('0.5'), '1': shareOf('1'), '2': shareOf('2') },
    ttft: valuesOf((record) => latency(record, ttftMsOf)),
    tpot: valuesOf((record) => latency(record, tpotMsOf)),
  };
}

export function comparePoint(point: PointPairs, prng: Prng): Comparison {
  const goodAt = (scale: Scale): JudgedGoodput => {
    const bounds = bootstrapRatio(point.goodput[scale], total, prng);
    const referenceShare = point.referenceShare[scale];
    return {
      ...bounds,
      referenceShare,
      verdict: isTelling(point, scale) ? goodputVerdict(bounds) : 'not judged',
    };
  };
  const goodput = { '0.5': goodAt('0.5'), '1': goodAt('1'), '2': goodAt('2') };
  const tail = tailOf(point);
  const ttft = judgedLatency(bootstrapRatio(point.ttft, tail, prng));
  const tpot = judgedLatency(bootstrapRatio(point.tpot, tail, prng));
  const verdicts = [...Object.values(goodput), ttft, tpot].map(({ verdict }) => verdict);
  return {
    requestCount: point.requestCount,
    latencyPercentile: hasP99(point) ? 'p99' : 'p90',
    goodput,
    ttft,
    tpot,
    verdict: point.isVoid ? 'void' : worstOf(verdicts),
  };
}

export function isTelling({ referenceShare }: PointPairs, scale: Scale): boolean {
  return referenceShare[scale] >= tellingShareMin;
}

const hasP99 = ({ requestCount }: PointPairs) => requestCount >= p99RequestCountMin;

export function tailOf(point: PointPairs): Statistic {
  return percentileAt(hasP99(point) ? 0.99 : 0.9);
}

export function goodputVerdict({ low95, high95 }: Bounds): Verdict {
  if (low95 >= limits.goodputRatioMin) return 'holds';
  return high95 < limits.goodputRatioMin ? 'fails' : 'undecided';
}

export function judgedLatency(bounds: Bounds): JudgedBounds {
  const { low95, high95 } = bounds;
  if (high95 <= limits.latencyRatioMax) return { ...bounds, verdict: 'holds' };
  return { ...bounds, verdict: low95 > limits.latencyRatioMax ? 'fails' : 'undecided' };
}

function worstOf(verdicts: readonly JudgedGoodput['verdict'][]): Verdict {
  if (verdicts.includes('fails')) return 'fails';
  return verdicts.includes('undecided') ? 'undecided' : 'holds';
}

type Pair = readonly [readonly LoadRecord[], readonly LoadRecord[]];

function pairs(candidate: Repetitions, reference: Repetitions): readonly Pair[] {
  return candidate.flatMap((ours, repetition) => {
    const theirs = new Map((reference[repetition] ?? []).map((record) => [record.index, record]));
    const both = ours.filter(({ index }) => theirs.has(index));
    if (both.length === 0) return [];
    return [[both, both.map(({ index }) => partnerOf(theirs, index))] as const];
  });
}

function partnerOf(records: ReadonlyMap<number, LoadRecord>, index: number): LoadRecord {
  const record = records.get(index);
  assert(record !== undefined, 'pairs of requests');
  return record;
}

/** An answer of one token has no TPOT: 0 never makes a tail. */
function latency(record: LoadRecord, value: (record: LoadRecord) => number | undefined): number {
  return record.outcome === 'completed' ? (value(record) ?? 0) : Number.POSITIVE_INFINITY;
}

function isLate(repetitions: Repetitions): boolean {
  const delays = repetitions.flat().map(({ delayMs }) => delayMs);
  return (
    percentile(
      delays.sort((a, b) => a - b),
      0.99,
    ) > generatorDelayMsLimit
  );
}
