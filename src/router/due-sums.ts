/** Sums of what is due before a moment, over items that come and go. Used by worker-load.ts. An event or a question costs the square root of how
 *  many there are: items lie in chunks in the order of when they are due, each chunk with its sums.
 *  Invariant: chunks are never empty and never longer than `chunkCountMax`; the sums are those of their items. */
import { at } from '../base/assert.js';

export interface DueItem {
  readonly dueMs: number;
  readonly tokenCount: number;
  readonly pairCount: number;
}

interface Sum {
  promptCount: number;
  tokenCount: number;
  pairCount: number;
}

interface Chunk extends Sum {
  readonly items: DueItem[];
}

const chunkCountMax = 64;

export class DueSums {
  readonly #chunks: Chunk[] = [];

  get isEmpty(): boolean {
    return this.#chunks.length === 0;
  }

  add(item: DueItem): void {
    const index = Math.max(0, this.#firstAfter(item.dueMs) - 1);
    const chunk = this.#chunks[index] ?? this.#open(0, []);
    chunk.items.splice(positionAfter(chunk.items, item.dueMs), 0, item);
    addTo(chunk, item, 1);
    if (chunk.items.length > chunkCountMax) this.#split(index);
  }

  /** False: it was not there. */
  remove(item: DueItem): boolean {
    for (let index = Math.max(0, this.#firstAfter(item.dueMs) - 1); index >= 0 && this.#chunks.length > 0; index--) {
      const chunk = at(this.#chunks, index);
      const place = chunk.items.indexOf(item);
      if (place >= 0) {
        chunk.items.splice(place, 1);
        addTo(chunk, item, -1);
        if (chunk.items.length === 0) this.#chunks.splice(index, 1);
        return true;
      }
      if (at(chunk.items, 0).dueMs < item.dueMs) break; // of equals some lie in chunks before
    }
    return false;
  }

  /** Of all that are due from one moment to another, both included. */
  between(fromMs: number, untilMs: number): Sum {
    const sum = { promptCount: 0, tokenCount: 0, pairCount: 0 };
    for (const chunk of this.#chunks) {
      const [first, last] = [at(chunk.items, 0).dueMs, at(chunk.items, chunk.items.length - 1).dueMs];
      if (last < fromMs) continue;
      if (first > untilMs) break;
      if (first >= fromMs && last <= untilMs) addSum(sum, chunk);
      else for (const item of chunk.items) if (item.dueMs >= fromMs && item.dueMs <= untilMs) addTo(sum, item, 1);
    }
    return sum;
  }

  /** Index of the first chunk that begins after it. */
  #firstAfter(dueMs: number): number {
    let [low, high] = [0, this.#chunks.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (at(at(this.#chunks, middle).items, 0).dueMs <= dueMs) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #open(index: number, items: DueItem[]): Chunk {
    const chunk = { items, promptCount: 0, tokenCount: 0, pairCount: 0 };
    for (const item of items) addTo(chunk, item, 1);
    this.#chunks.splice(index, 0, chunk);
    return chunk;
  }

  #split(index: number): void {
    const [whole] = this.#chunks.splice(index, 1);
    const items = whole?.items ?? [];
    this.#open(index, items.slice(items.length >> 1));
    this.#open(index, items.slice(0, items.length >> 1));
  }
}

function positionAfter(items: readonly DueItem[], dueMs: number): number {
  let [low, high] = [0, items.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at(items, middle).dueMs <= dueMs) low = middle + 1;
    else high = middle;
  }
  return low;
}

function addTo(sum: Sum, { tokenCount, pairCount }: DueItem, sign: 1 | -1): void {
  sum.promptCount += sign;
  sum.tokenCount += sign * tokenCount;
  sum.pairCount += sign * pairCount;
}

function addSum(sum: Sum, other: Sum): void {
  sum.promptCount += other.promptCount;
  sum.tokenCount += other.tokenCount;
  sum.pairCount += other.pairCount;
}
