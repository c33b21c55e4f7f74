/** Whether a request that has ended was served within its SLO: for its record, and from there for metrics,
 *  GET /routes and `twostroke route`. Goodput counts those that met all of it. As in load tests, who failed
 *  or was refused has missed everything. */
import type { Slo } from '../router/slo.js';
import { realTimesOf } from './prediction-errors.js';
import type { RequestRecord, SloVerdict } from './request-record.js';

/** Null: nobody can know, since its client left before it was late. */
export function sloVerdictOf(record: RequestRecord, slo: Slo): SloVerdict | null {
  const { outcome, arrivalMs, doneMs } = record;
  const { ttftMs, tpotMs = 0, e2elMs } = realTimesOf(record);
  const ttft = ttftMs !== undefined && ttftMs <= slo.ttftMs;
  if (outcome === 'cancelled' && (ttft || doneMs - arrivalMs <= slo.ttftMs)) return null;
  const hasEnded = outcome === 'finished';
  const tpot = hasEnded && tpotMs <= slo.tpotMs;
  const e2el = hasEnded && (e2elMs ?? 0) <= (slo.e2elMs ?? Number.POSITIVE_INFINITY);
  return { ttft, tpot, e2el, all: ttft && tpot && e2el };
}
