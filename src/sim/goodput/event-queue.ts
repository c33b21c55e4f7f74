/** Things to do at times of a model, in the order of their time; those of one instant in the order they were
 *  added. Used by cluster-model.ts. */

interface TimedEvent {
  readonly atMs: number;
  readonly order: number;
  readonly happen: () => void;
}

export class ModelEvents {
  /** A binary heap: the parent of i is (i - 1) >> 1 and comes before it. */
  readonly #heap: TimedEvent[] = [];
  #order = 0;
  #nowMs = 0;

  get nowMs(): number {
    return this.#nowMs;
  }

  at(atMs: number, happen: () => void): void {
    this.#heap.push({ atMs, order: this.#order++, happen });
    this.#rise(this.#heap.length - 1);
  }

  /** Until nothing is left to happen. */
  run(): void {
    for (let event = this.#pop(); event !== undefined; event = this.#pop()) {
      this.#nowMs = event.atMs;
      event.happen();
    }
  }

  #pop(): TimedEvent | undefined {
    const heap = this.#heap;
    const [first] = heap;
    const last = heap.pop();
    if (heap.length > 0 && last !== undefined) {
      heap[0] = last;
      this.#sink();
    }
    return first;
  }

  #rise(index: number): void {
    for (let child = index; child > 0; ) {
      const parent = (child - 1) >> 1;
      if (!this.#swapIfLater(parent, child)) return;
      child = parent;
    }
  }

  #sink(): void {
    for (let parent = 0; ; ) {
      const left = 2 * parent + 1;
      const right = left + 1;
      const first = this.#isLater(left, right) ? right : left;
      if (!this.#swapIfLater(parent, first)) return;
      parent = first;
    }
  }

  #swapIfLater(a: number, b: number): boolean {
    if (!this.#isLater(a, b)) return false;
    const heap = this.#heap as [TimedEvent, ...TimedEvent[]];
    [heap[a], heap[b]] = [heap[b] as TimedEvent, heap[a] as TimedEvent];
    return true;
  }

  /** Whether the event at `a` comes after the one at `b`; false where there is none. */
  #isLater(a: number, b: number): boolean {
    const [one, other] = [this.#heap[a], this.#heap[b]];
    if (one === undefined || other === undefined) return false;
    return one.atMs > other.atMs || (one.atMs === other.atMs && one.order > other.order);
  }
}
