/** The cost model's two halves: what a prompt meets on a worker, and what a decoding sequence does. Pure; put
 *  together by estimate.ts. It follows engine/scheduler.ts: a step holds one row for each sequence that
 *  decodes and as many prompt tokens as pacing allows beside them, of the prompts that are due first.
 *  docs/architecture/cost-model.md derives the formulas. All times are milliseconds. */
import type { CostParameters } from './cost-parameters.js';
import { type KvDemand, tokensFor } from './kv-growth.js';
import {
  aimedTpotShare,
  type Decodes,
  efficientChunk,
  leastPromptTokenCount,
  meanRoomWithin,
} from './paced-step.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';
import { rowsMs, stepMs } from './step-cost.js';
import { prefillPairCountOf, type StepWork } from './step-work.js';
import type { PromptSum } from './worker-load.js';

/** A step that runs has half of itself left on average, and the one behind it has been planned already. */
export const stepsBeforeNext = 1.5;
/** A share of the time near 1 is one that was measured too short: a queue that never ends is not
 *  predicted. */
const prefillShareMax = 0.95;

/** A prompt's way to its first token on one worker. */
export interface PrefillPrediction {
  /** Prompt tokens to compute. */
  readonly tokenCount: number;
  /** For steps that run, and for prompts that came before. */
  readonly waitMs: number;
  /** For a batch slot and for memory, if it goes elsewhere when it is done. */
  readonly roomWaitMs: number;
  /** Prompts of those who wait for KV: before its own if it has to wait as well. */
  readonly waitingForKvMs: number;
  readonly prefillMs: number;
  /** What every sequence that decodes there loses by it, once. */
  readonly addedMs: number;
}

/** A sequence's time per token while it decodes on one worker. */
export interface DecodePrediction {
  /** With the prompts that share its steps. */
  readonly stepMs: number;
  /** Without prompts beside it. */
  readonly aloneMs: number;
  /** For a batch slot and for memory: it is let in, and its prompt begun, when it has them. */
  readonly roomWaitMs: number;
  /** From its KV's arrival until a step can take it; 0 where its prompt was computed. */
  readonly joinMs: number;
}

export function predictPrefill(facts: RequestFacts, worker: WorkerSnapshot): PrefillPrediction {
  const { corrections, load } = worker;
  const tokenCount = uncachedTokenCount(facts, worker);
  const room = promptRoom(worker, facts.slo.tpotMs);
  const { inFlightMs, before } = ahead(facts, worker, room);
  const together = {
    tokenCount: before.tokenCount + tokenCount,
    pairCount: before.pairCount + pairCountOf(facts, tokenCount),
  };
  const beforeMs = promptsMs(worker, before, room);
  const endStepCount = Math.ceil(together.tokenCount / room);
  // where prompts queue, the step that ends this one is filled up by those behind it
  const computed = before.tokenCount > 0 ? { ...together, tokenCount: endStepCount * room } : together;
  const prefillMs = Math.max(0, promptsMs(worker, computed, room) - beforeMs);
  const stepCount = endStepCount - Math.ceil(before.tokenCount / room);
  return {
    tokenCount,
    waitMs: corrections.wait * (inFlightMs + beforeMs),
    roomWaitMs: roomWaitMs(facts, worker, noGrowth),
    waitingForKvMs: load.waitingForKv.promptCount === 0 ? 0 : promptsMs(worker, load.waitingForKv, room),
    prefillMs: corrections.prefill * prefillMs,
    addedMs: Math.max(0, prefillMs - stepCount * decodeMsOfSome(worker)),
  };
}

/** Where only the prompt is computed. */
const noGrowth: KvDemand = { tokenCount: 0, variance: 0 };

type PromptTokens = Pick<PromptSum, 'tokenCount' | 'pairCount'>;

/** Before the step that can take this request's prompt: the steps in flight, and prompts that are due before
 *  and not in these. */
function ahead(
  facts: RequestFacts,
  worker: WorkerSnapshot,
  room: number,
): { inFlightMs: number; before: PromptTokens } {
  const { load } = worker;
  const { nowMs, slo, priority = 0, isLate } = facts;
  const waitsForAll = worker.pacing === 'off' || isLate === true;
  const due = waitsForAll
    ? load.queuedUpTo(nowMs, priority)
    : load.dueBefore(nowMs, nowMs + slo.ttftMs, priority);
  const inFlight = upTo(due, stepsBeforeNext * room);
  return {
    inFlightMs: stepsBeforeNext * runningStepMs(worker, room),
    before: {
      tokenCount: due.tokenCount - inFlight.tokenCount,
      pairCount: due.pairCount - inFlight.pairCount,
    },
  };
}

/** As many of the prompts' tokens as so many fit. */
function upTo({ tokenCount, pairCount }: PromptTokens, room: number): PromptTokens {
  const share = Math.min(1, room / Math.max(1, tokenCount));
  return { tokenCount: share * tokenCount, pairCount: share * pairCount };
}

/** `startsInMs`: until it decodes there; `beside`: the worker's prompts queue before its own, or it computes
 *  its prompt elsewhere.
 *
 *  While it decodes, time goes by in steps of those who decode (d) and in what prompts add to them: a backlog
 *  B when it starts, and a share ρ of the time from then on. n tokens take t = n·d + B + ρ·t, but none takes
 *  longer than a step full of prompts. */
export function predictDecode(
  facts: RequestFacts,
  worker: WorkerSnapshot,
  startsInMs: number,
  beside: 'its_prefill' | 'other_prompts',
): DecodePrediction {
  const { load, costs, corrections } = worker;
  const { expectedTokenCount, promptTokenCount, choiceCount, nowMs } = facts;
  const lifeSteps = Math.max(1, expectedTokenCount);
  const share = Math.min(prefillShareMax, load.prefillShare(nowMs));
  const paceSteps = meanRemaining(worker);
  const atStart = rowsAtStart(worker, startsInMs, (paceSteps * decodeMsOfSome(worker)) / (1 - share));
  const otherRowCount = relaxed(atStart, load.decodingMean(nowMs), lifeSteps, paceSteps);
  const claimedCount = load.decoding.rowCount + load.expected.rowCount;
  const kvPerRow =
    claimedCount === 0 ? 0 : (load.decoding.kvTokenCount + load.expected.kvTokenCount) / claimedCount;
  const ownKv = choiceCount * (promptTokenCount + lifeSteps / 2);
  const othersKv = otherRowCount * kvPerRow;
  const aloneMs = corrections.step * decodeMs(costs, otherRowCount + choiceCount, othersKv + ownKv);
  // prompts that queue there now have run when this sequence decodes if its own queues behind them
  const room = promptRoom(worker, facts.slo.tpotMs);
  const queuedMs =
    beside === 'its_prefill' || load.queued.promptCount === 0 ? 0 : queuedPromptsMs(worker, room);
  const backlogMs =
    beside === 'its_prefill' ? share * startsInMs : Math.max(0, queuedMs - (1 - share) * startsInMs);
  const longestMs = Math.max(aloneMs, fullStepMs(worker, room));
  return {
    stepMs: Math.min(longestMs, (aloneMs + backlogMs / lifeSteps) / (1 - share)),
    aloneMs,
    roomWaitMs: roomWaitMs(facts, worker),
    joinMs: beside === 'its_prefill' ? 0 : stepsBeforeNext * runningStepMs(worker, room),
  };
}

export function uncachedTokenCount(facts: RequestFacts, worker: Pick<WorkerSnapshot, 'id'>): number {
  const { prefixTokenCounts } = facts;
  // asked of every worker, and mostly nobody holds it
  const held = prefixTokenCounts.size === 0 ? 0 : (prefixTokenCounts.get(worker.id) ?? 0);
  return Math.max(1, facts.promptTokenCount + facts.outputTokenCount - held);
}

/** Keys that the last `tokenCount` tokens of the request attend to. */
function pairCountOf({ promptTokenCount, outputTokenCount }: RequestFacts, tokenCount: number): number {
  return prefillPairCountOf(promptTokenCount + outputTokenCount - tokenCount, tokenCount);
}

/** From arrival to first token on a worker that holds nothing and has nothing else to do: what the SLO of
 *  TTFT is a multiple of. */
export type UnloadedFacts = Pick<RequestFacts, 'promptTokenCount' | 'outputTokenCount'>;

export function unloadedTtftMs(facts: UnloadedFacts, { costs, unloaded }: WorkerSnapshot): number {
  const tokenCount = facts.promptTokenCount + facts.outputTokenCount;
  const room = Math.min(costs.tokenBudget, costs.prefillChunkTokenCount);
  const work = { tokenCount, pairCount: prefillPairCountOf(0, tokenCount) };
  return unloaded.ttft * (costs.request.arrivalMs + stepsMs(costs, work, room, 0, 0) + costs.request.tokenMs);
}

/** A step of the sequences that decode there now, or of one while there is none: what steps take anyway. */
function decodeMsOfSome(worker: WorkerSnapshot): number {
  const { rowCount, kvTokenCount } = worker.load.decoding;
  return decodeMs(worker.costs, Math.max(1, rowCount), kvTokenCount);
}

/** A step as full of prompts as it may be. */
function fullStepMs(worker: WorkerSnapshot, prefillTokenCount: number): number {
  const { load, costs } = worker;
  const { rowCount, kvTokenCount } = load.decoding;
  const prefillPairCount = prefillPairCountOf(0, prefillTokenCount);
  return stepMs(costs.step, {
    decodeCount: rowCount,
    decodeKvTokenCount: kvTokenCount,
    prefillTokenCount,
    prefillPairCount,
  });
}

/** Rows there in `startsInMs`: of those who decode now some have ended, of those who are to come, one after
 *  the other, some as well. */
function rowsAtStart({ load }: WorkerSnapshot, startsInMs: number, lifeMs: number): number {
  if (startsInMs === 0 || lifeMs === 0) return load.decoding.rowCount + load.expected.rowCount;
  const x = startsInMs / lifeMs;
  return load.decoding.rowCount * Math.exp(-x) + (load.expected.rowCount * (1 - Math.exp(-x))) / x;
}

/** A step that runs there now, prompts included. */
function runningStepMs(worker: WorkerSnapshot, room: number): number {
  const { load, costs } = worker;
  const { rowCount: decodeCount, kvTokenCount: decodeKvTokenCount } = load.decoding;
  const { tokenCount: prefillTokenCount, pairCount: prefillPairCount } = upTo(load.queued, room);
  return stepMs(costs.step, { decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount });
}

function decodeMs({ step }: CostParameters, decodeCount: number, decodeKvTokenCount: number): number {
  return stepMs(step, { decodeCount, decodeKvTokenCount, prefillTokenCount: 0, prefillPairCount: 0 });
}

/** Prompt tokens that a step of this worker has room for, beside decodes that are to keep such a TPOT. */
function promptRoom(worker: WorkerSnapshot, tpotMs: number): number {
  const { decoding, expected } = worker.load;
  const decodes = {
    count: decoding.rowCount + expected.rowCount,
    kvTokenCount: decoding.kvTokenCount + expected.kvTokenCount,
  };
  return promptRoomBeside(decodes, worker, tpotMs);
}

export function promptRoomBeside(
  decodes: Decodes,
  { load, costs, pacing }: WorkerSnapshot,
  tpotMs: number,
): number {
  const rowCount = decodes.count;
  const room = Math.max(leastPromptTokenCount, costs.tokenBudget - rowCount);
  if (pacing === 'off')
    return load.queued.promptCount === 0 ? Math.min(room, costs.prefillChunkTokenCount) : room;
  const predictMs = (work: StepWork) => stepMs(costs.step, work);
  const most = Math.min(room, efficientChunk(predictMs, costs.tokenBudget));
  if (rowCount === 0) return most;
  return meanRoomWithin(predictMs, decodes, aimedTpotShare * tpotMs, { most, firstPosition: 0 });
}

/** Steps that compute these prompts, with the rows that decode beside them. */
function promptsMs(worker: WorkerSnapshot, work: PromptTokens, room: number): number {
  const { rowCount, kvTokenCount } = worker.load.decoding;
  return stepsMs(worker.costs, work, room, rowCount, kvTokenCount);
}

function stepsMs(
  { step }: CostParameters,
  { tokenCount, pairCount }: PromptTokens,
  room: number,
  decodeCount: number,
  decodeKvTokenCount: number,
): number {
  const fullCount = Math.floor(tokenCount / room);
  const restCount = tokenCount - fullCount * room;
  const fullMs = fullCount === 0 ? 0 : fullCount * rowsMs(step.rowKnots, decodeCount + room);
  const restMs = restCount === 0 ? 0 : rowsMs(step.rowKnots, decodeCount + restCount);
  const stepCount = fullCount + (restCount === 0 ? 0 : 1);
  const besideMs =
    stepCount * (decodeCount * step.msPerSampledRow + decodeKvTokenCount * step.msPerDecodeKvToken);
  return fullMs + restMs + besideMs + pairCount * step.msPerPrefillPair;
}

/** What the queued prompts add to the steps of those who decode. */
function queuedPromptsMs(worker: WorkerSnapshot, room: number): number {
  const { queued } = worker.load;
  return Math.max(
    0,
    promptsMs(worker, queued, room) - Math.ceil(queued.tokenCount / room) * decodeMsOfSome(worker),
  );
}

/** What of its batch slots and its memory is missing for this request and all who were routed there before;
 *  null: nothing. */
function missingRoom(
  facts: RequestFacts,
  { id, load, batchSlotCount = Number.POSITIVE_INFINITY, blockTokenCount, blockCount }: WorkerSnapshot,
  growth: KvDemand,
): { readonly missingSlotCount: number; readonly tokensMissing: number } | null {
  const { decoding, expected, claimed } = load;
  const rowCount = decoding.rowCount + expected.rowCount;
  if (rowCount === 0) return null; // a worker that holds nobody takes anybody
  const missingSlotCount = Math.max(0, rowCount + facts.choiceCount - batchSlotCount);
  const tokenCount = claimed.tokenCount + uncachedTokenCount(facts, { id }) + growth.tokenCount;
  const tokensMissing =
    tokensFor({ tokenCount, variance: claimed.variance + growth.variance }) - blockCount * blockTokenCount;
  return missingSlotCount === 0 && tokensMissing <= 0 ? null : { missingSlotCount, tokensMissing };
}

/** It would not wait for a batch slot or for memory there. */
export function hasRoom(facts: RequestFacts, worker: WorkerSnapshot): boolean {
  return missingRoom(facts, worker, facts.growth) === null;
}

/** Until there is a batch slot for each choice, and memory: for the request as well as for all who were
 *  routed there before. Those who are there leave one after the other. `growth`: what it will generate
 *  there. */
export function roomWaitMs(
  facts: RequestFacts,
  worker: WorkerSnapshot,
  growth: KvDemand = facts.growth,
): number {
  const missing = missingRoom(facts, worker, growth);
  if (missing === null) return 0;
  const { missingSlotCount, tokensMissing } = missing;
  const { load, costs } = worker;
  const { decoding, expected, claimed, claimCount } = load;
  const rowCount = decoding.rowCount + expected.rowCount;
  const stepsMs =
    meanRemaining(worker) * decodeMs(costs, rowCount, decoding.kvTokenCount + expected.kvTokenCount);
  // between two ends
  const leaveMs = (queuedPromptsMs(worker, promptRoom(worker, facts.slo.tpotMs)) + stepsMs) / rowCount;
  const endCount =
    tokensMissing <= 0 || claimCount === 0 ? 0 : tokensMissing / (claimed.tokenCount / claimCount);
  return Math.max(missingSlotCount, Math.min(claimCount, Math.ceil(endCount))) * leaveMs;
}

function meanRemaining({ load }: WorkerSnapshot): number {
  const rowCount = load.decoding.rowCount + load.expected.rowCount;
  const remaining = load.decoding.remainingTokenCount + load.expected.remainingTokenCount;
  return rowCount === 0 ? 0 : Math.max(1, remaining / rowCount);
}

/** Mean over `steps` of a level that goes from `now` to `later` like e^(−step / pace). Nobody there (pace 0):
 *  at the pace of its own life. */
function relaxed(now: number, later: number, steps: number, pace: number): number {
  const x = pace === 0 ? 1 : steps / pace;
  return later + ((now - later) * (1 - Math.exp(-x))) / x;
}
