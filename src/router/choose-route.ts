/** The router: request facts and worker snapshots in, a route out. Pure; called by control/coordinator for every attempt. */
import { type Arrangement, free, routeWithin } from './arrangement.js';
import { candidatesOf } from './candidates.js';
import { collocated } from './policies/collocated.js';
import { disaggregated } from './policies/disaggregated.js';
import type { Candidates, Policy, Route, RoutePlace, Strategy } from './route.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';

/** The two static modes. Adaptive's policy is routeWithin. */
const policies: Readonly<Record<RoutePlace['path'], Policy>> = { collocated, disaggregated };

/** Null when no worker is live. A request that has tokens already is continued where it will decode, by recomputing them. */
export function chooseRoute(
  facts: RequestFacts,
  workers: readonly WorkerSnapshot[],
  strategy: Strategy,
  arrangementFor: (candidates: Candidates) => Arrangement = () => free,
): Route | null {
  const candidates = candidatesOf(workers);
  if (candidates === null) return null;
  if (facts.outputTokenCount === 0) {
    return strategy === 'adaptive'
      ? routeWithin(arrangementFor(candidates), facts, candidates)
      : policies[strategy](facts, candidates);
  }
  const route = collocated(facts, { ...candidates, both: candidates.decode });
  return { ...route, reason: `continues after ${facts.outputTokenCount} tokens by recomputing them` };
}

/** The same, when the place is given (a measurement). Null while one of its workers is not live. */
export function pinnedRoute(facts: RequestFacts, workers: readonly WorkerSnapshot[], place: RoutePlace): Route | null {
  const live = (id: WorkerSnapshot['id']) => workers.filter((worker) => worker.isLive && worker.id === id);
  const both = place.path === 'collocated' ? live(place.worker) : [];
  const prefill = place.path === 'collocated' ? both : live(place.prefillWorker);
  const decode = place.path === 'collocated' ? both : live(place.decodeWorker);
  if (prefill.length === 0 || decode.length === 0) return null;
  return { ...policies[place.path](facts, { prefill, decode, both }), reason: 'as asked' };
}
