/** What a worker has to do, in the few sums that the cost model reads. Kept by control/placement.ts (and by the what-if replay) as requests
 *  come, go on and end: O(1) an event, and never late, since it counts what was routed rather than what was reported.
 *  Invariant: with no request placed every sum is 0 (up to rounding). */
import type { RequestId } from '../base/ids.js';
import { DecayingLevel, DecayingRate } from './decaying.js';
import type { KvDemand } from './kv-growth.js';

/** A prompt, or what is left of it once the prefix cache has helped. */
export interface PromptWork {
  readonly tokenCount: number;
  /** Keys its tokens attend to, see step-work.ts. */
  readonly pairCount: number;
  /** Prompt tokens that a step of the worker takes. */
  readonly roomTokenCount: number;
  /** What the prompt adds to steps that run anyway, milliseconds. */
  readonly addedMs: number;
  /** What its first token would take on an idle worker, milliseconds. */
  readonly unloadedTtftMs: number;
}

/** Sequences that decode here, or will when their prompt is done. */
export interface DecodeWork {
  readonly rowCount: number;
  /** Keys of all rows together. */
  readonly kvTokenCount: number;
  /** Expected further tokens of all rows together. */
  readonly remainingTokenCount: number;
}

/** Prompts together. */
export interface PromptSum {
  readonly promptCount: number;
  readonly tokenCount: number;
  readonly pairCount: number;
}

/** What the cost model reads. */
export interface WorkerLoadView {
  /** All that are not computed yet. */
  readonly queued: PromptSum;
  /** Of those: the running step computes them, or has begun to. */
  readonly started: PromptSum;
  /** Tokens of the started ones that steps before the one that runs have computed, as far as steps have been told of. */
  readonly startedDoneCount: number;
  /** Of those: the worker had them when it planned the step after the running one. */
  readonly planned: PromptSum;
  /** Since when the started ones are computed, those done apart; null: there is none. */
  readonly startedMs: number | null;
  readonly decoding: DecodeWork;
  readonly expected: DecodeWork;
  /** KV that all who were routed here will hold together when they are longest; who waits for memory is counted too. */
  readonly claimed: KvDemand;
  readonly claimCount: number;
  /** Prompts to be computed here whose requests wait for memory to decode in: not queued yet. */
  readonly lined: PromptSum;
  /** When the worker last told of a step: of its tokens, or of a prompt that it began. */
  readonly lastReportMs: number;
  /** Rows that decode, averaged over the recent past. */
  decodingMean(nowMs: number): number;
  /** Share of the time that prompts add to steps, of late. */
  prefillShare(nowMs: number): number;
  /** What a prompt adds to steps, of late, as a sequence that is held up meets it: Σ added² / Σ added, milliseconds. */
  prefillAddedMs(nowMs: number): number;
  /** Prompts per millisecond, of late. */
  promptRate(nowMs: number): number;
  /** The same, each prompt weighing 1 / its unloadedTtftMs: short ones are hurt more by the same delay. Per ms². */
  promptUrgency(nowMs: number): number;
}

/** Long against a request, short against the changes of a day. */
const memoryMs = 5_000;
const noPrompts: PromptSum = { promptCount: 0, tokenCount: 0, pairCount: 0 };

interface QueuedPrompt {
  readonly work: PromptWork;
  /** Reports before it came. */
  readonly reportCount: number;
  isStarted: boolean;
}

export class WorkerLoad implements WorkerLoadView {
  readonly #queue = new Map<RequestId, QueuedPrompt>();
  #queued = noPrompts;
  #started = noPrompts;
  #planned = noPrompts;
  #lined = noPrompts;
  #startedMs: number | null = null;
  #startedDoneCount = 0;
  /** Tokens of prompts computed in a row since the queue was empty: full steps, one after the other. */
  #rowTokenCount = 0;
  #reportCount = 0;
  #lastReportMs = 0;
  readonly #decoding = { rowCount: 0, kvTokenCount: 0, remainingTokenCount: 0 };
  readonly #expected = { rowCount: 0, kvTokenCount: 0, remainingTokenCount: 0 };
  readonly #claimed = { tokenCount: 0, variance: 0 };
  #claimCount = 0;
  readonly #decodingMean = new DecayingLevel(memoryMs);
  readonly #prefillShare = new DecayingRate(memoryMs);
  readonly #prefillSquares = new DecayingRate(memoryMs);
  readonly #promptRate = new DecayingRate(memoryMs);
  readonly #promptUrgency = new DecayingRate(memoryMs);

  get queued(): PromptSum {
    return this.#queued;
  }
  get started(): PromptSum {
    return this.#started;
  }
  get planned(): PromptSum {
    return this.#planned;
  }
  get startedMs(): number | null {
    return this.#startedMs;
  }
  get startedDoneCount(): number {
    return this.#startedDoneCount;
  }
  get lastReportMs(): number {
    return this.#lastReportMs;
  }
  get decoding(): DecodeWork {
    return this.#decoding;
  }
  get expected(): DecodeWork {
    return this.#expected;
  }

  get claimed(): KvDemand {
    return this.#claimed;
  }
  get claimCount(): number {
    return this.#claimCount;
  }
  get lined(): PromptSum {
    return this.#lined;
  }

  decodingMean(nowMs: number): number {
    return this.#decodingMean.mean(nowMs);
  }

  prefillShare(nowMs: number): number {
    return this.#prefillShare.perMs(nowMs);
  }

  prefillAddedMs(nowMs: number): number {
    const share = this.#prefillShare.perMs(nowMs);
    return share === 0 ? 0 : this.#prefillSquares.perMs(nowMs) / share;
  }

  promptRate(nowMs: number): number {
    return this.#promptRate.perMs(nowMs);
  }

  promptUrgency(nowMs: number): number {
    return this.#promptUrgency.perMs(nowMs);
  }

  linePrompt(work: PromptWork): void {
    this.#lined = plus(this.#lined, work, 1);
  }

  unlinePrompt(work: PromptWork): void {
    this.#lined = plus(this.#lined, work, -1);
  }

  addPrompt(id: RequestId, work: PromptWork, nowMs: number): void {
    this.#queue.set(id, { work, reportCount: this.#reportCount, isStarted: false });
    this.#queued = plus(this.#queued, work, 1);
    this.#prefillShare.add(work.addedMs, nowMs);
    this.#prefillSquares.add(work.addedMs ** 2, nowMs);
    this.#promptRate.add(1, nowMs);
    this.#promptUrgency.add(1 / work.unloadedTtftMs, nowMs);
  }

  /** One step has ended and the next has begun: the one after that is planned now, with all that are there. */
  report(nowMs: number): void {
    this.#lastReportMs = nowMs;
    this.#reportCount++;
    this.#planned = minus(this.#queued, this.#started);
  }

  /** The step that runs since the last report computes it. */
  startPrompt(id: RequestId, nowMs: number): void {
    const prompt = this.#queue.get(id);
    if (prompt === undefined || prompt.isStarted) return;
    prompt.isStarted = true;
    if (prompt.reportCount < this.#reportCount) this.#planned = plus(this.#planned, prompt.work, -1);
    this.#started = plus(this.#started, prompt.work, 1);
    this.#startedMs ??= nowMs;
  }

  /** It is computed, or not wanted any more. */
  removePrompt(id: RequestId, nowMs: number): void {
    const prompt = this.#queue.get(id);
    if (prompt === undefined) return;
    this.#queue.delete(id);
    const { work, isStarted, reportCount } = prompt;
    this.#queued = plus(this.#queued, work, -1);
    if (isStarted) this.#finish(work, nowMs);
    else if (reportCount < this.#reportCount) this.#planned = plus(this.#planned, work, -1);
    if (this.#queue.size === 0) this.#rowTokenCount = 0;
  }

  /** The step that held its end was filled up with the beginning of the next. */
  #finish(work: PromptWork, nowMs: number): void {
    this.#started = plus(this.#started, work, -1);
    this.#startedMs = this.#started.promptCount === 0 ? null : nowMs;
    this.#rowTokenCount += work.tokenCount;
    const filledUpCount = Math.ceil(this.#rowTokenCount / work.roomTokenCount) * work.roomTokenCount - this.#rowTokenCount;
    this.#startedDoneCount = Math.min(this.#started.tokenCount, filledUpCount);
  }

  changeExpected(change: DecodeWork): void {
    add(this.#expected, change);
  }

  /** Of one request; null: nothing was claimed for it, or nothing is any more. */
  changeClaim(before: KvDemand | null, now: KvDemand | null): void {
    this.#claimCount += (now === null ? 0 : 1) - (before === null ? 0 : 1);
    const isEmpty = this.#claimCount === 0; // so that rounding does not pile up
    this.#claimed.tokenCount = isEmpty ? 0 : this.#claimed.tokenCount + (now?.tokenCount ?? 0) - (before?.tokenCount ?? 0);
    this.#claimed.variance = isEmpty ? 0 : this.#claimed.variance + (now?.variance ?? 0) - (before?.variance ?? 0);
  }

  changeDecoding(change: DecodeWork, nowMs: number): void {
    add(this.#decoding, change);
    if (change.rowCount !== 0) this.#decodingMean.set(this.#decoding.rowCount, nowMs);
  }
}

export function negative({ rowCount, kvTokenCount, remainingTokenCount }: DecodeWork): DecodeWork {
  return { rowCount: -rowCount, kvTokenCount: -kvTokenCount, remainingTokenCount: -remainingTokenCount };
}

/** In place: this happens with every token. */
function add(total: { -readonly [K in keyof DecodeWork]: DecodeWork[K] }, change: DecodeWork): void {
  total.rowCount += change.rowCount;
  total.kvTokenCount = total.rowCount === 0 ? 0 : total.kvTokenCount + change.kvTokenCount; // so that rounding does not pile up
  total.remainingTokenCount = total.rowCount === 0 ? 0 : total.remainingTokenCount + change.remainingTokenCount;
}

function plus(sum: PromptSum, { tokenCount, pairCount }: PromptWork, sign: 1 | -1): PromptSum {
  const promptCount = sum.promptCount + sign;
  if (promptCount === 0) return noPrompts; // so that rounding does not pile up
  return { promptCount, tokenCount: sum.tokenCount + sign * tokenCount, pairCount: sum.pairCount + sign * pairCount };
}

function minus(a: PromptSum, b: PromptSum): PromptSum {
  if (a.promptCount === b.promptCount) return noPrompts;
  return {
    promptCount: a.promptCount - b.promptCount,
    tokenCount: a.tokenCount - b.tokenCount,
    pairCount: a.pairCount - b.pairCount,
  };
}
