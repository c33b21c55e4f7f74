/** Prefill on one worker, decode on another: the pair that costs least. With many workers only the best few of each side are paired. */
import { estimateSplit, type PathEstimate, promisingDecode, promisingPrefill } from '../estimate.js';
import {
  type DecodeForecast,
  decodeForecast,
  type PrefillForecast,
  type PrefillForecasts,
  prefillForecasts,
} from '../forecast.js';
import type { Candidates, DisaggregatedRoute, Policy, Route } from '../route.js';
import { shortlist } from '../shortlist.js';
import type { RequestFacts, WorkerSnapshot } from '../snapshot.js';
import { collocated } from './collocated.js';

/** Of each side. One more than one, since the best of both sides may be the same worker; a third costs little. */
const pairedCount = 3;

export const disaggregated: Policy = (facts, candidates): Route => {
  const route = bestPair(facts, candidates, prefillForecasts(facts));
  if (route !== null) return route;
  return collocated(facts, { ...candidates, both: candidates.prefill, fallback: candidates.fallback ?? 'only one worker' });
};

/** Null when there are no two workers. */
export function bestPair(facts: RequestFacts, candidates: Candidates, forecastOf: PrefillForecasts): DisaggregatedRoute | null {
  const prefills = bestOf(shortlist(facts, candidates.prefill, 'prefill'), forecastOf, (worker, forecast) =>
    promisingPrefill(facts, worker, forecast),
  );
  const [first] = prefills;
  const startsInMs = first === undefined ? 0 : first.forecast.waitMs + first.forecast.prefillMs;
  const decodes = bestOf(
    shortlist(facts, candidates.decode, 'decode'),
    (worker) => decodeForecast(facts, worker, startsInMs, 'other_prompts'),
    (worker, forecast) => promisingDecode(facts, worker, forecast),
  );
  const best = leastOf(facts, prefills, decodes);
  if (best === null) return null;
  const { prefill, decode, estimate } = best;
  const reason =
    candidates.fallback ?? `least cost of ${candidates.prefill.length} prefill and ${candidates.decode.length} decode`;
  const workers = { prefillWorker: prefill.worker.id, decodeWorker: decode.worker.id };
  return { path: 'disaggregated', ...workers, reason, estimate, prefill: prefill.forecast };
}

interface Pair {
  readonly prefill: Ranked<PrefillForecast>;
  readonly decode: Ranked<DecodeForecast>;
  readonly estimate: PathEstimate;
}

function leastOf(
  facts: RequestFacts,
  prefills: readonly Ranked<PrefillForecast>[],
  decodes: readonly Ranked<DecodeForecast>[],
): Pair | null {
  let best: Pair | null = null;
  for (const prefill of prefills) {
    for (const decode of decodes) {
      if (prefill.worker.id === decode.worker.id) continue;
      const estimate = estimateSplit(facts, [prefill.worker, prefill.forecast], [decode.worker, decode.forecast]);
      if (best === null || estimate.cost < best.estimate.cost) best = { prefill, decode, estimate };
    }
  }
  return best;
}

interface Ranked<Forecast> {
  readonly worker: WorkerSnapshot;
  readonly forecast: Forecast;
  readonly cost: number;
}

/** The few with the least cost, best first; of equals the first. */
function bestOf<Forecast extends PrefillForecast | DecodeForecast>(
  workers: readonly WorkerSnapshot[],
  forecastOf: (worker: WorkerSnapshot) => Forecast,
  costOf: (worker: WorkerSnapshot, forecast: Forecast) => number,
): readonly Ranked<Forecast>[] {
  const best: Ranked<Forecast>[] = [];
  for (const worker of workers) {
    const forecast = forecastOf(worker);
    const cost = costOf(worker, forecast);
    let place = best.length;
    while (place > 0 && (best[place - 1]?.cost ?? 0) > cost) place--;
    if (place >= pairedCount) continue;
    best.splice(place, 0, { worker, forecast, cost });
    if (best.length > pairedCount) best.pop();
  }
  return best;
}
