/** Both strokes on one worker: the one where that costs least. */
import { assert } from '../../base/assert.js';
import { estimateWhole, type PathEstimate } from '../estimate.js';
import { decodeForecast, type PrefillForecast, type PrefillForecasts, prefillForecasts } from '../forecast.js';
import type { Candidates, CollocatedRoute, Policy } from '../route.js';
import { shortlist } from '../shortlist.js';
import type { RequestFacts, WorkerSnapshot } from '../snapshot.js';

export const collocated: Policy = (facts, candidates): CollocatedRoute => bestWorker(facts, candidates, prefillForecasts(facts));

export function bestWorker(facts: RequestFacts, candidates: Candidates, forecastOf: PrefillForecasts): CollocatedRoute {
  const all = candidates.both.length > 0 ? candidates.both : candidates.decode;
  const pool = shortlist(facts, all, 'both');
  let best: { readonly worker: WorkerSnapshot; readonly estimate: PathEstimate; readonly prefill: PrefillForecast } | null = null;
  for (const worker of pool) {
    const prefill = forecastOf(worker);
    const decode = decodeForecast(facts, worker, prefill.waitMs + prefill.prefillMs, 'its_prefill');
    const estimate = estimateWhole(facts, worker, prefill, decode);
    if (best === null || estimate.cost < best.estimate.cost) best = { worker, estimate, prefill }; // the first of equals: the same choice every time
  }
  assert(best !== null, 'a policy needs at least one worker');
  const reason = candidates.fallback ?? `least cost of ${all.length}`;
  return { path: 'collocated', worker: best.worker.id, reason, estimate: best.estimate, prefill: best.prefill };
}
