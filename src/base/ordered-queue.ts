/** Items in the order they are served. Used by the engine for sequences and by control/decode-room.ts for
 *  requests. Finding a place takes O(log n) comparisons. Invariant: the order is total, so that every item
 *  has one place. */
import { at } from './assert.js';

export class OrderedQueue<Item> {
  readonly #items: Item[] = [];
  readonly #compare: (a: Item, b: Item) => number;

  /** `compare`: negative when `a` is served before `b`, and 0 only for the same item. */
  constructor(compare: (a: Item, b: Item) => number) {
    this.#compare = compare;
  }

  get count(): number {
    return this.#items.length;
  }

  get items(): readonly Item[] {
    return this.#items;
  }

  get first(): Item | undefined {
    return this.#items[0];
  }

  insert(item: Item): void {
    this.#items.splice(this.#position(item), 0, item);
  }

  remove(item: Item): boolean {
    const index = this.#position(item);
    if (this.#items[index] !== item) return false;
    this.#items.splice(index, 1);
    return true;
  }

  has(item: Item): boolean {
    return this.#items[this.#position(item)] === item;
  }

  /** Items that are served before it, whether it is there or not. */
  countBefore(item: Item): number {
    return this.#position(item);
  }

  /** Index of the first item not before `item`: where it is or belongs. */
  #position(item: Item): number {
    let low = 0;
    let high = this.#items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#compare(at(this.#items, middle), item) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
