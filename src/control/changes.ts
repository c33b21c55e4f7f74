/** Something that happens again and again, for those who wait for the next time. Used by supervisor.ts and coordinator.ts.
 *  Invariant: nothing is kept of who has stopped waiting, as a promise that lives long would. */
import type { NextChange } from './worker-directory.js';

export class Changes {
  readonly #waiters = new Set<() => void>();

  get waiterCount(): number {
    return this.#waiters.size;
  }

  next(): NextChange {
    let wake: () => void = () => {};
    const happened = new Promise<void>((resolve) => {
      wake = resolve;
    });
    this.#waiters.add(wake);
    return { happened, forget: () => void this.#waiters.delete(wake) };
  }

  happened(): void {
    for (const wake of this.#waiters) wake();
    this.#waiters.clear();
  }
}
