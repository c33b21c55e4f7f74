/** Whichever path costs least now: one worker for both strokes, or one for each. The rule is the cost in estimate.ts. */
import { prefillForecasts } from '../forecast.js';
import type { Policy, Route } from '../route.js';
import { workersOf } from '../route.js';
import { bestWorker } from './collocated.js';
import { bestPair } from './disaggregated.js';

export const adaptive: Policy = (facts, candidates): Route => {
  const forecastOf = prefillForecasts(facts); // both paths look at much the same workers
  const pair = bestPair(facts, candidates, forecastOf);
  if (candidates.both.length === 0 && pair !== null) return { ...pair, reason: 'no worker may do both strokes' };
  const whole = bestWorker(facts, candidates, forecastOf);
  if (pair === null) return whole;
  const [chosen, other] = pair.estimate.cost < whole.estimate.cost ? [pair, whole] : [whole, pair];
  return {
    ...chosen,
    reason: candidates.fallback ?? `costs ${chosen.estimate.cost.toFixed(2)}, ${other.path} ${other.estimate.cost.toFixed(2)}`,
    other: { workers: workersOf(other), estimate: other.estimate },
  };
};
