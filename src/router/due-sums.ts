/** Sums of what is due until a moment, over items that come and go. Used by worker-load.ts. Items lie in
 *  chunks in the order of when they are due, each chunk with its sums. A question takes off what is late
 *  (whole chunks of it have one sum) and what is due after the moment asked for: few chunks, since that is
 *  mostly about the latest.
 *  Invariant: chunks are never empty and never longer than `chunkCountMax`; the sums are those of their
 *  items. */
import { at } from '../base/assert.js';

interface DueItem {
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
  readonly #all: Sum = nothing();
  /** Of the first chunks, all of whose items are late. */
  readonly #late: Sum = nothing();
  #lateChunkCount = 0;

  get isEmpty(): boolean {
    return this.#chunks.length === 0;
  }

  add(item: DueItem): void {
    const index = this.#placeFor(item);
    const chunk = this.#chunks[index] ?? this.#open(index, []);
    chunk.items.splice(positionAfter(chunk.items, item.dueMs), 0, item);
    this.#count(index, item, 1);
    if (chunk.items.length > chunkCountMax) this.#split(index);
  }

  /** False: it was not there. */
  remove(item: DueItem): boolean {
    for (let index = this.#lastBegun(item.dueMs); index >= 0 && index < this.#chunks.length; index--) {
      const { items } = at(this.#chunks, index);
      const place = items.indexOf(item);
      if (place >= 0) {
        items.splice(place, 1);
        this.#count(index, item, -1);
        if (items.length === 0) this.#close(index);
        return true;
      }
      if (at(items, 0).dueMs < item.dueMs) break; // of equals some lie in chunks before
    }
    return false;
  }

  /** Of all that are not late now and due by then. `nowMs` never goes back. */
  dueBetween(nowMs: number, untilMs: number): Sum {
    for (let next = this.#chunks[this.#lateChunkCount]; next !== undefined && lastDueMs(next) < nowMs; ) {
      addTo(this.#late, next, 1);
      next = this.#chunks[++this.#lateChunkCount];
    }
    const sum = { ...this.#all };
    addTo(sum, this.#late, -1);
    for (const item of this.#chunks[this.#lateChunkCount]?.items ?? [])
      if (item.dueMs < nowMs) addTo(sum, one(item), -1);
    for (let index = this.#chunks.length - 1; index >= this.#lateChunkCount; index--) {
      const chunk = at(this.#chunks, index);
      if (lastDueMs(chunk) <= untilMs) break;
      if (firstDueMs(chunk) > untilMs && firstDueMs(chunk) >= nowMs) addTo(sum, chunk, -1);
      else
        for (const item of chunk.items)
          if (item.dueMs > untilMs && item.dueMs >= nowMs) addTo(sum, one(item), -1);
    }
    return sum;
  }

  /** Of all, late ones too. */
  get all(): Sum {
    return { ...this.#all };
  }

  /** The last chunk that begins no later; behind a late chunk when it is due after all of it. */
  #placeFor({ dueMs }: DueItem): number {
    const index = Math.max(0, this.#lastBegun(dueMs));
    const chunk = this.#chunks[index];
    const isBehindLate = chunk !== undefined && index < this.#lateChunkCount && dueMs > lastDueMs(chunk);
    return isBehindLate ? index + 1 : index;
  }

  /** Index of the last chunk that begins no later; -1: none does. */
  #lastBegun(dueMs: number): number {
    let [low, high] = [0, this.#chunks.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (firstDueMs(at(this.#chunks, middle)) <= dueMs) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  #count(index: number, item: DueItem, sign: 1 | -1): void {
    const part = one(item);
    addTo(at(this.#chunks, index), part, sign);
    addTo(this.#all, part, sign);
    if (index < this.#lateChunkCount) addTo(this.#late, part, sign);
  }

  #open(index: number, items: DueItem[]): Chunk {
    const chunk = { items, ...nothing() };
    for (const item of items) addTo(chunk, one(item), 1);
    this.#chunks.splice(index, 0, chunk);
    return chunk;
  }

  #close(index: number): void {
    this.#chunks.splice(index, 1);
    if (index < this.#lateChunkCount) this.#lateChunkCount--;
  }

  #split(index: number): void {
    const [whole] = this.#chunks.splice(index, 1);
    const items = whole?.items ?? [];
    this.#open(index, items.slice(items.length >> 1));
    this.#open(index, items.slice(0, items.length >> 1));
    if (index < this.#lateChunkCount) this.#lateChunkCount++;
  }
}

function nothing(): Sum {
  return { promptCount: 0, tokenCount: 0, pairCount: 0 };
}

function one({ tokenCount, pairCount }: DueItem): Sum {
  return { promptCount: 1, tokenCount, pairCount };
}

function firstDueMs({ items }: Chunk): number {
  return at(items, 0).dueMs;
}

function lastDueMs({ items }: Chunk): number {
  return at(items, items.length - 1).dueMs;
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

function addTo(sum: Sum, { promptCount, tokenCount, pairCount }: Sum, sign: 1 | -1): void {
  sum.promptCount += sign * promptCount;
  sum.tokenCount += sign * tokenCount;
  sum.pairCount += sign * pairCount;
}
