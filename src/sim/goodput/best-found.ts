/** The best goodput that any of the tried policies reaches on modelled workers. Used by goodput-point.ts. No
 *  bound: a better one may exist. */
import type { WorkerTimes } from '../simulated-workers.js';
import { isGood, type ModelRequest, serve } from './cluster-model.js';
import { policiesFor } from './policies.js';
import type { Knowledge } from './step-policies.js';

/** Requests of one seed. The first and the last are served and not counted: of those the system is not yet,
 *  or no longer, as full as in between. */
interface ModelLoad {
  readonly requests: readonly ModelRequest[];
  readonly firstCounted: number;
  readonly countedCount: number;
  /** Of each worker, fresh for every policy. */
  readonly times: () => readonly WorkerTimes[];
}

interface Found {
  readonly policy: string;
  /** Of the counted requests, those within their SLO. */
  readonly share: number;
}

export function bestFound(loads: readonly ModelLoad[], knowledge: Knowledge, workerCount: number): Found {
  let best: Found = { policy: 'none', share: 0 };
  for (const policy of policiesFor(knowledge, workerCount)) {
    let good = 0;
    let counted = 0;
    for (const { requests, firstCounted, countedCount, times } of loads) {
      const served = serve(requests, policy, times()).slice(firstCounted, firstCounted + countedCount);
      good += served.filter(isGood).length;
      counted += served.length;
    }
    if (good / counted > best.share) best = { policy: policy.name, share: good / counted };
  }
  return best;
}
