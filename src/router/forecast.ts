/** The cost model's two halves: what a prompt meets on a worker, and what a decoding sequence does. Pure; put together by estimate.ts.
 *  It follows engine/scheduler.ts: a step holds one row for each sequence that decodes and fills the rest of its token budget with
 *  prompts in order of arrival. docs/architecture/cost-model.md derives the formulas. All times are milliseconds. */
import type { CostParameters } from './cost-parameters.js';
import { type KvDemand, tokensFor } from './kv-growth.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';
import { rowsMs, stepMs } from './step-cost.js';
import { prefillPairCountOf } from './step-work.js';
import type { PromptSum } from './worker-load.js';

/** However many decode, a step has room for some prompt tokens. */
const promptRoomMin = 16;
/** A step that runs has half of itself left on average, and the one behind it has been launched already. */
const stepsBeforeNext = 1.5;
/** A share of the time near 1 is one that was measured too short: a queue that never ends is not foreseen. */
const prefillShareMax = 0.95;

/** A prompt's way to its first token on one worker. */
export interface PrefillForecast {
  /** Prompt tokens to compute. */
  readonly tokenCount: number;
  /** Prompt tokens that a step there takes. */
  readonly roomTokenCount: number;
  /** For steps that run, and for prompts that came before. */
  readonly waitMs: number;
  /** For a seat and for memory, if it goes elsewhere when it is done. */
  readonly roomWaitMs: number;
  /** Prompts of those who wait for memory: before its own if it has to wait as well. */
  readonly linedMs: number;
  readonly prefillMs: number;
  /** What every sequence that decodes there loses by it, once. */
  readonly addedMs: number;
  /** If the worker had nothing else to do: messages and prefill. */
  readonly unloadedTtftMs: number;
}

/** A sequence's time per token while it decodes on one worker. */
export interface DecodeForecast {
  /** As it most probably will be: the median. */
  readonly stepMs: number;
  /** On average: a few that meet long prompts take far longer than most. What costs are made of. */
  readonly meanStepMs: number;
  /** What it adds to every step there. */
  readonly addedMsPerStep: number;
  /** Rows it shares its steps with, on average over its life. */
  readonly otherRowCount: number;
  /** For a seat and for memory: it is let in, and its prompt begun, when it has them. */
  readonly roomWaitMs: number;
  /** From its KV's arrival until a step can take it; 0 where its prompt was computed. */
  readonly joinMs: number;
}

export function prefillForecast(facts: RequestFacts, worker: WorkerSnapshot): PrefillForecast {
  const { corrections, load } = worker;
  const tokenCount = uncachedTokenCount(facts, worker);
  const room = promptRoom(worker);
  const { aheadMs, before } = queueAhead(facts, worker, room);
  const together = { tokenCount: before.tokenCount + tokenCount, pairCount: before.pairCount + pairCountOf(facts, tokenCount) };
  const beforeMs = promptsMs(worker, before, room);
  const prefillMs = Math.max(0, promptsMs(worker, together, room) - beforeMs);
  const stepCount = Math.ceil(together.tokenCount / room) - Math.ceil(before.tokenCount / room);
  return {
    tokenCount,
    roomTokenCount: room,
    waitMs: corrections.wait * (aheadMs + beforeMs),
    roomWaitMs: roomWaitMs(facts, worker, noGrowth),
    linedMs: load.lined.promptCount === 0 ? 0 : promptsMs(worker, load.lined, room),
    prefillMs: corrections.prefill * prefillMs,
    addedMs: Math.max(0, prefillMs - stepCount * decodeMsOfSome(worker)),
    unloadedTtftMs: unloadedTtftMs(facts, worker),
  };
}

export type PrefillForecasts = (worker: WorkerSnapshot) => PrefillForecast;

/** Each worker's once, for one decision. */
export function prefillForecasts(facts: RequestFacts): PrefillForecasts {
  const known = new Map<WorkerSnapshot, PrefillForecast>();
  return (worker) => {
    const forecast = known.get(worker) ?? prefillForecast(facts, worker);
    known.set(worker, forecast);
    return forecast;
  };
}

/** Where only the prompt is computed. */
const noGrowth: KvDemand = { tokenCount: 0, variance: 0 };

type PromptTokens = Pick<PromptSum, 'tokenCount' | 'pairCount'>;

/** Until the step that can take this request's prompt: what is left of the step that runs, and the step behind it, planned already. Then
 *  `before`: prompts that share that step, or fill those before it. */
function queueAhead(facts: RequestFacts, worker: WorkerSnapshot, room: number): { aheadMs: number; before: PromptTokens } {
  const { load, costs } = worker;
  const { planned, decoding, expected } = load;
  const started = without(load.started, load.startedDoneCount);
  const queued = minus(load.queued, minus(load.started, started));
  const onTheWayMs = costs.request.arrivalMs + costs.request.tokenMs;
  const sinceReportMs = facts.nowMs - load.lastReportMs + onTheWayMs;
  // a worker that does nothing begins at once with what is on its way to it
  const isIdle = load.started.promptCount === 0 && decoding.rowCount === 0;
  const running = isIdle ? queued : started;
  const runningMs = runMs(worker, running, room, decoding.rowCount);
  let restMs = runningMs;
  if (running.tokenCount === 0) restMs -= runningMs === 0 ? 0 : sinceReportMs % runningMs;
  else if (load.startedMs !== null)
    restMs -= running.tokenCount > room ? facts.nowMs - load.startedMs + onTheWayMs : sinceReportMs;
  // more than the running step: the one behind it has room for this prompt, or is one of those that are full
  if (running.tokenCount > room && restMs > fullStepMs(worker)) return { aheadMs: restMs - runningMs, before: queued };
  const next = isIdle ? noTokens : upTo(planned, room);
  const goOnCount = Math.min(expected.rowCount, isIdle ? load.queued.promptCount : load.started.promptCount);
  const nextMs = runMs(worker, next, room, decoding.rowCount + goOnCount);
  return { aheadMs: Math.max(0, restMs) + nextMs, before: minus(minus(queued, running), next) };
}

/** Steps that compute these prompts, or one of the rows alone that decode. */
function runMs(worker: WorkerSnapshot, work: PromptTokens, room: number, rowCount: number): number {
  const { kvTokenCount } = worker.load.decoding;
  if (work.tokenCount === 0) return decodeMs(worker.costs, rowCount, kvTokenCount);
  return stepsMs(worker.costs, work, room, rowCount, kvTokenCount);
}

const noTokens: PromptTokens = { tokenCount: 0, pairCount: 0 };

/** As many of the prompts' tokens as a step takes. */
function upTo({ tokenCount, pairCount }: PromptTokens, room: number): PromptTokens {
  const share = Math.min(1, room / Math.max(1, tokenCount));
  return { tokenCount: share * tokenCount, pairCount: share * pairCount };
}

function without({ tokenCount, pairCount }: PromptTokens, doneCount: number): PromptTokens {
  const share = tokenCount === 0 ? 0 : 1 - doneCount / tokenCount;
  return { tokenCount: share * tokenCount, pairCount: share * pairCount };
}

function minus(a: PromptTokens, b: PromptTokens): PromptTokens {
  return { tokenCount: Math.max(0, a.tokenCount - b.tokenCount), pairCount: Math.max(0, a.pairCount - b.pairCount) };
}

/** `startsInMs`: until it decodes there; `beside`: the worker's prompts queue before its own, or it computes its prompt elsewhere.
 *
 *  While it decodes, time goes by in steps of those who decode (d) and in what prompts add to them: a backlog B when it starts, and a share
 *  ρ of the time from then on. n tokens take t = n·d + B + ρ·t, but none takes longer than a step full of prompts. That is the mean; the
 *  median counts whole prompts: as many as a Poisson variable of that mean has in the middle. */
export function decodeForecast(
  facts: RequestFacts,
  worker: WorkerSnapshot,
  startsInMs: number,
  beside: 'its_prefill' | 'other_prompts',
): DecodeForecast {
  const { load, costs, corrections } = worker;
  const { expectedTokenCount, promptTokenCount, choiceCount, nowMs } = facts;
  const lifeSteps = Math.max(1, expectedTokenCount);
  const share = Math.min(prefillShareMax, load.prefillShare(nowMs));
  const paceSteps = meanRemaining(worker);
  const atStart = rowsAtStart(worker, startsInMs, (paceSteps * decodeMsOfSome(worker)) / (1 - share));
  const otherRowCount = relaxed(atStart, load.decodingMean(nowMs), lifeSteps, paceSteps);
  const claimedCount = load.decoding.rowCount + load.expected.rowCount;
  const kvPerRow = claimedCount === 0 ? 0 : (load.decoding.kvTokenCount + load.expected.kvTokenCount) / claimedCount;
  const ownKv = choiceCount * (promptTokenCount + lifeSteps / 2);
  const othersKv = otherRowCount * kvPerRow;
  const aloneMs = corrections.step * decodeMs(costs, otherRowCount + choiceCount, othersKv + ownKv);
  const addedMsPerStep = Math.max(0, aloneMs - corrections.step * decodeMs(costs, otherRowCount, othersKv));
  // prompts that queue there now have run when this sequence decodes if its own queues behind them
  const queuedMs = beside === 'its_prefill' || load.queued.promptCount === 0 ? 0 : queuedPromptsMs(worker);
  const backlogMs = beside === 'its_prefill' ? share * startsInMs : Math.max(0, queuedMs - (1 - share) * startsInMs);
  const longestMs = Math.max(aloneMs, fullStepMs(worker));
  const meanStepMs = Math.min(longestMs, (aloneMs + backlogMs / lifeSteps) / (1 - share));
  const addedMs = load.prefillAddedMs(nowMs);
  const metCount = addedMs === 0 ? 0 : poissonMedian((lifeSteps * (meanStepMs - aloneMs)) / addedMs);
  return {
    stepMs: Math.min(longestMs, aloneMs + (metCount * addedMs) / lifeSteps),
    meanStepMs,
    addedMsPerStep,
    otherRowCount,
    roomWaitMs: roomWaitMs(facts, worker),
    joinMs: beside === 'its_prefill' ? 0 : stepsBeforeNext * runningStepMs(worker),
  };
}

/** Choi 1994: between mean − ln 2 and mean + 1/3. */
function poissonMedian(mean: number): number {
  return mean < Math.LN2 ? 0 : Math.floor(mean + 1 / 3 - 0.02 / mean);
}

export function uncachedTokenCount(facts: RequestFacts, worker: WorkerSnapshot): number {
  const { prefixTokenCounts } = facts;
  const held = prefixTokenCounts.size === 0 ? 0 : (prefixTokenCounts.get(worker.id) ?? 0); // asked of every worker, and mostly nobody holds it
  return Math.max(1, facts.promptTokenCount + facts.outputTokenCount - held);
}

/** Keys that the last `tokenCount` tokens of the request attend to. */
function pairCountOf({ promptTokenCount, outputTokenCount }: RequestFacts, tokenCount: number): number {
  return prefillPairCountOf(promptTokenCount + outputTokenCount - tokenCount, tokenCount);
}

/** From arrival to first token on a worker that holds nothing and has nothing else to do: what limits on TTFT are measured by. */
export function unloadedTtftMs(facts: RequestFacts, { costs, unloaded }: WorkerSnapshot): number {
  const tokenCount = facts.promptTokenCount + facts.outputTokenCount;
  const room = Math.min(costs.tokenBudget, costs.prefillChunkTokenCount);
  const work = { tokenCount, pairCount: prefillPairCountOf(0, tokenCount) };
  return unloaded.ttft * (costs.request.arrivalMs + stepsMs(costs, work, room, 0, 0) + costs.request.tokenMs);
}

/** A step of the sequences that decode there now. */
export function decodeStepMs({ load, costs }: WorkerSnapshot): number {
  const { rowCount, kvTokenCount } = load.decoding;
  return decodeMs(costs, rowCount, kvTokenCount);
}

/** The same, or of one sequence while there is none: what steps take anyway. */
function decodeMsOfSome(worker: WorkerSnapshot): number {
  const { rowCount, kvTokenCount } = worker.load.decoding;
  return decodeMs(worker.costs, Math.max(1, rowCount), kvTokenCount);
}

/** A step as full of prompts as it may be. */
function fullStepMs(worker: WorkerSnapshot): number {
  const { load, costs } = worker;
  const { rowCount, kvTokenCount } = load.decoding;
  const prefillTokenCount = Math.max(promptRoomMin, costs.tokenBudget - rowCount);
  const prefillPairCount = prefillPairCountOf(0, prefillTokenCount);
  return stepMs(costs.step, { decodeCount: rowCount, decodeKvTokenCount: kvTokenCount, prefillTokenCount, prefillPairCount });
}

/** Rows there in `startsInMs`: of those who decode now some have ended, of those who are to come, one after the other, some as well. */
function rowsAtStart({ load }: WorkerSnapshot, startsInMs: number, lifeMs: number): number {
  if (startsInMs === 0 || lifeMs === 0) return load.decoding.rowCount + load.expected.rowCount;
  const x = startsInMs / lifeMs;
  return load.decoding.rowCount * Math.exp(-x) + (load.expected.rowCount * (1 - Math.exp(-x))) / x;
}

/** A step that runs there now, prompts included. */
function runningStepMs(worker: WorkerSnapshot): number {
  const { load, costs } = worker;
  const { rowCount: decodeCount, kvTokenCount: decodeKvTokenCount } = load.decoding;
  const { tokenCount: prefillTokenCount, pairCount: prefillPairCount } = upTo(load.queued, promptRoom(worker));
  return stepMs(costs.step, { decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount });
}

function decodeMs({ step }: CostParameters, decodeCount: number, decodeKvTokenCount: number): number {
  return stepMs(step, { decodeCount, decodeKvTokenCount, prefillTokenCount: 0, prefillPairCount: 0 });
}

/** Prompt tokens that a step of this worker has room for. */
function promptRoom({ load, costs }: WorkerSnapshot): number {
  const room = costs.tokenBudget - load.decoding.rowCount;
  return Math.max(promptRoomMin, load.queued.promptCount === 0 ? Math.min(room, costs.prefillChunkTokenCount) : room);
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
  const besideMs = stepCount * (decodeCount * step.msPerSampledRow + decodeKvTokenCount * step.msPerDecodeKvToken);
  return fullMs + restMs + besideMs + pairCount * step.msPerPrefillPair;
}

/** What the queued prompts add to the steps of those who decode. */
function queuedPromptsMs(worker: WorkerSnapshot): number {
  const { queued } = worker.load;
  const room = promptRoom(worker);
  return Math.max(0, promptsMs(worker, queued, room) - Math.ceil(queued.tokenCount / room) * decodeMsOfSome(worker));
}

/** Until there is a seat for each choice, and memory: for the request as well as for all who were routed there before. Those who are there
 *  leave one after the other. `growth`: what it will generate there. */
export function roomWaitMs(facts: RequestFacts, worker: WorkerSnapshot, growth: KvDemand = facts.growth): number {
  const { load, costs, seatCount = Number.POSITIVE_INFINITY, blockTokenCount, blockCount } = worker;
  const { decoding, expected, claimed, claimCount } = load;
  const rowCount = decoding.rowCount + expected.rowCount;
  if (rowCount === 0) return 0; // a worker that holds nobody takes anybody
  const seatsMissing = Math.max(0, rowCount + facts.choiceCount - seatCount);
  const tokenCount = claimed.tokenCount + uncachedTokenCount(facts, worker) + growth.tokenCount;
  const tokensMissing = tokensFor({ tokenCount, variance: claimed.variance + growth.variance }) - blockCount * blockTokenCount;
  if (seatsMissing === 0 && tokensMissing <= 0) return 0;
  const stepsMs = meanRemaining(worker) * decodeMs(costs, rowCount, decoding.kvTokenCount + expected.kvTokenCount);
  const leaveMs = (queuedPromptsMs(worker) + stepsMs) / rowCount; // between two ends
  const endCount = tokensMissing <= 0 || claimCount === 0 ? 0 : tokensMissing / (claimed.tokenCount / claimCount);
  return Math.max(seatsMissing, Math.min(claimCount, Math.ceil(endCount))) * leaveMs;
}

function meanRemaining({ load }: WorkerSnapshot): number {
  const rowCount = load.decoding.rowCount + load.expected.rowCount;
  const remaining = load.decoding.remainingTokenCount + load.expected.remainingTokenCount;
  return rowCount === 0 ? 0 : Math.max(1, remaining / rowCount);
}

/** Mean over `steps` of a level that goes from `now` to `later` like e^(−step / pace). Nobody there (pace 0): at the pace of its own life. */
function relaxed(now: number, later: number, steps: number, pace: number): number {
  const x = pace === 0 ? 1 : steps / pace;
  return later + ((now - later) * (1 - Math.exp(-x))) / x;
}
