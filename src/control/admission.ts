/** Says no early: when too many requests are accepted and unfinished, with an honest guess when to come back. Used by coordinator.ts.
 *  Invariant: what is admitted is counted until it has ended, so that nothing queues without a bound. */
import type { Clock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';

export class OverloadedError extends TwostrokeError {
  /** For a Retry-After header. */
  readonly retryAfterMs: number;

  constructor(requestCount: number, retryAfterMs: number) {
    super(
      'overloaded',
      `${requestCount} requests are running or waiting, which is the limit; retry in ${Math.ceil(retryAfterMs / 1000)} s`,
    );
    this.retryAfterMs = retryAfterMs;
  }
}

const retryMsMin = 1000;
const retryMsMax = 60_000;
/** Requests whose ends make the rate: enough to be steady, few enough to follow a change of load. */
const recentCountMax = 64;

export class Admission {
  readonly #clock: Clock;
  readonly #requestCountMax: number;
  readonly #doneMs: number[] = [];
  #requestCount = 0;

  constructor(clock: Clock, requestCountMax: number) {
    this.#clock = clock;
    this.#requestCountMax = requestCountMax;
  }

  get requestCount(): number {
    return this.#requestCount;
  }

  /** Throws OverloadedError; otherwise `leave` must follow once. */
  enter(): void {
    if (this.#requestCount >= this.#requestCountMax) throw new OverloadedError(this.#requestCount, this.#retryAfterMs());
    this.#requestCount++;
  }

  leave(): void {
    this.#requestCount--;
    this.#doneMs.push(this.#clock.nowMs());
    if (this.#doneMs.length > recentCountMax) this.#doneMs.shift();
  }

  /** Time in which a tenth of the limit has ended, at the recent rate. */
  #retryAfterMs(): number {
    const [firstMs] = this.#doneMs;
    if (firstMs === undefined) return retryMsMin;
    const msPerRequest = (this.#clock.nowMs() - firstMs) / this.#doneMs.length;
    return Math.min(retryMsMax, Math.max(retryMsMin, msPerRequest * this.#requestCountMax * 0.1));
  }
}
