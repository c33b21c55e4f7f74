/** A grammar as a recursive transition network over bytes: states with byte edges, free moves, and calls
 *  of rules. Used by configurations.ts. Invariant: from every state the end of its rule can be reached
 *  (packGrammar has pruned what cannot). */
import { assert, at } from '../base/assert.js';
import { InvalidRequestError } from '../base/errors.js';
import type { Grammar, GrammarNode } from './grammar.js';
import { byteSequences } from './utf8.js';

interface State {
  readonly bytes: { readonly first: number; readonly last: number; readonly target: number }[];
  readonly free: number[];
  readonly calls: { readonly rule: number; readonly back: number }[];
  /** `symbol`: as the vocabulary numbers its special tokens. */
  readonly markers: { readonly symbol: number; readonly target: number }[];
}

export interface Automaton {
  readonly states: readonly State[];
  /** First and last state of each rule; rule 0 is the root. */
  readonly starts: readonly number[];
  readonly ends: readonly number[];
  /** Fewest bytes from a state to the end of its rule; a marker counts as one. */
  readonly byteCounts: Int32Array;
  readonly isEnd: (state: number) => boolean;
}

/** About 30 MB. */
const stateCountMax = 2 ** 17;
/** Bytes. No context holds more. */
const shortestMax = 2 ** 20;
/** Copies of a repeated part that are written out; more are made of parts of parts. */
const copyCountMax = 48;

/** `symbolOf`: of a special token's text; undefined: there is none. @throws InvalidRequestError for one
 *  that is too large. */
export function buildAutomaton(grammar: Grammar, symbolOf: (text: string) => number | undefined): Automaton {
  return new Builder(grammar, symbolOf).build();
}

class Builder {
  readonly #grammar: Grammar;
  readonly #symbolOf: (text: string) => number | undefined;
  readonly #states: State[] = [];
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];
  readonly #ruleIndex = new Map<string, number>();

  constructor(grammar: Grammar, symbolOf: (text: string) => number | undefined) {
    this.#grammar = grammar;
    this.#symbolOf = symbolOf;
  }

  build(): Automaton {
    this.#addRule();
    for (const name of Object.keys(this.#grammar.rules)) this.#ruleIndex.set(name, this.#addRule());
    this.#fill(0, this.#grammar.root);
    for (const [name, node] of Object.entries(this.#grammar.rules))
      this.#fill(this.#ruleIndex.get(name) ?? 0, node);
    const ends = new Set(this.#ends);
    const parts = { states: this.#states, starts: this.#starts, ends: this.#ends };
    const byteCounts = shortestEnds(parts);
    if (at(byteCounts, at(this.#starts, 0)) > shortestMax) {
      throw new InvalidRequestError(
        'the grammar cannot be enforced: even the shortest text of it is too long',
      );
    }
    return { ...parts, byteCounts, isEnd: (state) => ends.has(state) };
  }

  #addRule(): number {
    this.#starts.push(this.#addState());
    this.#ends.push(this.#addState());
    return this.#starts.length - 1;
  }

  #fill(index: number, node: GrammarNode): void {
    this.#connect(node, at(this.#starts, index), at(this.#ends, index));
  }

  #addState(): number {
    if (this.#states.length >= stateCountMax)
      throw new InvalidRequestError('the grammar is too large to be enforced');
    return this.#states.push({ bytes: [], free: [], calls: [], markers: [] }) - 1;
  }

  #connect(node: GrammarNode, from: number, to: number): void {
    switch (node.kind) {
      case 'text':
        this.#connectBytes([...Buffer.from(node.text)], from, to);
        return;
      case 'chars':
        this.#connectChars(node, from, to);
        return;
      case 'sequence':
        this.#connectAll(node.items, from, to);
        return;
      case 'choice':
        for (const item of node.items) this.#connect(item, from, to);
        return;
      case 'repeat':
        this.#connectRepeat(node, from, to);
        return;
      case 'rule': {
        const rule = this.#ruleIndex.get(node.name);
        assert(rule !== undefined, `no rule ${node.name}`);
        at(this.#states, from).calls.push({ rule, back: to });
        return;
      }
      case 'marker': {
        const symbol = this.#symbolOf(node.text);
        if (symbol === undefined) this.#connectBytes([...Buffer.from(node.text)], from, to);
        else at(this.#states, from).markers.push({ symbol, target: to });
        return;
      }
      case 'free':
        this.#connectFree(node.stops, from, to);
    }
  }

  #connectAll(items: readonly GrammarNode[], from: number, to: number): void {
    let place = from;
    items.forEach((item, index) => {
      const next = index === items.length - 1 ? to : this.#addState();
      this.#connect(item, place, next);
      place = next;
    });
    if (items.length === 0) this.#move(from, to);
  }

  #move(from: number, to: number): void {
    at(this.#states, from).free.push(to);
  }

  #connectBytes(bytes: readonly number[], from: number, to: number): void {
    let place = from;
    bytes.forEach((byte, index) => {
      const next = index === bytes.length - 1 ? to : this.#addState();
      at(this.#states, place).bytes.push({ first: byte, last: byte, target: next });
      place = next;
    });
    if (bytes.length === 0) this.#move(from, to);
  }

  /** Characters end alike: what follows their first bytes is shared. */
  #connectChars({ ranges }: Extract<GrammarNode, { kind: 'chars' }>, from: number, to: number): void {
    const tails = new Map<string, number>();
    for (const ofCharacter of byteSequences(ranges)) {
      let target = to;
      for (let i = ofCharacter.length - 1; i > 0; i--) {
        const name = `${ofCharacter.slice(i).join(' ')}`;
        let tail = tails.get(name);
        if (tail === undefined) {
          tail = this.#addState();
          tails.set(name, tail);
          const [first, last] = at(ofCharacter, i);
          at(this.#states, tail).bytes.push({ first, last, target });
        }
        target = tail;
      }
      const [first, last] = at(ofCharacter, 0);
      at(this.#states, from).bytes.push({ first, last, target });
    }
  }

  #connectRepeat(
    { item, min, max }: Extract<GrammarNode, { kind: 'repeat' }>,
    from: number,
    to: number,
  ): void {
    const start = this.#addState(); // what comes before must not take part in a loop
    this.#move(from, start);
    if (max === null) {
      const loop = this.#addState();
      this.#exactly(item, min, start, loop);
      const inside = this.#addState();
      this.#move(loop, inside);
      this.#connect(item, inside, loop);
      this.#move(loop, to);
      return;
    }
    const middle = this.#addState();
    this.#exactly(item, min, start, middle);
    this.#upTo(item, max - min, middle, to);
  }

  #exactly(item: GrammarNode, count: number, from: number, to: number): void {
    if (count <= copyCountMax) {
      this.#connectAll(new Array(count).fill(item), from, to);
      return;
    }
    const part = this.#partOf(item, count);
    const middle = this.#addState();
    this.#callTimes(part.rule, Math.floor(count / part.count), from, middle);
    this.#exactly(item, count % part.count, middle, to);
  }

  #upTo(item: GrammarNode, count: number, from: number, to: number): void {
    if (count <= copyCountMax) {
      let place = from;
      for (let i = 0; i < count; i++) {
        this.#move(place, to);
        const next = this.#addState();
        this.#connect(item, place, next);
        place = next;
      }
      this.#move(place, to);
      return;
    }
    const part = this.#partOf(item, count);
    const partCount = Math.floor(count / part.count);
    let place = from; // after `done` parts: fewer than a part more, or another part
    for (let done = 0; done <= partCount; done++) {
      const rest = done === partCount ? count % part.count : part.count - 1;
      const short = this.#addState();
      this.#move(place, short);
      this.#callUpTo(item, rest, short, to);
      if (done === partCount) break;
      const next = this.#addState();
      at(this.#states, place).calls.push({ rule: part.rule, back: next });
      place = next;
    }
  }

  readonly #shorts = new Map<GrammarNode, Map<number, number>>();

  /** By a rule of its own, since it stands after every part. */
  #callUpTo(item: GrammarNode, count: number, from: number, to: number): void {
    const ofItem = this.#shorts.get(item) ?? new Map<number, number>();
    this.#shorts.set(item, ofItem);
    let rule = ofItem.get(count);
    if (rule === undefined) {
      rule = this.#addRule();
      ofItem.set(count, rule);
      this.#upTo(item, count, at(this.#starts, rule), at(this.#ends, rule));
    }
    at(this.#states, from).calls.push({ rule, back: to });
  }

  #callTimes(rule: number, count: number, from: number, to: number): void {
    let place = from;
    for (let i = 0; i < count; i++) {
      const next = i === count - 1 ? to : this.#addState();
      at(this.#states, place).calls.push({ rule, back: next });
      place = next;
    }
  }

  /** A rule of so many items that about as many of it make `count`. */
  #partOf(item: GrammarNode, count: number): { rule: number; count: number } {
    const partCount = Math.ceil(Math.sqrt(count));
    const rule = this.#addRule();
    this.#exactly(item, partCount, at(this.#starts, rule), at(this.#ends, rule));
    return { rule, count: partCount };
  }

  /** Aho and Corasick's automaton without the states in which a stop is complete. */
  #connectFree(stops: readonly string[], from: number, to: number): void {
    const table = stopTable(stops.map((stop) => [...Buffer.from(stop)]));
    const states = table.map(() => this.#addState());
    this.#move(from, at(states, 0));
    table.forEach((targets, index) => {
      if (targets === null) return;
      const state = at(states, index);
      this.#move(state, to);
      for (let first = 0; first < 256; ) {
        const target = at(targets, first);
        let last = first;
        while (last < 255 && targets[last + 1] === target) last++;
        if (table[target] !== null)
          at(this.#states, state).bytes.push({ first, last, target: at(states, target) });
        first = last + 1;
      }
    });
  }
}

/** Which prefix of the stops each byte gives after each; null: a stop is complete. */
function stopTable(stops: readonly (readonly number[])[]): (number[] | null)[] {
  const children: Map<number, number>[] = [new Map()];
  const complete = new Set<number>();
  for (const stop of stops) {
    let node = 0;
    for (const byte of stop) {
      let next = at(children, node).get(byte);
      if (next === undefined) {
        next = children.push(new Map()) - 1;
        at(children, node).set(byte, next);
      }
      node = next;
    }
    complete.add(node);
  }
  const table: number[][] = [];
  const fallback: number[] = children.map(() => 0);
  const order = [0];
  for (let i = 0; i < order.length; i++) {
    const node = at(order, i);
    const back = at(fallback, node);
    if (complete.has(back)) complete.add(node);
    const targets = node === 0 ? new Array<number>(256).fill(0) : [...at(table, back)];
    for (const [byte, child] of at(children, node)) {
      fallback[child] = node === 0 ? 0 : at(targets, byte);
      targets[byte] = child;
      order.push(child);
    }
    table[node] = targets;
  }
  return table.map((targets, node) => (complete.has(node) && stops.length > 0 ? null : targets));
}

/** Knuth's generalisation of Dijkstra's algorithm: a call costs what its rule costs at least. */
function shortestEnds({ states, starts, ends }: Pick<Automaton, 'states' | 'starts' | 'ends'>): Int32Array {
  const unknown = 2 ** 30;
  const counts = new Int32Array(states.length).fill(unknown);
  const before: { from: number; cost: number }[][] = states.map(() => []);
  const callsOf: { from: number; back: number }[][] = starts.map(() => []);
  const callsTo = new Map<number, { from: number; rule: number }[]>();
  states.forEach(({ bytes, free, calls, markers }, from) => {
    for (const { target } of [...bytes, ...markers]) at(before, target).push({ from, cost: 1 });
    for (const target of free) at(before, target).push({ from, cost: 0 });
    for (const { rule, back } of calls) {
      at(callsOf, rule).push({ from, back });
      callsTo.set(back, [...(callsTo.get(back) ?? []), { from, rule }]);
    }
  });
  const ruleOfStart = new Map(starts.map((start, rule) => [start, rule]));
  const buckets: number[][] = [[...ends]];
  const isDone = new Uint8Array(states.length);
  const reach = (state: number, count: number) => {
    if (count >= at(counts, state) || count > shortestMax) return;
    counts[state] = count;
    let bucket = buckets[count];
    if (bucket === undefined) {
      bucket = [];
      buckets[count] = bucket;
    }
    bucket.push(state);
  };
  for (const end of ends) counts[end] = 0;
  for (let count = 0; count < buckets.length; count++) {
    for (let i = 0; i < (buckets[count]?.length ?? 0); i++) {
      const state = at(at(buckets, count), i);
      if (isDone[state] === 1 || counts[state] !== count) continue;
      isDone[state] = 1;
      for (const { from, cost } of at(before, state)) reach(from, count + cost);
      for (const { from, rule } of callsTo.get(state) ?? []) {
        const start = at(starts, rule);
        if (isDone[start] === 1) reach(from, count + at(counts, start));
      }
      const rule = ruleOfStart.get(state);
      if (rule === undefined) continue;
      for (const { from, back } of at(callsOf, rule))
        if (isDone[back] === 1) reach(from, count + at(counts, back));
    }
  }
  return counts;
}
