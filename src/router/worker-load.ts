/** What a worker has to do, in the few sums that the cost model reads. Kept by placement.ts as requests come,
 *  go on and end: O(1) an event (of the queue by deadlines O(√n)), and never late, since it counts what was
 *  routed rather than what was reported.
 *  Invariant: with no request placed every sum is 0 (up to rounding). */
import type { RequestId } from '../base/ids.js';
import { DecayingLevel, DecayingRate } from './decaying.js';
import { DueSums } from './due-sums.js';
import type { KvDemand } from './kv-growth.js';

/** A prompt, or what is left of it once the prefix cache has helped. */
export interface PromptWork {
  readonly tokenCount: number;
  /** Keys its tokens attend to, see step-work.ts. */
  readonly pairCount: number;
  /** From the step that begins it until its first token, as predicted, milliseconds. */
  readonly prefillMs: number;
  /** What the prompt adds to steps that run anyway, milliseconds. */
  readonly addedMs: number;
  /** When its first token is due. */
  readonly dueMs: number;
  /** Lower first, before what is due. Absent: 0. */
  readonly priority?: number;
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
  /** Prompts that are not computed yet. */
  readonly queued: PromptSum;
  /** Of those what is computed before a prompt that is due at `dueMs`: late ones wait for all others. */
  dueBefore(nowMs: number, dueMs: number, priority?: number): PromptSum;
  /** Of those all that no priority puts behind it: what a late prompt waits for. */
  queuedUpTo(nowMs: number, priority: number): PromptSum;
  readonly decoding: DecodeWork;
  readonly expected: DecodeWork;
  /** KV that all who were routed here will hold together when they are longest; who waits for KV is counted
   *  too. */
  readonly claimed: KvDemand;
  readonly claimCount: number;
  /** Prompts to be computed here whose requests wait for KV to decode in: not queued yet. */
  readonly waitingForKv: PromptSum;
  /** Rows that decode, averaged over the recent past. */
  decodingMean(nowMs: number): number;
  /** Share of the time that prompts add to steps, of late. */
  prefillShare(nowMs: number): number;
  /** When it was last given a request, for either phase. */
  readonly givenMs: number;
}

/** Long against a request, short against the changes of a day. */
const memoryMs = 5_000;
/** A worker has begun with so many prompts at most: as many as a full step of 2,048 tokens holds of one block
 *  each. */
const startedCountMax = 128;
const noPrompts: PromptSum = { promptCount: 0, tokenCount: 0, pairCount: 0 };

interface StartedPrompt {
  readonly work: PromptWork;
  /** When its worker began with it. */
  readonly startedMs: number;
}

export class WorkerLoad implements WorkerLoadView {
  readonly #queue = new Map<RequestId, PromptWork>();
  /** Of the queue those that their worker has not begun with, by priority, */
  readonly #due = new Map<number, DueSums>();
  /** and those that it has and that should not be done yet: few. */
  readonly #started = new Map<RequestId, StartedPrompt>();
  #queued = noPrompts;
  #waitingForKv = noPrompts;
  readonly #decoding = { rowCount: 0, kvTokenCount: 0, remainingTokenCount: 0 };
  readonly #expected = { rowCount: 0, kvTokenCount: 0, remainingTokenCount: 0 };
  readonly #claimed = { tokenCount: 0, variance: 0 };
  #claimCount = 0;
  #givenMs = Number.NEGATIVE_INFINITY;
  readonly #decodingMean = new DecayingLevel(memoryMs);
  readonly #prefillShare = new DecayingRate(memoryMs);

  get queued(): PromptSum {
    return this.#queued;
  }
  get decoding(): DecodeWork {
    return this.#decoding;
  }
  get expected(): DecodeWork {
    return this.#expected;
  }

  get givenMs(): number {
    return this.#givenMs;
  }

  get claimed(): KvDemand {
    return this.#claimed;
  }
  get claimCount(): number {
    return this.#claimCount;
  }
  get waitingForKv(): PromptSum {
    return this.#waitingForKv;
  }

  decodingMean(nowMs: number): number {
    return this.#decodingMean.mean(nowMs);
  }

  prefillShare(nowMs: number): number {
    return this.#prefillShare.perMs(nowMs);
  }

  dueBefore(nowMs: number, dueMs: number, priority = 0): PromptSum {
    const sum = { promptCount: 0, tokenCount: 0, pairCount: 0 };
    for (const [own, due] of this.#due) {
      if (own <= priority)
        addPrompts(sum, due.dueBetween(nowMs, own < priority ? Number.POSITIVE_INFINITY : dueMs), 1);
    }
    this.#addStarted(
      sum,
      nowMs,
      priority,
      (work) => work.dueMs >= nowMs && (work.dueMs <= dueMs || (work.priority ?? 0) < priority),
    );
    return sum;
  }

  queuedUpTo(nowMs: number, priority: number): PromptSum {
    const sum = { promptCount: 0, tokenCount: 0, pairCount: 0 };
    for (const [own, due] of this.#due) if (own <= priority) addPrompts(sum, due.all, 1);
    this.#addStarted(sum, nowMs, priority, () => true);
    return sum;
  }

  /** What is left of the prompts that their worker has begun with, up to this priority. */
  #addStarted(
    sum: MutableSum,
    nowMs: number,
    priority: number,
    isCounted: (work: PromptWork) => boolean,
  ): void {
    for (const [id, { work, startedMs }] of this.#started) {
      const doneShare = doneShareOf(nowMs - startedMs, work.prefillMs);
      if (doneShare === 1)
        this.#started.delete(id); // whatever it still takes is not predicted
      else if ((work.priority ?? 0) <= priority && isCounted(work))
        addPrompts(sum, { promptCount: 1, ...work }, 1 - doneShare, 1);
    }
  }

  give(nowMs: number): void {
    this.#givenMs = nowMs;
  }

  waitForKv(work: PromptWork): void {
    this.#waitingForKv = plus(this.#waitingForKv, work, 1);
  }

  stopWaitingForKv(work: PromptWork): void {
    this.#waitingForKv = plus(this.#waitingForKv, work, -1);
  }

  addPrompt(id: RequestId, work: PromptWork, nowMs: number): void {
    this.#queue.set(id, work);
    const priority = work.priority ?? 0;
    const due = this.#due.get(priority) ?? new DueSums();
    this.#due.set(priority, due);
    due.add(work);
    this.#queued = plus(this.#queued, work, 1);
    this.#prefillShare.add(work.addedMs, nowMs);
  }

  /** The worker has begun with it. */
  startPrompt(id: RequestId, nowMs: number): void {
    const work = this.#queue.get(id);
    if (work === undefined || !this.#removeDue(work)) return;
    this.#started.set(id, { work, startedMs: nowMs });
    const oldest = this.#started.keys().next().value;
    if (this.#started.size > startedCountMax && oldest !== undefined) this.#started.delete(oldest);
  }

  /** It is computed, or not wanted any more. */
  removePrompt(id: RequestId): void {
    const work = this.#queue.get(id);
    if (work === undefined) return;
    this.#queue.delete(id);
    if (!this.#started.delete(id)) this.#removeDue(work);
    this.#queued = plus(this.#queued, work, -1);
  }

  /** False: it was not there. */
  #removeDue(work: PromptWork): boolean {
    const priority = work.priority ?? 0;
    const due = this.#due.get(priority);
    const wasThere = due?.remove(work) ?? false;
    if (due?.isEmpty === true) this.#due.delete(priority);
    return wasThere;
  }

  changeExpected(change: DecodeWork): void {
    add(this.#expected, change);
  }

  /** Of one request; null: nothing was claimed for it, or nothing is any more. */
  changeClaim(before: KvDemand | null, now: KvDemand | null): void {
    this.#claimCount += (now === null ? 0 : 1) - (before === null ? 0 : 1);
    const isEmpty = this.#claimCount === 0; // so that rounding does not pile up
    this.#claimed.tokenCount = isEmpty
      ? 0
      : this.#claimed.tokenCount + (now?.tokenCount ?? 0) - (before?.tokenCount ?? 0);
    this.#claimed.variance = isEmpty
      ? 0
      : this.#claimed.variance + (now?.variance ?? 0) - (before?.variance ?? 0);
  }

  changeDecoding(change: DecodeWork, nowMs: number): void {
    add(this.#decoding, change);
    if (change.rowCount !== 0) this.#decodingMean.set(this.#decoding.rowCount, nowMs);
  }
}

type MutableSum = { -readonly [K in keyof PromptSum]: PromptSum[K] };

/** `share` of the tokens, and as many prompts. */
function addPrompts(sum: MutableSum, part: PromptSum, share: number, promptCount = part.promptCount): void {
  sum.promptCount += promptCount;
  sum.tokenCount += share * part.tokenCount;
  sum.pairCount += share * part.pairCount;
}

/** Nothing takes no time: few tokens may cost nothing in a step that runs anyway. */
function doneShareOf(passedMs: number, wholeMs: number): number {
  return passedMs >= wholeMs ? 1 : passedMs / wholeMs;
}

export function negative({ rowCount, kvTokenCount, remainingTokenCount }: DecodeWork): DecodeWork {
  return { rowCount: -rowCount, kvTokenCount: -kvTokenCount, remainingTokenCount: -remainingTokenCount };
}

/** In place: this happens with every token. */
function add(total: { -readonly [K in keyof DecodeWork]: DecodeWork[K] }, change: DecodeWork): void {
  total.rowCount += change.rowCount;
  // so that rounding does not pile up
  total.kvTokenCount = total.rowCount === 0 ? 0 : total.kvTokenCount + change.kvTokenCount;
  total.remainingTokenCount =
    total.rowCount === 0 ? 0 : total.remainingTokenCount + change.remainingTokenCount;
}

function plus(sum: PromptSum, { tokenCount, pairCount }: PromptWork, sign: 1 | -1): PromptSum {
  const promptCount = sum.promptCount + sign;
  if (promptCount === 0) return noPrompts; // so that rounding does not pile up
  return {
    promptCount,
    tokenCount: sum.tokenCount + sign * tokenCount,
    pairCount: sum.pairCount + sign * pairCount,
  };
}
