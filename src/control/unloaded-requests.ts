/** Requests that have the whole system to themselves, and what they took over what the costs say: SLOs are
 *  multiples of that. Used by routing.ts. Invariant: a request counts as alone only if no other was there at
 *  any moment of its life. */
import { unloadedTpotMs } from '../router/default-slo.js';
import { unloadedTtftMs } from '../router/prediction.js';
import type { RequestOutcomeTimes } from '../router/request-correction.js';
import type { Route } from '../router/route.js';
import type { RequestFacts, WorkerSnapshot } from '../router/snapshot.js';
import { asCosted } from '../router/unloaded-ratios.js';
import type { RequestRecord } from './request-record.js';
import { sidesOf } from './route-summary.js';

/** Finds requests that no other overlaps. */
export class LoneRequests {
  #count = 0;
  #alone: object | null = null;

  enter(who: object): void {
    this.#alone = this.#count === 0 ? who : null;
    this.#count++;
  }

  /** Whether it was alone. To be called once for each that has entered. */
  leave(who: object): boolean {
    const wasAlone = this.#alone === who;
    this.#alone = null;
    this.#count--;
    return wasAlone;
  }
}

/** What the costs say of a request that is alone, without what was learned of such. */
export interface UnloadedCosts {
  readonly ttftMs: number;
  readonly tpotMs: number;
}

/** Null: several choices, which are no step of one row. */
export function unloadedCostsOf(
  route: Route,
  facts: RequestFacts,
  workers: readonly WorkerSnapshot[],
): UnloadedCosts | null {
  const [prefill, decode] = sidesOf(route).map((side) => workers.find(({ id }) => id === side));
  if (prefill === undefined || decode === undefined || facts.choiceCount > 1) return null;
  const tpotMs = unloadedTpotMs({ costs: decode.costs, unloaded: asCosted }, facts.promptTokenCount);
  return { ttftMs: unloadedTtftMs(facts, prefill) / prefill.unloaded.ttft, tpotMs };
}

/** Real over costed. A prompt that was cached is not what SLOs are made for. */
export function unloadedRatiosOf(
  { ttftMs, tpotMs }: UnloadedCosts,
  { real }: RequestOutcomeTimes,
  record: RequestRecord,
) {
  return {
    ttft: record.cachedTokenCount > 0 ? null : real.ttftMs / ttftMs,
    tpot: real.stepMs === null ? null : real.stepMs / tpotMs,
  };
}
