/** The cost model: what each path would take for a request, and what it would cost the others. Pure; used by the policies.
 *
 *  A path's cost, in one currency: how much of its latency limits a request uses up, squared, so that being near a limit counts more than
 *  being fast already. Limits are multiples of what a request needs that is alone: 5 × TTFT, 2 × TPOT (weights, not promises).
 *
 *    cost = (ttft / limit)² + (tpot / limit)²                      its own
 *         + Σ decoding sequences: rise of their (tpot / limit)²     held up by its prompt, or by one more row in their steps
 *         + Σ prompts to come meanwhile: rise of their ttft / limit  that queue behind it
 */
import type { WorkerId } from '../base/ids.js';
import { type DecodeForecast, decodeStepMs, type PrefillForecast, unloadedTtftMs } from './forecast.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';
import { stepMs } from './step-cost.js';

const ttftLimitRatio = 5;
const tpotLimitRatio = 2;
/** Beyond this use of a limit cost goes on in a straight line: it is missed anyway, and late requests still want to end. */
const kneeRatio = 2;

export interface PathEstimate {
  readonly ttftMs: number;
  /** Of ttftMs: between gateway and worker. */
  readonly messagesMs: number;
  /** Of ttftMs: for room, running steps and earlier prompts. */
  readonly waitMs: number;
  readonly prefillMs: number;
  /** From the first token until the decode side may take it. 0 where nothing moves. */
  readonly transferMs: number;
  /** From there until a step there does. 0 where nothing moves. */
  readonly joinMs: number;
  /** Per token after that. */
  readonly stepMs: number;
  /** With the expected length: (e2elMs − ttftMs) / (tokens − 1). */
  readonly tpotMs: number;
  readonly e2elMs: number;
  /** What others lose together, milliseconds. */
  readonly inflictedMs: number;
  readonly cost: number;
}

/** Both halves on one worker. */
export function estimateWhole(facts: RequestFacts, worker: WorkerSnapshot, prefill: PrefillForecast, decode: DecodeForecast) {
  return estimate(facts, { prefill, prefillWorker: worker, decode, decodeWorker: worker, transferMs: 0, joinMs: 0 });
}

export function estimateSplit(
  facts: RequestFacts,
  [prefillWorker, prefill]: readonly [WorkerSnapshot, PrefillForecast],
  [decodeWorker, decode]: readonly [WorkerSnapshot, DecodeForecast],
): PathEstimate {
  const transferMs = prefillWorker.corrections.transfer * transferMsOf(facts, prefillWorker, decodeWorker.id, prefill.prefillMs);
  return estimate(facts, { prefill, prefillWorker, decode, decodeWorker, transferMs, joinMs: decode.joinMs });
}

/** What of the transfer is felt: bytes move while the prompt is computed, and only what decode does not hold. */
function transferMsOf(facts: RequestFacts, { costs }: WorkerSnapshot, target: WorkerId, prefillMs: number): number {
  const held = facts.prefixTokenCounts.get(target) ?? 0;
  const bytes = Math.max(0, facts.promptTokenCount - held) * costs.kvBytesPerToken;
  let linkMs = Number.POSITIVE_INFINITY;
  for (const link of costs.links)
    linkMs = Math.min(linkMs, link.latencyMs + Math.max(0, (bytes / link.bytesPerSecond) * 1000 - prefillMs));
  const { handOverMs, handOverMsPerToken } = costs.request;
  return handOverMs + handOverMsPerToken * facts.promptTokenCount + linkMs;
}

interface Path {
  readonly prefill: PrefillForecast;
  readonly prefillWorker: WorkerSnapshot;
  readonly decode: DecodeForecast;
  readonly decodeWorker: WorkerSnapshot;
  readonly transferMs: number;
  readonly joinMs: number;
}

function estimate(facts: RequestFacts, path: Path): PathEstimate {
  const { prefill, prefillWorker, decode, decodeWorker, transferMs, joinMs } = path;
  const { arrivalMs, tokenMs } = prefillWorker.costs.request;
  const messagesMs = prefillWorker.corrections.messages * (arrivalMs + tokenMs);
  const waitMs = prefill.waitMs + prefillWorker.corrections.wait * roomWaitOf(path);
  const ttftMs = messagesMs + waitMs + prefill.prefillMs;
  const furtherCount = Math.max(1, facts.expectedTokenCount - 1);
  const afterMs = transferMs + joinMs + furtherCount * decode.stepMs;
  const tpotMs = afterMs / furtherCount;
  const meanTpotMs = tpotMs + decode.meanStepMs - decode.stepMs;
  const inflicted = inflictedBy(facts, path);
  const ttftUse = ttftMs / ttftLimitMs(prefill);
  const tpotUse = meanTpotMs / tpotLimitMs(decodeWorker, facts.promptTokenCount);
  return {
    ttftMs,
    messagesMs,
    waitMs,
    prefillMs: prefill.prefillMs,
    transferMs,
    joinMs,
    stepMs: decode.stepMs,
    tpotMs,
    e2elMs: ttftMs + afterMs,
    inflictedMs: inflicted.ms,
    cost: facts.ttftWeight * costOf(ttftUse) + costOf(tpotUse) + inflicted.cost,
  };
}

/** Both strokes need room; those who wait already go first. */
function roomWaitOf({ prefill, prefillWorker, decode, decodeWorker }: Path): number {
  const linedMs = decode.roomWaitMs === 0 ? 0 : prefill.linedMs;
  return decode.roomWaitMs + linedMs + (decodeWorker === prefillWorker ? 0 : prefill.roomWaitMs);
}

/** Ranks workers as prefill sides before pairs are looked at. */
export function promisingPrefill(facts: RequestFacts, worker: WorkerSnapshot, prefill: PrefillForecast): number {
  const ttftMs = prefill.waitMs + prefill.roomWaitMs + prefill.prefillMs;
  return facts.ttftWeight * costOf(ttftMs / ttftLimitMs(prefill)) + heldUpBy(facts, worker, prefill).cost;
}

/** Ranks workers as decode sides. */
export function promisingDecode(facts: RequestFacts, worker: WorkerSnapshot, decode: DecodeForecast): number {
  const waitUse = decode.roomWaitMs === 0 ? 0 : decode.roomWaitMs / (ttftLimitRatio * unloadedTtftMs(facts, worker));
  return costOf(waitUse) + costOf(decode.meanStepMs / tpotLimitMs(worker)) + heldUpBeside(worker, decode);
}

function inflictedBy(facts: RequestFacts, { prefill, prefillWorker, decode, decodeWorker }: Path) {
  const heldUp = heldUpBy(facts, prefillWorker, prefill);
  const lifeTokens = Math.max(1, facts.expectedTokenCount);
  return {
    ms: heldUp.ms + decode.addedMsPerStep * decode.otherRowCount * lifeTokens,
    cost: heldUp.cost + heldUpBeside(decodeWorker, decode),
  };
}

/** Its prompt holds up, once, each of those who decode there, and the first tokens of those who come before it is done. */
function heldUpBy(facts: RequestFacts, worker: WorkerSnapshot, { addedMs, waitMs, prefillMs }: PrefillForecast) {
  const { load } = worker;
  const { rowCount } = load.decoding;
  const busyMs = waitMs + prefillMs;
  const lifeTokens = Math.max(1, facts.expectedTokenCount);
  return {
    ms: addedMs * (rowCount + load.promptRate(facts.nowMs) * busyMs),
    cost:
      rowCount * rise(worker, decodeStepMs(worker), addedMs / lifeTokens) +
      facts.ttftWeight * (addedMs / ttftLimitRatio) * load.promptUrgency(facts.nowMs) * busyMs,
  };
}

/** Its row holds up, at every step, those who decode beside it. */
function heldUpBeside(worker: WorkerSnapshot, { addedMsPerStep, otherRowCount, meanStepMs }: DecodeForecast): number {
  return otherRowCount * rise(worker, meanStepMs, addedMsPerStep);
}

/** How much more a sequence there pays when each of its tokens takes `moreMs` longer. */
function rise(worker: WorkerSnapshot, nowMs: number, moreMs: number): number {
  const limitMs = tpotLimitMs(worker);
  return costOf((nowMs + moreMs) / limitMs) - costOf(nowMs / limitMs);
}

function costOf(use: number): number {
  return use <= kneeRatio ? use * use : kneeRatio * (2 * use - kneeRatio);
}

/** Of a request's first token. */
export function ttftLimitMs({ unloadedTtftMs }: Pick<PrefillForecast, 'unloadedTtftMs'>): number {
  return ttftLimitRatio * unloadedTtftMs;
}

/** Of its time per token. */
export function tpotLimitMs(worker: Pick<WorkerSnapshot, 'costs' | 'unloaded'>, kvTokenCount = 0): number {
  return tpotLimitRatio * unloadedTpotMs(worker, kvTokenCount);
}

/** A step by itself, with its prompt's keys. */
export function unloadedTpotMs({ costs, unloaded }: Pick<WorkerSnapshot, 'costs' | 'unloaded'>, kvTokenCount: number): number {
  const work = { decodeCount: 1, decodeKvTokenCount: kvTokenCount, prefillTokenCount: 0, prefillPairCount: 0 };
  return unloaded.tpot * stepMs(costs.step, work);
}
