/** The cost model's two halves: what a prompt meets on a worker, and what a decoding sequence does. Pure; put together by estimate.ts.
 *  It follows engine/scheduler.ts: a step holds one row for each sequence that decodes and fills the rest of its token budget with
 *  prompts in order of arrival. docs/architecture/cost-model.md derives the formulas. All times are milliseconds. */
import type { CostParameters } from './cost-parameters.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';
import { rowsMs, stepMs } from './step-cost.js';
import { prefillPairCountOf } from './step-work.js';
import type { PromptWork } from './worker-load.js';

/** However many decode, a step has room for some prompt tokens. */
const promptRoomMin = 16;
/** A step that runs has half of itself left on average, and the one behind it has been launched already. */
const stepsBeforeNext = 1.5;
/** Prompts are never taken to hold up decoding more than this. */
const prefillShareMax = 0.8;

/** A prompt's way to its first token on one worker. */
export interface PrefillForecast {
  /** Prompt tokens to compute. */
  readonly tokenCount: number;
  /** For steps that run, for prompts that came before, for room. */
  readonly waitMs: number;
  readonly prefillMs: number;
  /** What every sequence that decodes there loses by it, once. */
  readonly addedMs: number;
  /** If the worker had nothing else to do: messages and prefill. */
  readonly unloadedTtftMs: number;
}

/** A sequence's time per token while it decodes on one worker. */
export interface DecodeForecast {
  readonly stepMs: number;
  /** What it adds to every step there. */
  readonly addedMsPerStep: number;
  /** Rows it shares its steps with, on average over its life. */
  readonly otherRowCount: number;
  /** From its KV's arrival until a step can take it. */
  readonly joinMs: number;
}

export function prefillForecast(facts: RequestFacts, worker: WorkerSnapshot): PrefillForecast {
  const { load, corrections } = worker;
  const tokenCount = uncachedTokenCount(facts, worker);
  const own: Pick<PromptWork, 'tokenCount' | 'pairCount'> = { tokenCount, pairCount: pairCountOf(facts, tokenCount) };
  const room = promptRoom(worker);
  const queued = { tokenCount: load.queuedTokenCount, pairCount: load.queuedPairCount };
  const queueMs = load.queuedPromptCount === 0 ? 0 : promptsMs(worker, queued, room);
  const bothMs = promptsMs(worker, sumOf(queued, own), room);
  const prefillMs = Math.max(0, bothMs - queueMs);
  const decodeMs = decodeStepMs(worker);
  // the step after the one that runs has been planned already: without this prompt
  const aheadMs =
    queueMs === 0 ? stepsBeforeNext * decodeMs : Math.max(0, queueMs - headProgressMs(facts, worker, room)) + decodeMs;
  return {
    tokenCount,
    waitMs: corrections.wait * (aheadMs + roomWaitMs(facts, worker, decodeMs)),
    prefillMs: corrections.prefill * prefillMs,
    addedMs: Math.max(0, prefillMs - (tokenCount / room) * decodeMs),
    unloadedTtftMs: unloadedTtftMs(facts, worker),
  };
}

export function decodeForecast(
  facts: RequestFacts,
  worker: WorkerSnapshot,
  beside: 'its_prefill' | 'other_prompts',
): DecodeForecast {
  const { load, costs, corrections } = worker;
  const { expectedTokenCount, promptTokenCount, choiceCount, nowMs } = facts;
  const lifeSteps = Math.max(1, expectedTokenCount);
  const now = load.decoding.rowCount + load.expected.rowCount;
  const otherRowCount = relaxed(now, load.decodingMean(nowMs), lifeSteps, meanRemaining(worker));
  const kvPerRow = now === 0 ? 0 : (load.decoding.kvTokenCount + load.expected.kvTokenCount) / now;
  const ownKv = choiceCount * (promptTokenCount + lifeSteps / 2);
  const othersKv = otherRowCount * kvPerRow;
  const aloneMs = corrections.step * decodeMs(costs, otherRowCount + choiceCount, othersKv + ownKv);
  const addedMsPerStep = Math.max(0, aloneMs - corrections.step * decodeMs(costs, otherRowCount, othersKv));
  const toComeMs = aloneMs / (1 - Math.min(prefillShareMax, load.prefillShare(nowMs))) - aloneMs;
  // prompts that queue there now run before this sequence decodes when it queues behind them, else while it does
  const queuedMs = beside === 'its_prefill' || load.queuedPromptCount === 0 ? 0 : queuedPromptsMs(worker) / lifeSteps;
  const joinMs = stepsBeforeNext * runningStepMs(worker);
  return { stepMs: aloneMs + toComeMs + queuedMs, addedMsPerStep, otherRowCount, joinMs };
}

export function uncachedTokenCount(facts: RequestFacts, worker: WorkerSnapshot): number {
  const held = facts.prefixTokenCounts.get(worker.id) ?? 0;
  return Math.max(1, facts.promptTokenCount + facts.outputTokenCount - held);
}

/** Keys that the last `tokenCount` tokens of the request attend to. */
function pairCountOf({ promptTokenCount, outputTokenCount }: RequestFacts, tokenCount: number): number {
  return prefillPairCountOf(promptTokenCount + outputTokenCount - tokenCount, tokenCount);
}

/** From arrival to first token on a worker that holds nothing and has nothing else to do: what limits on TTFT are measured by. */
export function unloadedTtftMs(facts: RequestFacts, { costs }: WorkerSnapshot): number {
  const tokenCount = facts.promptTokenCount + facts.outputTokenCount;
  const room = Math.min(costs.tokenBudget, costs.prefillChunkTokenCount);
  const work = { tokenCount, pairCount: prefillPairCountOf(0, tokenCount) };
  return costs.request.arrivalMs + stepsMs(costs, work, room, 0, 0) + costs.request.tokenMs;
}

/** A step of the sequences that decode there now. */
export function decodeStepMs({ load, costs }: WorkerSnapshot): number {
  const { rowCount, kvTokenCount } = load.decoding;
  return decodeMs(costs, rowCount, kvTokenCount);
}

/** A step that runs there now, prompts included. */
function runningStepMs(worker: WorkerSnapshot): number {
  const { load, costs } = worker;
  const { rowCount, kvTokenCount } = load.decoding;
  const prefillTokenCount = Math.min(load.queuedTokenCount, promptRoom(worker));
  const share = load.queuedTokenCount === 0 ? 0 : prefillTokenCount / load.queuedTokenCount;
  const prefillPairCount = share * load.queuedPairCount;
  return stepMs(costs.step, { decodeCount: rowCount, decodeKvTokenCount: kvTokenCount, prefillTokenCount, prefillPairCount });
}

function decodeMs({ step }: CostParameters, decodeCount: number, decodeKvTokenCount: number): number {
  return stepMs(step, { decodeCount, decodeKvTokenCount, prefillTokenCount: 0, prefillPairCount: 0 });
}

/** Prompt tokens that a step of this worker has room for. */
function promptRoom({ load, costs }: WorkerSnapshot): number {
  const room = costs.tokenBudget - load.decoding.rowCount;
  return Math.max(promptRoomMin, load.queuedPromptCount === 0 ? Math.min(room, costs.prefillChunkTokenCount) : room);
}

/** Steps that compute these prompts, with the rows that decode beside them. */
function promptsMs(worker: WorkerSnapshot, work: Pick<PromptWork, 'tokenCount' | 'pairCount'>, room: number): number {
  const { rowCount, kvTokenCount } = worker.load.decoding;
  return stepsMs(worker.costs, work, room, rowCount, kvTokenCount);
}

function stepsMs(
  { step }: CostParameters,
  { tokenCount, pairCount }: Pick<PromptWork, 'tokenCount' | 'pairCount'>,
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

/** What the first of the queue has behind it already. */
function headProgressMs({ nowMs }: RequestFacts, worker: WorkerSnapshot, room: number): number {
  const head = worker.load.head();
  return head === null ? 0 : Math.min(nowMs - head.sinceMs, promptsMs(worker, head.work, room));
}

/** What the queued prompts add to the steps of those who decode. */
function queuedPromptsMs(worker: WorkerSnapshot): number {
  const { load } = worker;
  const room = promptRoom(worker);
  const work = { tokenCount: load.queuedTokenCount, pairCount: load.queuedPairCount };
  return Math.max(0, promptsMs(worker, work, room) - (work.tokenCount / room) * decodeStepMs(worker));
}

/** Until a seat is free, and blocks for the prompt: those who decode leave one after the other. */
function roomWaitMs(facts: RequestFacts, worker: WorkerSnapshot, decodeMs: number): number {
  const { load, seatCount = Number.POSITIVE_INFINITY, blockTokenCount, blockCount } = worker;
  const { rowCount, kvTokenCount } = load.decoding;
  const claimed = rowCount + load.expected.rowCount;
  if (rowCount === 0) return 0;
  const leaveMs = (meanRemaining(worker) * decodeMs) / rowCount; // between two ends, while the batch is full
  const seatsMissing = Math.max(0, claimed + facts.choiceCount - seatCount);
  const needed = Math.ceil((facts.promptTokenCount + facts.outputTokenCount) / blockTokenCount);
  const used = (kvTokenCount + load.expected.kvTokenCount) / blockTokenCount;
  const blocksMissing = Math.max(0, used + needed - blockCount);
  const blocksPerRow = Math.max(1, kvTokenCount / blockTokenCount / rowCount);
  return Math.max(seatsMissing, Math.ceil(blocksMissing / blocksPerRow)) * leaveMs;
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

function sumOf<Work extends { tokenCount: number; pairCount: number }>(a: Work, b: Work) {
  return { tokenCount: a.tokenCount + b.tokenCount, pairCount: a.pairCount + b.pairCount };
}
