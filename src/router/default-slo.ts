/** What a request takes alone, and the SLO of requests that bring none. Pure; used by control/routing.ts. */
import { type UnloadedFacts, unloadedTtftMs } from './prediction.js';
import type { Slo } from './slo.js';
import { type SloSpec, sloFrom, usualSloSpec } from './slo-spec.js';
import type { WorkerSnapshot } from './snapshot.js';
import { stepMs } from './step-cost.js';

/** Workers of one kind differ little: so many are looked at. */
const lookCount = 8;

/** By default multiples of what it would take on the fastest worker if nobody else were there. */
export function defaultSlo(
  facts: UnloadedFacts,
  workers: readonly WorkerSnapshot[],
  spec: SloSpec = usualSloSpec,
): Slo {
  return sloFrom(spec, unloadedMs(facts, workers));
}

/** On the fastest worker if nobody else were there. */
export function unloadedMs(
  facts: UnloadedFacts,
  workers: readonly WorkerSnapshot[],
): Pick<Slo, 'ttftMs' | 'tpotMs'> {
  let ttftMs = Number.POSITIVE_INFINITY;
  let tpotMs = Number.POSITIVE_INFINITY;
  for (const worker of workers.slice(0, lookCount)) {
    if (worker.role !== 'decode') ttftMs = Math.min(ttftMs, unloadedTtftMs(facts, worker));
    if (worker.role !== 'prefill') tpotMs = Math.min(tpotMs, unloadedTpotMs(worker, facts.promptTokenCount));
  }
  return { ttftMs, tpotMs };
}

/** A step by itself, with its prompt's keys. */
export function unloadedTpotMs(
  { costs, unloaded }: Pick<WorkerSnapshot, 'costs' | 'unloaded'>,
  kvTokenCount: number,
): number {
  const work = {
    decodeCount: 1,
    decodeKvTokenCount: kvTokenCount,
    prefillTokenCount: 0,
    prefillPairCount: 0,
  };
  return unloaded.tpot * stepMs(costs.step, work);
}
