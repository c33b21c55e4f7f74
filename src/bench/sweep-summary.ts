/** From the records of a sweep to its figures: SLOs, one row per point and mode, and whether the candidate
 *  is ever worse. Used by the sweep at its end and by `bench report --recompute`, which must give the same.
 *  SLOs: TTFT ≤ ttftFactor ×, TPOT ≤ tpotFactor × the unloaded p50 of the request's length class, in the
 *  better static mode. */
import { Prng } from '../base/prng.js';
import {
  comparePoint,
  type PointPairs,
  pairPoint,
  type Scale,
  scales,
  tellingShareMin,
} from './comparison.js';
import {
  type LengthClass,
  type LoadRecord,
  lengthClasses,
  pathOf,
  tpotMsOf,
  ttftMsOf,
} from './load-record.js';
import { type ComparedPoint, type NeverWorse, neverWorse } from './never-worse.js';
import { type ErrorsByName, predictionErrors } from './predictions.js';
import { type GoodputSlo, type SloByClass, scaledSlo } from './slo.js';
import { type Distribution, distribution, type RunSummary, summariseRun } from './summary.js';
import type { Stage, SweepData, SweepHeader, SweepRun } from './sweep-file.js';

interface ModeRow {
  readonly mode: string;
  /** All repetitions together; rates are their means. */
  readonly summary: RunSummary;
  /** By SLO scale 0.5, 1, 2: requests per second within the SLOs, over the time of the arrivals. */
  readonly goodRequestsPerSecond: Readonly<Record<Scale, number>>;
  /** Of requests whose path the server reported; null: it reported none. */
  readonly disaggregatedShare: number | null;
  readonly predictionErrors: ErrorsByName;
  /** Of requests that were handed over. */
  readonly exposedTransferMs: Distribution;
  readonly coreShare: number;
}

export interface SweepPoint extends ComparedPoint {
  readonly modes: readonly ModeRow[];
}

/** One request at a time, by workload, class of prompt length and strategy. */
interface UnloadedRow extends Pick<RunSummary, 'ttftMs' | 'tpotMs' | 'e2elMs'> {
  readonly workload: string;
  readonly lengthClass: LengthClass;
  readonly mode: string;
}

/** As many requests open as asked for: what a strategy bears, filling and emptying included. */
interface SaturationRow {
  readonly workload: string;
  readonly mode: string;
  readonly requestsPerSecond: number;
  readonly outputTokensPerSecond: number;
}

export interface SweepSummary {
  readonly slos: Readonly<Record<string, SloByClass>>;
  readonly unloaded: readonly UnloadedRow[];
  readonly saturation: readonly SaturationRow[];
  readonly points: readonly SweepPoint[];
  readonly neverWorse: NeverWorse;
  /** Of the candidate, all its points together. */
  readonly predictionErrors: ErrorsByName;
}

export function summariseSweep(data: SweepData): SweepSummary {
  const { header } = data;
  const workloads = [...new Set(header.runs.map(({ workload }) => workload))];
  const slos = Object.fromEntries(workloads.map((workload) => [workload, unloadedSlos(data, workload)]));
  const points = workloads.flatMap((workload) => {
    const rates = new Set(runsOf(data, 'point', workload).map(({ ratePerSecond }) => ratePerSecond ?? 0));
    return [...rates].map((rate) => summarisePoint(data, workload, rate, slos[workload] ?? {}));
  });
  const pairs = {
    comparison: points.map(({ pairs }) => pairs.comparison),
    noise: points.map(({ pairs }) => pairs.noise),
  };
  const ofCandidate = header.runs.filter(({ stage, mode }) => stage === 'point' && mode === header.candidate);
  return {
    slos,
    unloaded: workloads.flatMap((workload) =>
      runsOf(data, 'unloaded', workload).flatMap((run) => unloadedRows(data, run)),
    ),
    saturation: workloads.flatMap((workload) =>
      runsOf(data, 'saturation', workload).map((run) => saturationRow(data, run)),
    ),
    points: points.map(({ point }) => point),
    neverWorse: neverWorse(
      points.map(({ point }) => point),
      pairs,
      new Prng(header.seed),
    ),
    predictionErrors: predictionErrors(ofCandidate.flatMap(({ runIndex }) => measuredOf(data, runIndex))),
  };
}

function runsOf({ header }: SloBasis, stage: Stage, workload: string): readonly SweepRun[] {
  return header.runs.filter((run) => run.stage === stage && run.workload === workload);
}

function unloadedRows(data: SweepData, { runIndex, workload, mode }: SweepRun): readonly UnloadedRow[] {
  const records = measuredOf(data, runIndex);
  return lengthClasses.flatMap((lengthClass) => {
    const mine = records.filter((record) => record.lengthClass === lengthClass);
    if (mine.length === 0) return [];
    const { ttftMs, tpotMs, e2elMs } = summariseRun(mine, null);
    return [{ workload, lengthClass, mode, ttftMs, tpotMs, e2elMs }];
  });
}

function saturationRow(data: SweepData, { runIndex, workload, mode }: SweepRun): SaturationRow {
  const { requestsPerSecond, outputTokensPerSecond } = summariseRun(measuredOf(data, runIndex), null);
  return { workload, mode, requestsPerSecond, outputTokensPerSecond };
}

/** Of a sweep what its SLOs are made of. */
interface SloBasis {
  readonly header: Pick<SweepHeader, 'candidate' | 'ttftFactor' | 'tpotFactor' | 'runs'>;
  readonly records: SweepData['records'];
}

/** Per class the lowest p50 of the static modes, times the factors. Known once every mode has served single
 *  requests. */
export function unloadedSlos(data: SloBasis, workload: string): SloByClass {
  const { ttftFactor, tpotFactor } = data.header;
  const byMode = runsOf(data, 'unloaded', workload)
    .filter(({ mode }) => mode !== data.header.candidate)
    .map(({ runIndex }) => measuredOf(data, runIndex));
  const lowest = (lengthClass: LengthClass, value: (record: LoadRecord) => number | undefined) =>
    byMode
      .map(
        (records) =>
          distribution(records.filter((record) => record.lengthClass === lengthClass).map(value)).p50,
      )
      .filter((p50) => !Number.isNaN(p50))
      .reduce((min, p50) => Math.min(min, p50), Number.POSITIVE_INFINITY);
  const entries = lengthClasses.map((lengthClass): [LengthClass, GoodputSlo] => {
    const ttftMs = ttftFactor * lowest(lengthClass, ttftMsOf);
    const tpotMs = tpotFactor * lowest(lengthClass, tpotMsOf);
    return [
      lengthClass,
      { ...(Number.isFinite(ttftMs) ? { ttftMs } : {}), ...(Number.isFinite(tpotMs) ? { tpotMs } : {}) },
    ];
  });
  return Object.fromEntries(entries.filter(([, slo]) => slo.ttftMs !== undefined));
}

function measuredOf({ records }: Pick<SloBasis, 'records'>, runIndex: number): readonly LoadRecord[] {
  return (records.get(runIndex) ?? []).filter(({ phase }) => phase === 'measured');
}

/** Pairs are made by index: a request that one mode never sent is no pair. */
function byRepetition(data: SweepData, runs: readonly SweepRun[]): readonly (readonly LoadRecord[])[] {
  return [...runs]
    .sort((a, b) => a.repetition - b.repetition)
    .map(({ runIndex }) => [...measuredOf(data, runIndex)].sort((a, b) => a.index - b.index));
}

interface PairedPoint {
  readonly point: SweepPoint;
  readonly pairs: { readonly comparison: PointPairs | null; readonly noise: PointPairs | null };
}

function summarisePoint(data: SweepData, workload: string, rate: number, slos: SloByClass): PairedPoint {
  const { candidate, seed } = data.header;
  const atRate = (stage: Stage) =>
    runsOf(data, stage, workload).filter(({ ratePerSecond }) => ratePerSecond === rate);
  const runs = atRate('point');
  const names = [...new Set(runs.map(({ mode }) => mode))];
  const runsOfMode = (mode: string) => runs.filter((run) => run.mode === mode);
  const modes = names.map((mode) => modeRow(data, mode, runsOfMode(mode), slos));
  const statics = modes.filter(({ mode }) => mode !== candidate);
  const { reference, referenceScale } = referenceOf(statics.length === 0 ? modes : statics, rate);
  const pair = (ours: readonly SweepRun[], theirs: readonly SweepRun[]) =>
    pairPoint(byRepetition(data, ours), byRepetition(data, theirs), slos);
  const repeats = atRate('repeat');
  const repeated = repeats[0]?.mode;
  const isCompared = names.includes(candidate) && reference !== candidate;
  const pairs = {
    comparison: isCompared ? pair(runsOfMode(candidate), runsOfMode(reference)) : null,
    noise: repeated === undefined ? null : pair(repeats, runsOfMode(repeated)),
  };
  const compare = (paired: PointPairs | null) =>
    paired === null ? null : comparePoint(paired, new Prng(seed));
  return {
    point: {
      workload,
      ratePerSecond: rate,
      rateFraction: runs[0]?.rateFraction ?? null,
      modes,
      reference,
      referenceScale,
      comparison: compare(pairs.comparison),
      noise: compare(pairs.noise),
    },
    pairs,
  };
}

/** Where no mode keeps enough requests within the targets for that to say which is better, those within twice
 *  the targets do. */
function referenceOf(
  modes: readonly ModeRow[],
  ratePerSecond: number,
): Pick<SweepPoint, 'reference' | 'referenceScale'> {
  const enough = tellingShareMin * ratePerSecond;
  const referenceScale = modes.some(({ goodRequestsPerSecond }) => goodRequestsPerSecond['1'] >= enough)
    ? '1'
    : '2';
  const good = ({ goodRequestsPerSecond }: ModeRow) => goodRequestsPerSecond[referenceScale];
  return {
    reference: modes.reduce((best, row) => (good(row) > good(best) ? row : best)).mode,
    referenceScale,
  };
}

function modeRow(data: SweepData, mode: string, runs: readonly SweepRun[], slos: SloByClass): ModeRow {
  const repetitions = byRepetition(data, runs);
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const each = repetitions.map((records) => summariseRun(records, slos));
  const meanOf = (value: (summary: RunSummary) => number | null) =>
    mean(each.map((summary) => value(summary) ?? 0));
  const pooled = summariseRun(repetitions.flat(), slos);
  return {
    mode,
    summary: {
      ...pooled,
      durationSeconds: meanOf((run) => run.durationSeconds),
      requestsPerSecond: meanOf((run) => run.requestsPerSecond),
      outputTokensPerSecond: meanOf((run) => run.outputTokensPerSecond),
      totalTokensPerSecond: meanOf((run) => run.totalTokensPerSecond),
      goodRequestsPerSecond: meanOf((run) => run.goodRequestsPerSecond),
    },
    goodRequestsPerSecond: Object.fromEntries(
      scales.map((scale) => [
        scale,
        mean(repetitions.map((records) => goodPerArrivalSecond(records, scaledSlo(slos, Number(scale))))),
      ]),
    ) as Record<Scale, number>,
    disaggregatedShare: disaggregatedShareOf(repetitions.flat()),
    predictionErrors: predictionErrors(repetitions.flat()),
    exposedTransferMs: distribution(repetitions.flat().map(({ transferMs }) => transferMs)),
    coreShare: mean(runs.map(({ coreShare }) => coreShare)),
  };
}

function disaggregatedShareOf(records: readonly LoadRecord[]): number | null {
  const paths = records.map(pathOf).filter((path) => path !== 'unknown');
  return paths.length === 0 ? null : paths.filter((path) => path === 'disaggregated').length / paths.length;
}

/** Over the arrivals' own span, which paired runs share, so that the last answer's end does not decide. */
function goodPerArrivalSecond(records: readonly LoadRecord[], slos: SloByClass): number {
  const times = records.map(({ scheduledMs }) => scheduledMs);
  const spanSeconds = (Math.max(...times) - Math.min(...times)) / 1000;
  return ((summariseRun(records, slos).sloAttainment ?? 0) * records.length) / spanSeconds;
}
