/** Time that passes only when nobody has anything left to do: tests of hours run in milliseconds, the same every time. */
import type { Clock, TimerHandle } from '../../src/base/clock.js';

interface Timer {
  readonly atMs: number;
  readonly order: number;
  readonly fire: () => void;
}

export class VirtualClock implements Clock {
  #nowMs = 0;
  #order = 0;
  readonly #timers = new Set<Timer>();

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs;
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.after(delayMs, resolve));
  }

  after(delayMs: number, fire: () => void): TimerHandle {
    const timer = { atMs: this.#nowMs + delayMs, order: this.#order++, fire };
    this.#timers.add(timer);
    return { cancel: () => this.#timers.delete(timer) };
  }

  yield(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  /** Lets time pass until `done` settles. Throws when nothing is left that could settle it. */
  async drive<T>(done: Promise<T>): Promise<T> {
    let isDone = false;
    const settle = () => {
      isDone = true;
    };
    done.then(settle, settle);
    for (;;) {
      await this.yield(); // every promise that can go on has gone on
      if (isDone) return done;
      this.#advance();
    }
  }

  #advance(): void {
    let next: Timer | undefined;
    for (const timer of this.#timers) {
      if (next === undefined || timer.atMs < next.atMs || (timer.atMs === next.atMs && timer.order < next.order)) next = timer;
    }
    if (next === undefined) throw new Error('standstill: no timer left and not done');
    this.#timers.delete(next);
    this.#nowMs = Math.max(this.#nowMs, next.atMs);
    next.fire();
  }
}
