/** `bench serve` and `bench static`: one load test of one server. Used by cli/bench-serve.ts and, run by run,
 *  by sweep.ts. */
import type { Clock } from '../base/clock.js';
import { InvalidRequestError } from '../base/errors.js';
import { arrivals } from './arrivals.js';
import type { LoadRecord } from './load-record.js';
import { type PlanCounts, planRequests } from './plan.js';
import { raisePriority } from './priority.js';
import { ProgressLine } from './progress.js';
import { runLoad } from './run.js';
import { readRouted, type ServerFacts, withRouted } from './server-facts.js';
import { type ClientSettings, openClient, openServer, openWorkload, type WorkloadSettings } from './setup.js';
import type { SloByClass } from './slo.js';
import type { Workload } from './workload.js';

export interface LoadSettings {
  /** 'trace': the trace's own times. */
  readonly arrival: { readonly ratePerSecond: number; readonly burstiness: number } | 'trace';
  /** Divides the trace's time: 2 replays twice as fast. */
  readonly timeScale: number;
  readonly concurrencyMax: number;
  readonly requestCountMax: number;
  readonly durationMs: number;
  readonly warmupMs: number;
  readonly warmupRequestCount: number;
  readonly drainMs: number;
  readonly seed: number;
  /** Sent along with each request. Absent: the server goes by its own. */
  readonly sentSlos?: SloByClass;
}

export interface LoadResult {
  readonly records: readonly LoadRecord[];
  /** Requests shortened to fit the context. */
  readonly shortenedCount: number;
  /** CPU time of this process over wall time; 1 is one core. */
  readonly coreShare: number;
  readonly facts: ServerFacts;
}

export interface LoadContext {
  readonly clock: Clock;
  readonly write: ((text: string) => void) | null;
  readonly signal?: AbortSignal;
}

export async function benchServer(
  baseUrl: string,
  client: ClientSettings,
  workloadSettings: WorkloadSettings,
  load: LoadSettings,
  context: LoadContext,
): Promise<LoadResult> {
  const facts = await openServer(baseUrl, client);
  const address = { baseUrl, apiKey: client.apiKey };
  const workload = await openWorkload(
    workloadSettings,
    { seed: load.seed, contentSeed: load.seed },
    address,
    facts,
    client,
  );
  return loadServer({ baseUrl, facts, client, workload, label: workloadSettings.name }, load, context);
}

interface LoadTarget {
  readonly baseUrl: string;
  readonly facts: ServerFacts;
  readonly client: ClientSettings;
  readonly workload: Workload;
  readonly label: string;
}

/** The part of a load test that is measured; everything was opened before. */
export async function loadServer(
  target: LoadTarget,
  load: LoadSettings,
  context: LoadContext,
): Promise<LoadResult> {
  const { baseUrl, facts, client, workload } = target;
  const counts: PlanCounts = { shortenedCount: 0 };
  const http = openClient(baseUrl, facts, client, context.clock);
  const progress = new ProgressLine(context.clock, context.write, target.label);
  const plan = planRequests(
    arrivalTimes(load, workload),
    workload,
    {
      outputLength: client.outputLength,
      contextTokenCount: facts.contextTokenCount,
      requestCountMax: load.requestCountMax,
      durationMs: load.durationMs,
      ...(load.sentSlos === undefined ? {} : { sentSlos: load.sentSlos }),
    },
    counts,
  );
  const restorePriority = raisePriority();
  const cpuStart = process.cpuUsage();
  const startMs = context.clock.nowMs();
  try {
    const records = await runLoad(plan, http, {
      ...load,
      ...context,
      onChange: (state) => progress.update(state),
    });
    const cpu = process.cpuUsage(cpuStart);
    const coreShare = (cpu.user + cpu.system) / 1000 / (context.clock.nowMs() - startMs);
    const routed = await readRouted({ baseUrl, apiKey: client.apiKey });
    return { records: withRouted(records, routed), shortenedCount: counts.shortenedCount, coreShare, facts };
  } finally {
    restorePriority();
    progress.close();
    http.close();
  }
}

function arrivalTimes(
  { arrival, timeScale, seed }: LoadSettings,
  workload: Workload,
): Iterator<number | 'asap'> {
  if (arrival !== 'trace') return arrivals({ ...arrival, seed });
  if (workload.arrivalsMs === undefined)
    throw new InvalidRequestError('only --dataset-name trace has arrival times: give --request-rate');
  return workload.arrivalsMs.map((atMs) => atMs / timeScale).values();
}
