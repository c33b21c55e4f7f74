/** The router: request facts and a plan in, a route out. Pure; called by control/routing.ts for every
 *  attempt.
 *
 *  A request goes where its SLOs are met at least cost to others' SLOs:
 *    1. It decodes where a step with one more row takes the least share of its TPOT.
 *    2. Its prompt goes to the prefill-first worker with the earliest first token while that is due within
 *       half of its TTFT: there it slows nobody's tokens. Beyond that, wherever the first token comes first,
 *       beside decodes too: steps are paced, so that these keep their TPOT.
 *    3. When neither way keeps its SLO, a prefill-first worker computes both phases if that does; else it
 *       goes where its SLO is missed least.
 *  Where every worker computes both phases, it goes where TTFT and TPOT together take the least share of
 *  their SLOs. Of equals the one goes first that has been given nothing for longest. A small difference is no
 *  tie: it is what evens out the load. */
import { at } from '../base/assert.js';
import { estimateRoute, type RouteEstimate, type RouteParts } from './estimate.js';
import { aimedTpotShare } from './paced-step.js';
import { alone, type Plan } from './plan.js';
import {
  type DecodePrediction,
  hasRoom,
  type PrefillPrediction,
  predictDecode,
  predictPrefill,
} from './prediction.js';
import { type Route, type RoutePlace, workersOf } from './route.js';
import { usualSloSpec } from './slo-spec.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';
import { rowsMs } from './step-cost.js';

/** A first token that comes within this share of its TTFT is early enough: prompts stay on prefill-first
 *  workers. Half leaves the other half for what comes meanwhile and is due before. */
export const comfortableTtftUse = 0.5;
/** Of many workers the few that look least busy are estimated: a decision among 64 costs what it costs among
 *  8. */
const lookCount = 8;

/** The best of what the plan allows. */
export function chooseRoute(facts: RequestFacts, plan: Plan): Route {
  const options = new Options(facts, plan);
  const collocated = options.collocated(plan.collocated);
  const pair = options.pair();
  if (pair === null)
    return options.route(collocated ?? options.lastResort(), `least use of ${plan.collocated.length}`);
  if (collocated === null) return options.route(pair, `earliest of ${plan.prefill.length} prefill workers`);
  if (keepsSlo(pair) && pair.estimate.ttftUse <= comfortableTtftUse) {
    return options.route(
      pair,
      `prefill-first: ${Math.round(100 * pair.estimate.ttftUse)} % of its TTFT`,
      collocated,
    );
  }
  const best = earliest([pair, collocated].filter(keepsSlo));
  if (best === pair) return options.route(pair, 'earliest first token', collocated);
  if (best === collocated) return options.route(collocated, 'first token is earlier beside decodes', pair);
  const spill = options.collocated(plan.prefill.filter(({ role }) => role === 'any'));
  if (spill !== null && keepsSlo(spill))
    return options.route(spill, 'no decode worker can keep its TPOT', pair);
  const least = leastMissed(spill === null ? [pair, collocated] : [pair, collocated, spill]);
  return options.route(least, 'its SLO is missed least', least === pair ? collocated : pair);
}

/** The same, when the place is given (a measurement). Null while one of its workers is not live. */
export function pinnedRoute(
  facts: RequestFacts,
  workers: readonly WorkerSnapshot[],
  place: RoutePlace,
): Route | null {
  const live = (id: WorkerSnapshot['id']) => workers.filter((worker) => worker.isLive && worker.id === id);
  const [prefill, decode] =
    place.path === 'collocated'
      ? [live(place.worker), live(place.worker)]
      : [live(place.prefillWorker), live(place.decodeWorker)];
  if (prefill.length === 0 || decode.length === 0) return null;
  const plan =
    place.path === 'collocated'
      ? alone(decode, 'as asked')
      : { name: 'as asked', collocated: [], prefill, decode };
  return { ...chooseRoute(facts, plan), reason: 'as asked' };
}

/** Whether the workers of a route have time to spare for one that is late: its first token would come
 *  comfortably soon behind everybody there, counted from now, and those who decode keep their TPOT.
 *  `unloadedTtftMs`: of itself; whose TTFT is less is judged by the usual multiple of it. Who finds idle
 *  workers takes from nobody. */
export function hasTimeToSpare(
  route: Route,
  { slo }: RequestFacts,
  workers: readonly WorkerSnapshot[],
  unloadedTtftMs: number,
): boolean {
  const ids = workersOf(route);
  if (workers.every(({ id, load }) => !ids.includes(id) || load.claimCount === 0)) return true;
  const ttftMs = slo.ttftMs >= unloadedTtftMs ? slo.ttftMs : usualSloSpec.ttft.value * unloadedTtftMs;
  return route.estimate.ttftMs <= comfortableTtftUse * ttftMs && route.estimate.tpotUse <= aimedTpotShare;
}

/** A way, weighed. */
interface Weighed {
  readonly parts: RouteParts;
  readonly estimate: RouteEstimate;
}

function keepsSlo({ estimate: { ttftUse, tpotUse } }: Weighed): boolean {
  return ttftUse <= 1 && tpotUse <= aimedTpotShare;
}

function earliest(options: readonly Weighed[]): Weighed | null {
  return options.reduce<Weighed | null>(
    (best, each) => (best === null || each.estimate.ttftUse < best.estimate.ttftUse ? each : best),
    null,
  );
}

function leastMissed(options: readonly [Weighed, ...Weighed[]]): Weighed {
  const missedBy = ({ estimate: { ttftUse, tpotUse } }: Weighed) => Math.max(ttftUse, tpotUse);
  return options.reduce((best, each) => (missedBy(each) < missedBy(best) ? each : best));
}

/** What one decision weighs; predictions are made once for each worker. */
class Options {
  readonly #facts: RequestFacts;
  readonly #plan: Plan;
  readonly #prefills = new Map<WorkerSnapshot, PrefillPrediction>();

  constructor(facts: RequestFacts, plan: Plan) {
    this.#facts = facts;
    this.#plan = plan;
  }

  /** The worker for which both SLOs together are used least. */
  collocated(workers: readonly WorkerSnapshot[]): Weighed | null {
    let best: Weighed | null = null;
    for (const worker of this.#withRoom(workers, 'prefill')) {
      const weighed = this.#weigh(worker, worker);
      if (best === null || useOf(weighed) < useOf(best)) best = weighed;
    }
    return best;
  }

  /** Null when the plan has no two workers for it. */
  pair(): Weighed | null {
    const { prefill, decode } = this.#plan;
    let best: Weighed | null = null;
    // the second in case the first is the prefill worker itself
    const decodes = this.#withRoom(decode, 'decode').slice(0, 2);
    for (const source of leastBusy(this.#facts, prefill, 'prefill')) {
      const target = decodes.find(({ id }) => id !== source.id);
      if (target === undefined) continue;
      const weighed = this.#weigh(source, target);
      if (best === null || weighed.estimate.ttftMs < best.estimate.ttftMs) best = weighed;
    }
    return best;
  }

  /** A plan whose workers can do nothing together (one worker that may only prefill and decode with
   *  another). */
  lastResort(): Weighed {
    const worker = this.#plan.decode[0] ?? at(this.#plan.prefill, 0);
    return this.#weigh(worker, worker);
  }

  route({ parts, estimate }: Weighed, reason: string, other: Weighed | null = null): Route {
    const { prefill, prefillWorker, decodeWorker } = parts;
    const explained = {
      reason,
      estimate,
      prefill,
      ...(other === null
        ? {}
        : { other: { workers: workersOfParts(other.parts), estimate: other.estimate } }),
    };
    if (prefillWorker === decodeWorker) return { path: 'collocated', worker: decodeWorker.id, ...explained };
    return {
      path: 'disaggregated',
      prefillWorker: prefillWorker.id,
      decodeWorker: decodeWorker.id,
      ...explained,
    };
  }

  /** Least used first. Those who would wait for KV or a batch slot only when all would. */
  #withRoom(workers: readonly WorkerSnapshot[], phase: Phase): readonly WorkerSnapshot[] {
    const free = workers.filter((worker) => hasRoom(this.#facts, worker));
    return leastBusy(this.#facts, free.length > 0 ? free : workers, phase);
  }

  #weigh(prefillWorker: WorkerSnapshot, decodeWorker: WorkerSnapshot): Weighed {
    const prefill = this.#prefills.get(prefillWorker) ?? predictPrefill(this.#facts, prefillWorker);
    this.#prefills.set(prefillWorker, prefill);
    const startsInMs = prefill.waitMs + prefill.prefillMs;
    const beside = prefillWorker === decodeWorker ? 'its_prefill' : 'other_prompts';
    const decode: DecodePrediction = predictDecode(this.#facts, decodeWorker, startsInMs, beside);
    const parts = { prefill, prefillWorker, decode, decodeWorker };
    return { parts, estimate: estimateRoute(this.#facts, parts) };
  }
}

function useOf({ estimate: { ttftUse, tpotUse } }: Weighed): number {
  return ttftUse + tpotUse;
}

function workersOfParts({ prefillWorker, decodeWorker }: RouteParts): readonly WorkerSnapshot['id'][] {
  return prefillWorker === decodeWorker ? [decodeWorker.id] : [prefillWorker.id, decodeWorker.id];
}

/** What of a worker is looked at first. */
type Phase = 'prefill' | 'decode';

/** The first `lookCount` by a rough measure, best first; of equals who has been given nothing for longest. */
function leastBusy(
  facts: RequestFacts,
  workers: readonly WorkerSnapshot[],
  phase: Phase,
): readonly WorkerSnapshot[] {
  const measured = workers.map((worker) => ({ worker, ms: roughMs(facts, worker, phase) }));
  const givenMs = ({ worker }: (typeof measured)[number]) => worker.load.givenMs;
  measured.sort((a, b) => a.ms - b.ms || givenMs(a) - givenMs(b) || 0); // −∞ − −∞ is no number
  return measured.slice(0, lookCount).map(({ worker }) => worker);
}

/** Prefill: the prompts ahead, in milliseconds of roughly. Decode: a step with one more row. */
function roughMs(facts: RequestFacts, { load, costs, id }: WorkerSnapshot, phase: Phase): number {
  const { rowKnots, msPerDecodeKvToken } = costs.step;
  const rowCount = load.decoding.rowCount + load.expected.rowCount;
  const kvTokenCount = load.decoding.kvTokenCount + load.expected.kvTokenCount;
  const decodeMs =
    rowsMs(rowKnots, rowCount + 1) + (kvTokenCount + facts.promptTokenCount) * msPerDecodeKvToken;
  if (phase === 'decode') return decodeMs;
  const heldCount = facts.prefixTokenCounts.get(id) ?? 0;
  const msPerToken = rowsMs(rowKnots, costs.tokenBudget) / costs.tokenBudget;
  return (load.queued.tokenCount - heldCount) * msPerToken + decodeMs;
}
