/** Sequences in the order they are served: priority, then arrival, then choice. Used by the scheduler for those that wait and run. */
import { at } from '../base/assert.js';
import type { Sequence } from './sequence.js';

/** Negative when `a` is served before `b`. */
export function compareOrder(a: Sequence, b: Sequence): number {
  return a.request.priority - b.request.priority || a.request.arrival - b.request.arrival || a.choiceIndex - b.choiceIndex;
}

export class SequenceQueue {
  readonly #items: Sequence[] = [];

  get count(): number {
    return this.#items.length;
  }

  get items(): readonly Sequence[] {
    return this.#items;
  }

  get first(): Sequence | undefined {
    return this.#items[0];
  }

  insert(sequence: Sequence): void {
    this.#items.splice(this.#position(sequence), 0, sequence);
  }

  remove(sequence: Sequence): boolean {
    const index = this.#position(sequence);
    if (this.#items[index] !== sequence) return false;
    this.#items.splice(index, 1);
    return true;
  }

  has(sequence: Sequence): boolean {
    return this.#items[this.#position(sequence)] === sequence;
  }

  /** Index of the first item not before `sequence`. The order is total, so that is where it is or belongs. */
  #position(sequence: Sequence): number {
    let low = 0;
    let high = this.#items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compareOrder(at(this.#items, middle), sequence) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
