/** Which of several workers is the least loaded, counting what its prefix cache saves. Used by the policies. */
import { assert } from '../base/assert.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';

/** Prompt tokens a worker computes before this request's first token: its queue, and the part of the prompt it does not hold. */
export function prefillTokenCount(facts: RequestFacts, worker: WorkerSnapshot): number {
  return worker.queuedPromptTokenCount + uncachedTokenCount(facts, worker);
}

export function uncachedTokenCount(facts: RequestFacts, worker: WorkerSnapshot): number {
  const held = facts.prefixTokenCounts.get(worker.id) ?? 0;
  return Math.max(1, facts.promptTokenCount + facts.outputTokenCount - held);
}

/** Share of its blocks in use once this request has joined; above 1 it does not fit now. */
export function fillShare(facts: RequestFacts, worker: WorkerSnapshot): number {
  const tokenCount = facts.promptTokenCount + facts.outputTokenCount;
  const usedCount = worker.blockCount - worker.availableBlockCount;
  return (usedCount + Math.ceil(tokenCount / worker.blockTokenCount)) / worker.blockCount;
}

/** The worker with the least cost; the first of equals, so that the choice is the same every time. */
export function leastBy(workers: readonly WorkerSnapshot[], cost: (worker: WorkerSnapshot) => number): WorkerSnapshot {
  let best: WorkerSnapshot | undefined;
  for (const worker of workers) if (best === undefined || cost(worker) < cost(best)) best = worker;
  assert(best !== undefined, 'a policy needs at least one worker');
  return best;
}
