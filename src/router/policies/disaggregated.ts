/** Prefill on one worker, decode on another. Prefill goes where the first token comes soonest, decode where the batch is smallest. */
import { fillShare, leastBy, prefillTokenCount } from '../load.js';
import type { Policy, Route } from '../route.js';
import type { RequestFacts, WorkerSnapshot } from '../snapshot.js';
import { collocated } from './collocated.js';

/** Sequences a step decodes, and behind them prompt work that would hold the steps up; no room weighs most. */
function decodeCost(facts: RequestFacts, worker: WorkerSnapshot): number {
  return worker.decodingCount + worker.queuedPromptTokenCount / 256 + (fillShare(facts, worker) > 1 ? 1000 : 0);
}

/** `any` workers stand in both lists: prefill then prefers one that decodes little. */
function prefillCost(facts: RequestFacts, worker: WorkerSnapshot): number {
  return prefillTokenCount(facts, worker) + 32 * worker.decodingCount;
}

export const disaggregated: Policy = (facts, candidates): Route => {
  const prefill = leastBy(candidates.prefill, (each) => prefillCost(facts, each));
  const others = candidates.decode.filter((worker) => worker.id !== prefill.id);
  if (others.length === 0)
    return collocated(facts, { ...candidates, both: [prefill], fallback: candidates.fallback ?? 'only one worker' });
  const decode = leastBy(others, (each) => decodeCost(facts, each));
  return {
    path: 'disaggregated',
    prefillWorker: prefill.id,
    decodeWorker: decode.id,
    reason: candidates.fallback ?? `least loaded of ${candidates.prefill.length} prefill and ${others.length} decode`,
    estimates: {
      queuedTokenCount: prefillTokenCount(facts, prefill),
      decodingCount: decode.decodingCount,
      decodeFillShare: fillShare(facts, decode),
    },
  };
};
