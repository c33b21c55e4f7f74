/** How far the router's predictions were off: |predicted − real| / real over the last requests, median and
 *  90th percentile, for metrics, GET /routes and people. TTFT, transfer, TPOT and E2EL are judged with the
 *  output's real length (nobody can route by it); E2EL with the length that was expected is reported beside
 *  them. Used by coordinator.ts. Bounded. */
import type { WorkerId } from '../base/ids.js';
import { percentile } from '../base/percentiles.js';
import type { Corrections, RequestOutcomeTimes } from '../router/request-correction.js';
import type { Strategy } from '../router/route.js';
import type { WorkerCostStatus } from '../router/worker-costs.js';
import type { RequestRecord } from './request-record.js';

export const predictionNames = ['ttft', 'transfer', 'tpot', 'e2el', 'e2elExpectedLength'] as const;
type PredictionName = (typeof predictionNames)[number];

interface PredictionError {
  readonly count: number;
  /** Shares of the real time; NaN for none. */
  readonly median: number;
  readonly p90: number;
}

const recentCount = 512;

export class PredictionErrors {
  readonly #errors: Readonly<Record<PredictionName, number[]>> = {
    ttft: [],
    transfer: [],
    tpot: [],
    e2el: [],
    e2elExpectedLength: [],
  };

  /** Requests that took their first route to the end count; after a loss or a failed hand-over nothing was
   *  predicted. */
  observe(record: RequestRecord): void {
    const errors = errorsOf(record);
    for (const name of predictionNames) {
      const error = errors[name];
      if (error === undefined) continue;
      this.#errors[name].push(error);
      if (this.#errors[name].length > recentCount) this.#errors[name].shift();
    }
  }

  get summary(): Readonly<Record<PredictionName, PredictionError>> {
    const entries = predictionNames.map((name): [PredictionName, PredictionError] => {
      const sorted = [...this.#errors[name]].sort((a, b) => a - b);
      return [name, { count: sorted.length, median: percentile(sorted, 0.5), p90: percentile(sorted, 0.9) }];
    });
    return Object.fromEntries(entries) as Record<PredictionName, PredictionError>;
  }
}

/** Real times of a request as the gateway saw it; what did not happen is left out. Milliseconds. */
interface RealTimes {
  readonly ttftMs?: number;
  readonly transferMs?: number;
  readonly tpotMs?: number;
  readonly e2elMs?: number;
}

export function realTimesOf(record: RequestRecord): RealTimes {
  const {
    arrivalMs,
    firstTokenMs,
    resumedMs,
    doneMs,
    outcome,
    outputTokenCount,
    finishReasons,
    exposedTransferMs,
  } = record;
  if (firstTokenMs === undefined) return {};
  const times = {
    ttftMs: firstTokenMs - arrivalMs,
    ...(resumedMs === undefined ? {} : { transferMs: exposedTransferMs }),
  };
  if (outcome !== 'finished') return times;
  const furtherCount = outputTokenCount / finishReasons.length - 1; // choices run side by side
  const tpot = furtherCount < 1 ? {} : { tpotMs: (doneMs - firstTokenMs) / furtherCount };
  return { ...times, ...tpot, e2elMs: doneMs - arrivalMs };
}

/** By name; what cannot be judged is left out. */
export function errorsOf(record: RequestRecord): Partial<Record<PredictionName, number>> {
  const [route] = record.routes;
  if (route === undefined || record.isLate || record.routes.length > 1 || record.handOverFailures.length > 0)
    return {};
  const { ttftMs, transferMs = 0, joinMs = 0, stepMs, e2elMs } = route.estimates;
  if (ttftMs === undefined || stepMs === undefined) return {};
  const real = realTimesOf(record);
  const furtherCount = record.outputTokenCount / record.finishReasons.length - 1;
  const afterMs = transferMs + joinMs + furtherCount * stepMs;
  const pairs: [PredictionName, number | undefined, number | undefined][] = [
    ['ttft', ttftMs, real.ttftMs],
    ['transfer', transferMs, real.transferMs],
    ['tpot', afterMs / furtherCount, real.tpotMs],
    ['e2el', ttftMs + afterMs, real.e2elMs],
    ['e2elExpectedLength', e2elMs, real.e2elMs],
  ];
  const judged = pairs.flatMap(([name, predicted, measured]) =>
    predicted === undefined || measured === undefined || !(measured > 0)
      ? []
      : [[name, Math.abs(predicted - measured) / measured]],
  );
  return Object.fromEntries(judged) as Partial<Record<PredictionName, number>>;
}

/** What the costs learn from; null: it went another way than predicted, or did not get far enough. */
export function outcomeTimesOf(record: RequestRecord, corrections: Corrections): RequestOutcomeTimes | null {
  const [route] = record.routes;
  const { ttftMs, transferMs, tpotMs } = realTimesOf(record);
  if (route === undefined || record.isLate || record.routes.length > 1) return null;
  if (record.handOverFailures.length > 0 || ttftMs === undefined) return null;
  const {
    messagesMs,
    waitMs,
    prefillMs,
    stepMs,
    transferMs: predictedTransferMs = 0,
    joinMs = 0,
  } = route.estimates;
  if (messagesMs === undefined || waitMs === undefined || prefillMs === undefined || stepMs === undefined)
    return null;
  const furtherCount = record.outputTokenCount / record.finishReasons.length - 1;
  const isLongEnough = tpotMs !== undefined && furtherCount >= furtherCountMin;
  const realStepMs = isLongEnough ? tpotMs - ((transferMs ?? 0) + joinMs) / furtherCount : null;
  const predicted = { messagesMs, waitMs, prefillMs, stepMs, transferMs: predictedTransferMs };
  return { corrections, ...predicted, real: { ttftMs, stepMs: realStepMs, transferMs: transferMs ?? null } };
}

/** Tokens after the first that make a time per token. */
const furtherCountMin = 8;

/** For metrics, GET /routes and people. */
export interface RoutingStatus {
  readonly strategy: Strategy;
  /** Who may do what now, by name; null while no worker is live. */
  readonly plan: string | null;
  /** Workers that decode only when no other can. */
  readonly prefillFirst: readonly WorkerId[];
  readonly errors: Readonly<Record<PredictionName, PredictionError>>;
  readonly workers: readonly WorkerCostStatus[];
}
