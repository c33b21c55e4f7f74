/** Both strokes on one worker: the one that gets to the first token with the least work, counting what it decodes meanwhile. */
import { fillShare, leastBy, prefillTokenCount } from '../load.js';
import type { CollocatedRoute, Policy } from '../route.js';
import type { RequestFacts, WorkerSnapshot } from '../snapshot.js';

/** A decoding sequence holds every step up; it weighs like this many queued prompt tokens. A rule of thumb until workers are measured. */
const promptTokensPerDecoding = 32;
/** A worker without room makes the request wait for another's end: worth avoiding at the price of a long prompt. */
const promptTokensWhenFull = 100_000;

export function collocatedCost(facts: RequestFacts, worker: WorkerSnapshot): number {
  const full = fillShare(facts, worker) > 1 ? promptTokensWhenFull : 0;
  return prefillTokenCount(facts, worker) + promptTokensPerDecoding * worker.decodingCount + full;
}

export const collocated: Policy = (facts, candidates): CollocatedRoute => {
  const pool = candidates.both.length > 0 ? candidates.both : candidates.decode;
  const worker = leastBy(pool, (each) => collocatedCost(facts, each));
  return {
    path: 'collocated',
    worker: worker.id,
    reason: candidates.fallback ?? `least loaded of ${pool.length}`,
    estimates: { queuedTokenCount: prefillTokenCount(facts, worker), decodingCount: worker.decodingCount },
  };
};
