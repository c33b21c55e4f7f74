/** A decision as it is reported: what was known, both estimates, the choice. For headers, logs, GET /routes
 *  and `twostroke route --explain`. Made by routing.ts. */
import type { WorkerId } from '../base/ids.js';
import type { RouteEstimate } from '../router/estimate.js';
import { type Route, workersOf } from '../router/route.js';
import type { RequestFacts, WorkerSnapshot } from '../router/snapshot.js';
import type { RouteSummary } from './request-record.js';

export function sidesOf(route: Route): readonly [prefill: WorkerId, decode: WorkerId] {
  return route.path === 'collocated'
    ? [route.worker, route.worker]
    : [route.prefillWorker, route.decodeWorker];
}

export function summaryOf(
  route: Route,
  facts: RequestFacts,
  snapshots: readonly WorkerSnapshot[],
  plan: string,
): RouteSummary {
  const { path, reason, estimate, other } = route;
  return {
    path,
    plan,
    workers: workersOf(route),
    reason,
    inputs: inputsOf(route, facts, snapshots),
    ...(other === undefined ? {} : { otherWorkers: other.workers }),
    estimates: {
      expectedTokenCount: facts.expectedTokenCount,
      ...estimate,
      ...(other === undefined ? {} : prefixed('other', other.estimate)),
    },
  };
}

/** The request, and the load of the workers it goes to. */
function inputsOf(
  route: Route,
  facts: RequestFacts,
  snapshots: readonly WorkerSnapshot[],
): Readonly<Record<string, number>> {
  const loads = sidesOf(route).map((id) => snapshots.find((worker) => worker.id === id)?.load);
  const [prefill, decode] = loads;
  return {
    promptTokenCount: facts.promptTokenCount,
    uncachedTokenCount: route.prefill.tokenCount,
    expectedTokenCount: facts.expectedTokenCount,
    ttftSloMs: facts.slo.ttftMs,
    tpotSloMs: facts.slo.tpotMs,
    maxTokenCount: facts.maxTokenCount,
    choiceCount: facts.choiceCount,
    prefillQueuedTokenCount: prefill?.queued.tokenCount ?? 0,
    prefillDecodingCount: prefill?.decoding.rowCount ?? 0,
    decodeDecodingCount: decode?.decoding.rowCount ?? 0,
    decodeExpectedCount: decode?.expected.rowCount ?? 0,
    decodeQueuedTokenCount: decode?.queued.tokenCount ?? 0,
  };
}

/** `ttftMs` becomes `otherTtftMs`. */
function prefixed(prefix: string, estimate: RouteEstimate): Record<string, number> {
  const named = Object.entries(estimate).map(([name, value]) => [
    `${prefix}${name.charAt(0).toUpperCase()}${name.slice(1)}`,
    value,
  ]);
  return Object.fromEntries(named) as Record<string, number>;
}
