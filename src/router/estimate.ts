/** What a route would take for a request, and what share of its SLO that is. Pure; used by choose-route.ts.
 *
 *      TTFT = messages + wait + prefill                       wait: running steps, prompts due before, KV room
 *      TPOT = (transfer + join + tokens · step) / tokens      step: as the decodes there will share it with prompts
 */
import type { WorkerId } from '../base/ids.js';
import type { CostParameters } from './cost-parameters.js';
import type { DecodePrediction, PrefillPrediction } from './prediction.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';

export interface RouteEstimate {
  readonly ttftMs: number;
  /** Of ttftMs: between gateway and worker. */
  readonly messagesMs: number;
  /** Of ttftMs: for KV room, running steps and earlier prompts. */
  readonly waitMs: number;
  readonly prefillMs: number;
  /** From the first token until the decode worker may take it. 0 where nothing moves. */
  readonly transferMs: number;
  /** From there until a step there does. 0 where nothing moves. */
  readonly joinMs: number;
  /** Per token after that. */
  readonly stepMs: number;
  /** With the expected length: (e2elMs − ttftMs) / (tokens − 1). */
  readonly tpotMs: number;
  readonly e2elMs: number;
  /** ttftMs over its SLO. */
  readonly ttftUse: number;
  /** Time per token over its SLO if no more prompts came: what cannot be had back by pacing. */
  readonly tpotUse: number;
}

/** Prefill and decode on one worker, or on two. */
export interface RouteParts {
  readonly prefill: PrefillPrediction;
  readonly prefillWorker: WorkerSnapshot;
  readonly decode: DecodePrediction;
  readonly decodeWorker: WorkerSnapshot;
}

export function estimateRoute(facts: RequestFacts, parts: RouteParts): RouteEstimate {
  const { prefill, prefillWorker, decode, decodeWorker } = parts;
  const isSplit = prefillWorker.id !== decodeWorker.id;
  const { arrivalMs, tokenMs } = prefillWorker.costs.request;
  const messagesMs = prefillWorker.corrections.messages * (arrivalMs + tokenMs);
  const waitMs = prefill.waitMs + prefillWorker.corrections.wait * roomWaitOf(parts, isSplit);
  const ttftMs = messagesMs + waitMs + prefill.prefillMs;
  const transferMs = isSplit
    ? prefillWorker.corrections.transfer *
      transferMsOf(facts, prefillWorker, decodeWorker.id, prefill.prefillMs)
    : 0;
  const joinMs = isSplit ? decode.joinMs : 0;
  const furtherCount = Math.max(1, facts.expectedTokenCount - 1);
  const afterMs = transferMs + joinMs + furtherCount * decode.stepMs;
  return {
    ttftMs,
    messagesMs,
    waitMs,
    prefillMs: prefill.prefillMs,
    transferMs,
    joinMs,
    stepMs: decode.stepMs,
    tpotMs: afterMs / furtherCount,
    e2elMs: ttftMs + afterMs,
    ttftUse: ttftMs / facts.slo.ttftMs,
    tpotUse: (decode.aloneMs + (transferMs + joinMs) / furtherCount) / facts.slo.tpotMs,
  };
}

/** What of the transfer is exposed: bytes move while the prompt is computed, and only what decode does not
 *  hold. */
function transferMsOf(
  facts: RequestFacts,
  { costs }: WorkerSnapshot,
  target: WorkerId,
  prefillMs: number,
): number {
  const held = facts.prefixTokenCounts.get(target) ?? 0;
  const bytes = Math.max(0, facts.promptTokenCount - held) * costs.kvBytesPerToken;
  let linkMs = Number.POSITIVE_INFINITY;
  for (const link of costs.links)
    linkMs = Math.min(linkMs, link.latencyMs + Math.max(0, (bytes / link.bytesPerSecond) * 1000 - prefillMs));
  return handOverMsOf(costs, facts.promptTokenCount) + linkMs;
}

/** Without what its bytes take. */
export function handOverMsOf({ request }: Pick<CostParameters, 'request'>, promptTokenCount: number): number {
  return request.handOverMs + request.handOverMsPerToken * promptTokenCount;
}

/** Both phases need KV; those who wait for it already go first. */
function roomWaitOf({ prefill, decode }: RouteParts, isSplit: boolean): number {
  const waitingForKvMs = decode.roomWaitMs === 0 ? 0 : prefill.waitingForKvMs;
  return decode.roomWaitMs + waitingForKvMs + (isSplit ? prefill.roomWaitMs : 0);
}
