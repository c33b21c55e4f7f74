/** Something that happens again and again, and those who wait for the next time: a worker comes or goes,
 *  memory becomes free. Used by control/. Invariant: it keeps nothing of a wait that is over, unlike a
 *  reaction on a promise that may never settle. */
export class Signal {
  #waiters = new Set<() => void>();

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

  fire(): void {
    if (this.#waiters.size === 0) return;
    const waiters = this.#waiters;
    this.#waiters = new Set();
    for (const wake of waiters) wake();
  }
}

export interface NextChange {
  readonly happened: Promise<void>;
  /** Whoever does not wait any more says so: it may never happen. */
  readonly forget: () => void;
}
