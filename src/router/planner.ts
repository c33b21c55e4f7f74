/** How many workers are prefill-first: as many as leave the most room for prompts while the others keep the
 *  TPOT of all decodes. Used by control/routing.ts for the adaptive strategy, when workers of role `any` may
 *  be used either way. Pure apart from what it remembers.
 *
 *  In a steady state the decodes are known: arrivals · tokens a request · TPOT of them are under way
 *  (Little's law). Divided among n − k workers they make steps of a known length, and what a paced step has
 *  left, prompts may have:
 *
 *      room(k) = k · rate(no decodes) + (n − k) · rate(rows / (n − k))        prompt tokens per ms
 *
 *  None is while a hand-over, until a step takes it up, takes more of the time that a request may decode
 *  than pacing leaves (1 − aimedTpotShare): short answers would miss their TPOT by it.
 *
 *  Invariant: the count changes at most once in `dwellMs`, and only for a clear gain. */
import type { WorkerId } from '../base/ids.js';
import { DecayingRate } from './decaying.js';
import { handOverMsOf } from './estimate.js';
import { aimedTpotShare, type Decodes, stepWith } from './paced-step.js';
import { promptRoomBeside, stepsBeforeNext } from './prediction.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';
import { stepMs } from './step-cost.js';

/** Long against one request, short against the changes of a day. */
const memoryMs = 20_000;
/** What decodes on a worker leaves it within a few seconds: sooner a change has no effect that could be
 *  judged. */
const dwellMs = 10_000;
/** Room gained that a change must promise, and decodes beyond those expected that a further prefill-first
 *  worker must leave room for: less is within the error of the step times and of rates measured over
 *  seconds. */
const clearGain = 1.1;

export class Planner {
  readonly #requests = new DecayingRate(memoryMs);
  readonly #outputTokens = new DecayingRate(memoryMs);
  readonly #kvTokens = new DecayingRate(memoryMs);
  /** Of a few who ask for hours or for nothing the geometric mean hardly knows. */
  readonly #logTpot = new DecayingRate(memoryMs);
  #prefillFirst: ReadonlySet<WorkerId> = new Set();
  #changedMs = Number.NEGATIVE_INFINITY;
  #lookedMs = Number.NEGATIVE_INFINITY;

  /** A request has come. */
  observe({ promptTokenCount, expectedTokenCount, choiceCount, slo, nowMs }: RequestFacts): void {
    this.#requests.add(1, nowMs);
    this.#outputTokens.add(choiceCount * expectedTokenCount, nowMs);
    this.#kvTokens.add(choiceCount * expectedTokenCount * (promptTokenCount + expectedTokenCount / 2), nowMs);
    this.#logTpot.add(Math.log(slo.tpotMs), nowMs);
  }

  /** Of these live workers; changes now and then. */
  prefillFirst(workers: readonly WorkerSnapshot[], nowMs: number): ReadonlySet<WorkerId> {
    const any = workers.filter(({ role, isLive }) => role === 'any' && isLive);
    const current = any.filter(({ id }) => this.#prefillFirst.has(id)).length;
    const isWhole = current === this.#prefillFirst.size; // none of them has died
    if (isWhole && (nowMs - this.#changedMs < dwellMs || nowMs - this.#lookedMs < dwellMs / 10))
      return this.#prefillFirst;
    this.#lookedMs = nowMs;
    const count = this.#bestCount(any, workers, current, nowMs);
    if (count === current && isWhole) return this.#prefillFirst;
    this.#changedMs = nowMs;
    this.#prefillFirst = new Set(leastDecoding(any, count).map(({ id }) => id));
    return this.#prefillFirst;
  }

  #bestCount(
    any: readonly WorkerSnapshot[],
    workers: readonly WorkerSnapshot[],
    current: number,
    nowMs: number,
  ): number {
    const decodeCount = workers.filter(({ role, isLive }) => role === 'decode' && isLive).length;
    const [reference] = any;
    const requestsPerMs = this.#requests.perMs(nowMs);
    if (reference === undefined || requestsPerMs === 0) return current;
    const tpotMs = Math.exp(this.#logTpot.perMs(nowMs) / requestsPerMs);
    const tokensPerMs = this.#outputTokens.perMs(nowMs);
    const rows = tokensPerMs * tpotMs;
    const kvTokenCount = this.#kvTokens.perMs(nowMs) * tpotMs;
    const furtherCount = Math.max(1, tokensPerMs / requestsPerMs - 1);
    const promptTokenCount = kvTokenCount / Math.max(1, rows) - furtherCount / 2;
    const apart = 1 / Math.max(1, any.length + decodeCount - 1);
    const decodes = { count: Math.max(1, rows * apart), kvTokenCount: kvTokenCount * apart };
    const joinMs = stepsBeforeNext * Math.min(tpotMs, stepMs(reference.costs.step, stepWith(decodes, 0)));
    const handOverMs = handOverMsOf(reference.costs, promptTokenCount) + joinMs;
    const handOverShare = handOverMs / (furtherCount * tpotMs);
    const isCheap = handOverShare * (current === 0 ? clearGain : 1) <= 1 - aimedTpotShare;
    const anyMax = decodeCount > 0 ? any.length : any.length - 1;
    const countMax = isCheap ? anyMax : 0;
    const roomWith = (count: number) => {
      const share = (count > current ? clearGain : 1) / (any.length - count + decodeCount);
      const decodes = { count: Math.max(1, rows * share), kvTokenCount: kvTokenCount * share };
      return (
        count * rateOf(reference, { count: 0, kvTokenCount: 0 }, tpotMs) +
        (any.length - count) * rateOf(reference, decodes, tpotMs)
      );
    };
    let [best, bestRoom] = [current, clearGain * roomWith(Math.min(current, countMax))];
    for (let count = 0; count <= countMax; count++) {
      const room = roomWith(count);
      if (room > bestRoom) [best, bestRoom] = [count, room];
    }
    return Math.min(best, countMax);
  }
}

/** Prompt tokens per millisecond beside these decodes; less than nothing when they cannot keep their TPOT
 *  even alone. */
function rateOf(worker: WorkerSnapshot, decodes: Decodes, tpotMs: number): number {
  const baseMs = decodes.count === 0 ? 0 : stepMs(worker.costs.step, stepWith(decodes, 0));
  const aimMs = aimedTpotShare * tpotMs;
  if (baseMs > aimMs) return (aimMs - baseMs) * 100;
  const room = promptRoomBeside(decodes, worker, tpotMs);
  return room / stepMs(worker.costs.step, stepWith(decodes, room));
}

function leastDecoding(workers: readonly WorkerSnapshot[], count: number): readonly WorkerSnapshot[] {
  const rowsOf = ({ load }: WorkerSnapshot) => load.decoding.rowCount + load.expected.rowCount;
  return [...workers].sort((a, b) => rowsOf(a) - rowsOf(b)).slice(0, count);
}
