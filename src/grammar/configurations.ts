/** Where a text stands in a grammar, as a number: sets of (state, stack) items, each set named once, and
 *  what each byte makes of it. Used by grammar-masks.ts. A stack is a linked list of states to come back
 *  to, each list named once, so that two ways to one place are one. Invariant: sets and stacks are
 *  bounded; one that grows past that is an InvalidRequestError, not a long wait. */
import { at } from '../base/assert.js';
import { InvalidRequestError } from '../base/errors.js';
import type { Automaton } from './automaton.js';

/** No way goes on. */
export const dead = -1;
const unknown = -2;
const byteCount = 256;
/** A grammar in which one text can be read in more ways at once is not enforced. */
const itemCountMax = 4096;
const emptyStack = 0;

interface Configuration {
  /** state + stack × number of states; each has an edge that reads something. */
  readonly items: readonly number[];
  readonly isAccepting: boolean;
  /** Fewest bytes to an end. */
  readonly byteCount: number;
  readonly next: Int32Array;
}

export class Configurations {
  readonly #automaton: Automaton;
  readonly #stateCount: number;
  readonly #configurations: Configuration[] = [];
  readonly #named = new Map<string, number>();
  readonly #backs: number[] = [-1];
  readonly #parents: number[] = [-1];
  /** Fewest bytes to empty each stack. */
  readonly #stackBytes: number[] = [0];
  readonly #stacks = new Map<number, number>();
  readonly start: number;

  constructor(automaton: Automaton) {
    this.#automaton = automaton;
    this.#stateCount = automaton.states.length;
    this.start = this.#close([at(automaton.starts, 0)]);
  }

  get count(): number {
    return this.#configurations.length;
  }

  isAccepting(id: number): boolean {
    return at(this.#configurations, id).isAccepting;
  }

  /** Fewest bytes to an end. */
  byteCount(id: number): number {
    return at(this.#configurations, id).byteCount;
  }

  /** The table that `next` fills: by byte, a configuration, `dead`, or something negative for not known
   *  yet. */
  table(id: number): Int32Array {
    return at(this.#configurations, id).next;
  }

  next(id: number, byte: number): number {
    const { items, next } = at(this.#configurations, id);
    const known = at(next, byte);
    if (known !== unknown) return known;
    const moved: number[] = [];
    for (const item of items) {
      const state = item % this.#stateCount;
      for (const { first, last, target } of at(this.#automaton.states, state).bytes) {
        if (first <= byte && byte <= last) moved.push(item - state + target);
      }
    }
    const result = moved.length === 0 ? dead : this.#close(moved);
    next[byte] = result;
    return result;
  }

  nextMarker(id: number, symbol: number): number {
    const moved: number[] = [];
    for (const item of at(this.#configurations, id).items) {
      const state = item % this.#stateCount;
      for (const edge of at(this.#automaton.states, state).markers) {
        if (edge.symbol === symbol) moved.push(item - state + edge.target);
      }
    }
    return moved.length === 0 ? dead : this.#close(moved);
  }

  /** Symbols that may come next. */
  markers(id: number): readonly number[] {
    const { states } = this.#automaton;
    const { items } = at(this.#configurations, id);
    return [
      ...new Set(
        items.flatMap((item) => at(states, item % this.#stateCount).markers.map(({ symbol }) => symbol)),
      ),
    ];
  }

  /** Everything that can be reached without reading. */
  #close(moved: readonly number[]): number {
    const { states, starts, isEnd, byteCounts } = this.#automaton;
    const seen = new Set<number>(moved);
    const queue = [...seen];
    const kept: number[] = [];
    let isAccepting = false;
    let fewest = Number.POSITIVE_INFINITY;
    const add = (item: number) => {
      if (seen.has(item)) return;
      if (seen.size >= itemCountMax) {
        throw new InvalidRequestError(
          'the grammar can be read in too many ways at once to be enforced: make it less ambiguous',
        );
      }
      seen.add(item);
      queue.push(item);
    };
    for (let i = 0; i < queue.length; i++) {
      const item = at(queue, i);
      const state = item % this.#stateCount;
      const stack = (item - state) / this.#stateCount;
      const { bytes, free, calls, markers } = at(states, state);
      if (bytes.length > 0 || markers.length > 0) {
        kept.push(item);
        fewest = Math.min(fewest, at(byteCounts, state) + at(this.#stackBytes, stack));
      }
      for (const target of free) add(target + stack * this.#stateCount);
      for (const { rule, back } of calls) add(at(starts, rule) + this.#push(back, stack) * this.#stateCount);
      if (!isEnd(state)) continue;
      if (stack === emptyStack) isAccepting = true;
      else add(at(this.#backs, stack) + at(this.#parents, stack) * this.#stateCount);
    }
    return this.#name(kept, isAccepting, isAccepting ? 0 : fewest);
  }

  /** A call from the very end of a rule comes back to nothing: the stack stays as it is, however long a
   *  list is. */
  #push(back: number, stack: number): number {
    if (this.#automaton.isEnd(back) && isBare(this.#automaton, back) && stack !== emptyStack) return stack;
    const key = back + stack * this.#stateCount;
    const known = this.#stacks.get(key);
    if (known !== undefined) return known;
    const id = this.#backs.push(back) - 1;
    this.#parents.push(stack);
    this.#stackBytes.push(at(this.#automaton.byteCounts, back) + at(this.#stackBytes, stack));
    this.#stacks.set(key, id);
    return id;
  }

  #name(items: number[], isAccepting: boolean, fewest: number): number {
    items.sort((a, b) => a - b);
    const key = `${isAccepting ? '+' : ''}${items.join()}`;
    const known = this.#named.get(key);
    if (known !== undefined) return known;
    const next = new Int32Array(byteCount).fill(unknown);
    const id = this.#configurations.push({ items, isAccepting, byteCount: fewest, next }) - 1;
    this.#named.set(key, id);
    return id;
  }
}

function isBare({ states }: Automaton, state: number): boolean {
  const { bytes, free, calls, markers } = at(states, state);
  return bytes.length === 0 && free.length === 0 && calls.length === 0 && markers.length === 0;
}
