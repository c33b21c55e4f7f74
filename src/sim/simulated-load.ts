/** What a simulation is asked to serve: the load generator's workloads and arrivals, prompts as ids. Used by
 *  cli/simulate.ts and sweep.ts. */
import { InvalidRequestError } from '../base/errors.js';
import { arrivals } from '../bench/arrivals.js';
import type { PlannedRequest } from '../bench/load-record.js';
import { planRequests } from '../bench/plan.js';
import type { SloByClass } from '../bench/slo.js';
import { createWorkload, type WorkloadOptions } from '../bench/workload.js';

export interface SimulatedLoadOptions {
  readonly workload: Omit<WorkloadOptions, 'tokenIdPool' | 'conversations'>;
  /** Requests per second, with gamma-distributed gaps; 'trace': the trace's own times, this much faster. */
  readonly arrival:
    | { readonly ratePerSecond: number; readonly burstiness: number }
    | { readonly trace: 'own_times'; readonly timeScale: number };
  readonly requestCountMax: number;
  /** No arrival after this. */
  readonly durationMs: number;
  readonly contextTokenCount: number;
  /** Absent: requests bring no SLO of their own. */
  readonly sentSlos?: SloByClass;
}

/** Ids that prompts are made of: any will do, as nothing is computed. */
const tokenIdPool: readonly number[] = Array.from({ length: 4096 }, (_, i) => i + 3);
export const simulatedVocabCount = 8192;

export function* simulatedPlan(options: SimulatedLoadOptions): Generator<PlannedRequest, void, undefined> {
  const { arrival, requestCountMax, durationMs, contextTokenCount, sentSlos } = options;
  const workload = createWorkload({ ...options.workload, tokenIdPool });
  const sent = sentSlos === undefined ? {} : { sentSlos };
  const limits = { outputLength: 'forced', contextTokenCount, requestCountMax, durationMs, ...sent } as const;
  yield* planRequests(arrivalTimes(arrival, options.workload.seed, workload.arrivalsMs), workload, limits, {
    shortenedCount: 0,
  });
}

function arrivalTimes(
  arrival: SimulatedLoadOptions['arrival'],
  seed: number,
  traceMs: readonly number[] | undefined,
): Iterator<number | 'asap'> {
  if ('ratePerSecond' in arrival) return arrivals({ ...arrival, seed });
  if (traceMs === undefined) throw new InvalidRequestError('only a trace has arrival times: give --rate');
  return traceMs.map((atMs) => atMs / arrival.timeScale).values();
}
