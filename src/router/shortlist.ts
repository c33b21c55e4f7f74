/** Of many workers the few worth a full forecast, by a glance at their queues: so that a decision costs the same among 64 as among 8.
 *  Used by the policies. Invariant: up to `lookCount` workers nobody is left out. */
import { roomWaitMs, uncachedTokenCount } from './forecast.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';
import { rowsMs } from './step-cost.js';

const lookCount = 8;

type Stroke = 'prefill' | 'decode' | 'both';

export function shortlist(facts: RequestFacts, workers: readonly WorkerSnapshot[], stroke: Stroke): readonly WorkerSnapshot[] {
  if (workers.length <= lookCount) return workers;
  const best: { readonly worker: WorkerSnapshot; readonly glance: number }[] = [];
  for (const worker of workers) {
    const glance = glanceMs(facts, worker, stroke);
    let place = best.length;
    while (place > 0 && (best[place - 1]?.glance ?? 0) > glance) place--;
    if (place >= lookCount) continue;
    best.splice(place, 0, { worker, glance });
    if (best.length > lookCount) best.pop();
  }
  return best.map(({ worker }) => worker);
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
