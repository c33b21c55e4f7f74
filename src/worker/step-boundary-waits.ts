/** How long sequences that have been handed over wait until decode begins its next step, which is the first
 *  that can take them in: the part of a hand-over's pause that no connector can shorten. Used by
 *  worker.ts. */
import type { Clock } from '../base/clock.js';

export interface WaitTotals {
  readonly count: number;
  readonly totalMs: number;
}

export class StepBoundaryWaits {
  readonly #clock: Clock;
  #waitingCount = 0;
  /** Of those that wait: when they began to, summed. */
  #sinceMsSum = 0;
  #totals: WaitTotals = { count: 0, totalMs: 0 };

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get totals(): WaitTotals {
    return this.#totals;
  }

  /** A sequence can be scheduled from now on. */
  resumed(): void {
    this.#waitingCount++;
    this.#sinceMsSum += this.#clock.nowMs();
  }

  /** A step begins: those waiting are in it, as far as it has room. */
  stepping(): void {
    if (this.#waitingCount === 0) return;
    const waitedMs = this.#waitingCount * this.#clock.nowMs() - this.#sinceMsSum;
    this.#totals = {
      count: this.#totals.count + this.#waitingCount,
      totalMs: this.#totals.totalMs + waitedMs,
    };
    this.#waitingCount = 0;
    this.#sinceMsSum = 0;
  }
}
