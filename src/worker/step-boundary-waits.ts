/** How long sequences that have been handed over wait until decode begins its next step, which is the first that can take them in: the part of
 *  a hand-over's pause that no connector can shorten. Used by worker.ts. */
import type { Clock } from '../base/clock.js';

export interface WaitTotals {
  readonly count: number;
  readonly totalMs: number;
}

export class StepBoundaryWaits {
  readonly #clock: Clock;
  #sinceMs: number[] = [];
  #totals: WaitTotals = { count: 0, totalMs: 0 };

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get totals(): WaitTotals {
    return this.#totals;
  }

  /** A sequence can be scheduled from now on. */
  resumed(): void {
    this.#sinceMs.push(this.#clock.nowMs());
  }

  /** A step begins: those waiting are in it, as far as it has room. */
  stepping(): void {
    if (this.#sinceMs.length === 0) return;
    const nowMs = this.#clock.nowMs();
    const totalMs = this.#sinceMs.reduce((sum, sinceMs) => sum + nowMs - sinceMs, this.#totals.totalMs);
    this.#totals = { count: this.#totals.count + this.#sinceMs.length, totalMs };
    this.#sinceMs = [];
  }
}
