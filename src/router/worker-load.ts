/** What a worker has to do, in the few sums that the cost model reads. Kept by control/placement.ts (and by the what-if replay) as requests
 *  come, go on and end: O(1) an event, and never late, since it counts what was routed rather than what was reported.
 *  Invariant: with no request placed every sum is 0 (up to rounding). */
import type { RequestId } from '../base/ids.js';
import { DecayingLevel, DecayingRate } from './decaying.js';

/** A prompt, or what is left of it once the prefix cache has helped. */
export interface PromptWork {
  readonly tokenCount: number;
  /** Keys its tokens attend to, see step-work.ts. */
  readonly pairCount: number;
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

/** What the cost model reads. */
export interface WorkerLoadView {
  readonly queuedPromptCount: number;
  readonly queuedTokenCount: number;
  readonly queuedPairCount: number;
  /** The first of the queue, and since when it is that; null: no queue. */
  head(): { readonly work: PromptWork; readonly sinceMs: number } | null;
  readonly decoding: DecodeWork;
  readonly expected: DecodeWork;
  /** Rows that decode, averaged over the recent past. */
  decodingMean(nowMs: number): number;
  /** Share of the time that prompts add to steps, of late. */
  prefillShare(nowMs: number): number;
  /** Prompts per millisecond, of late. */
  promptRate(nowMs: number): number;
  /** The same, each prompt weighing 1 / its unloadedTtftMs: short ones are hurt more by the same delay. Per ms². */
  promptUrgency(nowMs: number): number;
}

/** Long against a request, short against the changes of a day. */
const memoryMs = 5_000;
const none: DecodeWork = { rowCount: 0, kvTokenCount: 0, remainingTokenCount: 0 };

export class WorkerLoad implements WorkerLoadView {
  readonly #queue = new Map<RequestId, PromptWork>(); // keeps the order of arrival
  #headSinceMs = 0;
  #queuedTokenCount = 0;
  #queuedPairCount = 0;
  #decoding = none;
  #expected = none;
  readonly #decodingMean = new DecayingLevel(memoryMs);
  readonly #prefillShare = new DecayingRate(memoryMs);
  readonly #promptRate = new DecayingRate(memoryMs);
  readonly #promptUrgency = new DecayingRate(memoryMs);

  get queuedPromptCount(): number {
    return this.#queue.size;
  }
  get queuedTokenCount(): number {
    return this.#queuedTokenCount;
  }
  get queuedPairCount(): number {
    return this.#queuedPairCount;
  }
  get decoding(): DecodeWork {
    return this.#decoding;
  }
  get expected(): DecodeWork {
    return this.#expected;
  }

  head(): { readonly work: PromptWork; readonly sinceMs: number } | null {
    const first = this.#queue.values().next();
    return first.done === true ? null : { work: first.value, sinceMs: this.#headSinceMs };
  }

  decodingMean(nowMs: number): number {
    return this.#decodingMean.mean(nowMs);
  }

  prefillShare(nowMs: number): number {
    return this.#prefillShare.perMs(nowMs);
  }

  promptRate(nowMs: number): number {
    return this.#promptRate.perMs(nowMs);
  }

  promptUrgency(nowMs: number): number {
    return this.#promptUrgency.perMs(nowMs);
  }

  addPrompt(id: RequestId, work: PromptWork, nowMs: number): void {
    if (this.#queue.size === 0) this.#headSinceMs = nowMs;
    this.#queue.set(id, work);
    this.#queuedTokenCount += work.tokenCount;
    this.#queuedPairCount += work.pairCount;
    this.#prefillShare.add(work.addedMs, nowMs);
    this.#promptRate.add(1, nowMs);
    this.#promptUrgency.add(1 / work.unloadedTtftMs, nowMs);
  }

  /** It is computed, or not wanted any more. */
  removePrompt(id: RequestId, nowMs: number): void {
    const work = this.#queue.get(id);
    if (work === undefined) return;
    const isHead = this.#queue.keys().next().value === id;
    this.#queue.delete(id);
    if (isHead) this.#headSinceMs = nowMs;
    this.#queuedTokenCount -= work.tokenCount;
    this.#queuedPairCount -= work.pairCount;
  }

  changeExpected(change: DecodeWork): void {
    this.#expected = sum(this.#expected, change);
  }

  changeDecoding(change: DecodeWork, nowMs: number): void {
    this.#decoding = sum(this.#decoding, change);
    if (change.rowCount !== 0) this.#decodingMean.set(this.#decoding.rowCount, nowMs);
  }
}

export function negative({ rowCount, kvTokenCount, remainingTokenCount }: DecodeWork): DecodeWork {
  return { rowCount: -rowCount, kvTokenCount: -kvTokenCount, remainingTokenCount: -remainingTokenCount };
}

function sum(a: DecodeWork, b: DecodeWork): DecodeWork {
  const rowCount = a.rowCount + b.rowCount;
  if (rowCount === 0) return none; // so that rounding does not pile up
  return {
    rowCount,
    kvTokenCount: a.kvTokenCount + b.kvTokenCount,
    remainingTokenCount: a.remainingTokenCount + b.remainingTokenCount,
  };
}
