/** The figures of one run, derived from its records and nothing else. Latencies are over completed requests,
 *  as in vLLM's benchmark; rejected, failed and unfinished ones are counted beside them, and miss their
 *  SLO. */
import { percentile } from '../base/percentiles.js';
import { e2elMsOf, type LoadRecord, tpotMsOf, ttftMsOf } from './load-record.js';
import { meetsItsClass, type SloByClass } from './slo.js';

export interface Distribution {
  readonly count: number;
  readonly mean: number;
  readonly std: number;
  readonly p50: number;
  readonly p90: number;
  readonly p95: number;
  readonly p99: number;
}

export interface RunSummary {
  readonly requestCount: number;
  readonly completedCount: number;
  readonly rejectedCount: number;
  readonly failedCount: number;
  readonly unfinishedCount: number;
  /** From the first measured arrival to the end of the last measured request. */
  readonly durationSeconds: number;
  /** Of completed requests. */
  readonly promptTokenCount: number;
  readonly outputTokenCount: number;
  readonly requestsPerSecond: number;
  readonly outputTokensPerSecond: number;
  readonly totalTokensPerSecond: number;
  /** null: no SLO given. */
  readonly goodRequestsPerSecond: number | null;
  /** Share of measured requests that met their SLO. */
  readonly sloAttainment: number | null;
  readonly ttftMs: Distribution;
  readonly tpotMs: Distribution;
  readonly itlMs: Distribution;
  readonly e2elMs: Distribution;
  readonly inFlightCountMax: number;
  readonly generatorDelayMsP50: number;
  readonly generatorDelayMsP99: number;
  readonly generatorDelayMsMax: number;
  /** The generator was late: the figures describe it, not the server. */
  readonly isVoid: boolean;
}

/** A point whose generator was later than this at p99 is void. */
export const generatorDelayMsLimit = 5;

export function summariseRun(records: readonly LoadRecord[], slos: SloByClass | null): RunSummary {
  const measured = records.filter(({ phase }) => phase === 'measured');
  const completed = measured.filter(({ outcome }) => outcome === 'completed');
  const count = (outcome: LoadRecord['outcome']) =>
    measured.filter((record) => record.outcome === outcome).length;
  const durationSeconds = spanSeconds(measured);
  const promptTokenCount = sum(completed.map((record) => record.promptTokenCount));
  const outputTokenCount = sum(completed.map((record) => record.outputTokenCount));
  const goodCount = slos === null ? null : measured.filter((record) => meetsItsClass(record, slos)).length;
  const delays = sorted(measured.map(({ delayMs }) => delayMs));
  return {
    requestCount: measured.length,
    completedCount: completed.length,
    rejectedCount: count('rejected'),
    failedCount: count('failed'),
    unfinishedCount: count('unfinished'),
    durationSeconds,
    promptTokenCount,
    outputTokenCount,
    requestsPerSecond: completed.length / durationSeconds,
    outputTokensPerSecond: outputTokenCount / durationSeconds,
    totalTokensPerSecond: (promptTokenCount + outputTokenCount) / durationSeconds,
    goodRequestsPerSecond: goodCount === null ? null : goodCount / durationSeconds,
    sloAttainment: goodCount === null ? null : goodCount / measured.length,
    ttftMs: distribution(completed.map(ttftMsOf)),
    tpotMs: distribution(completed.map(tpotMsOf)),
    itlMs: distribution(completed.flatMap(({ gapsMs }) => gapsMs)),
    e2elMs: distribution(completed.map(e2elMsOf)),
    inFlightCountMax: measured.reduce((max, { inFlightCount }) => Math.max(max, inFlightCount + 1), 0),
    generatorDelayMsP50: percentile(delays, 0.5),
    generatorDelayMsP99: percentile(delays, 0.99),
    generatorDelayMsMax: percentile(delays, 1),
    isVoid: percentile(delays, 0.99) > generatorDelayMsLimit,
  };
}

function spanSeconds(records: readonly LoadRecord[]): number {
  const start = records.reduce(
    (min, { scheduledMs }) => Math.min(min, scheduledMs),
    Number.POSITIVE_INFINITY,
  );
  return records.reduce((max, { endMs }) => Math.max(max, endMs - start), 0) / 1000;
}

/** NaN throughout for no samples. */
export function distribution(samples: readonly (number | undefined)[]): Distribution {
  const values = sorted(samples.filter((value) => value !== undefined));
  const mean = sum(values) / values.length;
  const p = (fraction: number) => percentile(values, fraction);
  const std = Math.sqrt(sum(values.map((value) => (value - mean) ** 2)) / values.length);
  return { count: values.length, mean, std, p50: p(0.5), p90: p(0.9), p95: p(0.95), p99: p(0.99) };
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
const sorted = (values: readonly number[]) => [...values].sort((a, b) => a - b);
