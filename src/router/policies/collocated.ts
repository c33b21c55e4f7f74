/** Both strokes on one worker: the one where that costs least. */
import { assert } from '../../base/assert.js';
import { estimateWhole } from '../estimate.js';
import { decodeForecast, type PrefillForecasts, prefillForecasts } from '../forecast.js';
import type { Candidates, CollocatedRoute, Policy } from '../route.js';
import { shortlist } from '../shortlist.js';
import type { RequestFacts } from '../snapshot.js';

export const collocated: Policy = (facts, candidates): CollocatedRoute => bestWorker(facts, candidates, prefillForecasts(facts));

export function bestWorker(facts: RequestFacts, candidates: Candidates, forecastOf: PrefillForecasts): CollocatedRoute {
  const all = candidates.both.length > 0 ? candidates.both : candidates.decode;
  const pool = shortlist(facts, all, 'both');
  let best: CollocatedRoute | null = null;
  for (const worker of pool) {
    const prefill = forecastOf(worker);
    const estimate = estimateWhole(
      facts,
      worker,
      prefill,
      decodeForecast(facts, worker, prefill.waitMs + prefill.prefillMs, 'its_prefill'),
    );
    if (best !== null && best.estimate.cost <= estimate.cost) continue; // the first of equals: the same choice every time
    const reason = candidates.fallback ?? `least cost of ${all.length}`;
    best = { path: 'collocated', worker: worker.id, reason, estimate, prefill };
  }
  assert(best !== null, 'a policy needs at least one worker');
  return best;
}
