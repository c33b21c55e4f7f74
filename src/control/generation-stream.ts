/** What a client of the Gateway holds: the events of one request, until every choice has ended or the request
 *  has failed. Made by request.ts. Returning early from the iteration cancels the request everywhere.
 *  The queue is bounded by maxTokenCount × choiceCount events: a slow reader costs no more than its own
 *  answer. */
import type { TwostrokeError } from '../base/errors.js';
import type { TokenEvent, TokenOutput } from '../engine/token-event.js';
import type { RouteSummary } from './request-record.js';

export interface GenerationStream extends AsyncIterable<TokenEvent> {
  cancel(): void;
  /** A stop string was seen: from this call on no more tokens of that choice come, the others go on. */
  stopChoice(choiceIndex: number): void;
  /** The first route taken; rejects when the request fails before it has one. */
  readonly route: Promise<RouteSummary>;
}

/** Learns what is kept for a client, in bytes: more, or less. */
export interface Kept {
  add(byteCount: number): void;
}

/** What lists, numbers and objects take in V8, about. */
const bytesPerEvent = 256;
const bytesPerToken = 48;
export const bytesPerScore = 80;

/** Of the tokens with their log-probabilities. */
export function bytesOfTokens(tokens: readonly TokenOutput[]): number {
  const scoreCount = tokens.reduce(
    (sum, { logprob }) => sum + (logprob === undefined ? 0 : 1 + logprob.top.length),
    0,
  );
  return bytesPerToken * tokens.length + bytesPerScore * scoreCount;
}

/** A prompt's scores were counted when they were asked for. */
function bytesOf(event: TokenEvent): number {
  return bytesPerEvent + (event.kind === 'tokens' ? bytesOfTokens(event.tokens) : 0);
}

export class EventQueue implements AsyncIterator<TokenEvent> {
  readonly #events: TokenEvent[] = [];
  /** Events before it have been read: shifting a long array would move all of it, every time. */
  #readCount = 0;
  readonly #dropped = new Set<number>();
  readonly #onReturn: () => void;
  readonly #kept: Kept | undefined;
  readonly #waiters: { resolve(result: IteratorResult<TokenEvent>): void; reject(error: Error): void }[] = [];
  #end: { readonly error: TwostrokeError | null } | null = null;

  constructor(onReturn: () => void, kept?: Kept) {
    this.#onReturn = onReturn;
    this.#kept = kept;
  }

  push(event: TokenEvent): void {
    if (this.#end !== null) return;
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) {
      waiter.resolve({ done: false, value: event });
      return;
    }
    this.#events.push(event);
    this.#kept?.add(bytesOf(event));
  }

  /** The tokens of a choice that nobody has read yet are never read: they are passed over where they lie,
   *  since looking for them takes as long as there are others. */
  drop(choiceIndex: number): void {
    this.#dropped.add(choiceIndex);
  }

  /** Nobody wants what is queued. */
  clear(): void {
    for (const event of this.#events.slice(this.#readCount)) this.#kept?.add(-bytesOf(event));
    this.#events.length = 0;
    this.#readCount = 0;
  }

  /** After what is queued, the iteration ends, or throws `error`. */
  end(error: TwostrokeError | null): void {
    if (this.#end !== null) return;
    this.#end = { error };
    for (const waiter of this.#waiters.splice(0)) void this.next().then(waiter.resolve, waiter.reject);
  }

  next(): Promise<IteratorResult<TokenEvent>> {
    const value = this.#read();
    if (value !== undefined) return Promise.resolve({ done: false, value });
    if (this.#end?.error) {
      const { error } = this.#end;
      this.#end = { error: null };
      return Promise.reject(error);
    }
    if (this.#end !== null) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
    });
  }

  return(): Promise<IteratorResult<TokenEvent>> {
    this.#onReturn();
    this.clear();
    return Promise.resolve({ done: true, value: undefined });
  }

  #read(): TokenEvent | undefined {
    for (
      let event = this.#events[this.#readCount];
      event !== undefined;
      event = this.#events[this.#readCount]
    ) {
      this.#readCount++;
      this.#kept?.add(-bytesOf(event));
      if (2 * this.#readCount >= this.#events.length) this.#forgetRead();
      if (event.kind !== 'tokens' || !this.#dropped.has(event.choiceIndex)) return event;
    }
    return undefined;
  }

  #forgetRead(): void {
    this.#events.splice(0, this.#readCount);
    this.#readCount = 0;
  }
}
