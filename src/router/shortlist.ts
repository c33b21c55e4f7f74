/** Of many workers the few worth a full forecast, by a glance at their queues: so that a decision costs the same among 64 as among 8.
 *  Used by the policies. Invariant: up to `lookCount` workers nobody is left out. */
import { at } from '../base/assert.js';
import { roomWaitMs, uncachedTokenCount } from './forecast.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';
import { rowsMs } from './step-cost.js';

const lookCount = 8;

type Stroke = 'prefill' | 'decode' | 'both';

/** Best first; of equals the first. */
export function shortlist(facts: RequestFacts, workers: readonly WorkerSnapshot[], stroke: Stroke): readonly WorkerSnapshot[] {
  if (workers.length <= lookCount) return workers;
  const best: WorkerSnapshot[] = [];
  const glances = new Float64Array(lookCount).fill(Number.POSITIVE_INFINITY);
  for (const worker of workers) {
    const glance = glanceMs(facts, worker, stroke);
    if (best.length === lookCount && glance >= at(glances, lookCount - 1)) continue;
    let place = Math.min(best.length, lookCount - 1);
    for (; place > 0 && at(glances, place - 1) > glance; place--) {
      glances[place] = at(glances, place - 1);
      best[place] = at(best, place - 1);
    }
    glances[place] = glance;
    best[place] = worker;
  }
  return best;
}

/** Prompt work ahead, the wait for memory, and steps as long as its batch makes them, in milliseconds of roughly. */
function glanceMs(facts: RequestFacts, worker: WorkerSnapshot, stroke: Stroke): number {
  const { load, costs } = worker;
  const rowCount = load.decoding.rowCount + load.expected.rowCount;
  const { rowKnots } = costs.step;
  const promptMs = rowsMs(rowKnots, costs.tokenBudget) / costs.tokenBudget;
  const prefillMs = (load.queued.tokenCount + (stroke === 'decode' ? 0 : uncachedTokenCount(facts, worker))) * promptMs;
  const decodeMs = rowsMs(rowKnots, rowCount + 1) + load.decoding.kvTokenCount * costs.step.msPerDecodeKvToken;
  return stroke === 'prefill'
    ? prefillMs + decodeMs
    : prefillMs + roomWaitMs(facts, worker) + facts.expectedTokenCount * decodeMs;
}
