/** Which tokens may come next: one grammar over one vocabulary. Used by worker/ on a thread of its own; pure.
 *
 *  A mask belongs to a configuration and is kept, so that a place in a grammar is walked to once. Within a
 *  JSON string nearly every token is allowed: tokens of plain characters alone are then taken from masks made
 *  beforehand, and only the others are walked.
 *
 *  Invariants: every token that a mask allows comes to a place from which the text can still be ended;
 *  and, when the number of tokens left is enough for the shortest text, with the tokens that are left
 *  then. Tokens of one byte are what that counts on. */
import { at } from '../base/assert.js';
import { InvalidRequestError } from '../base/errors.js';
import { type Automaton, buildAutomaton } from './automaton.js';
import { Configurations, dead } from './configurations.js';
import type { Grammar } from './grammar.js';
import { plainLengthMax, type Trie, type Vocabulary } from './vocabulary.js';

interface KeptMask {
  readonly words: Uint32Array;
  /** Of all places that its tokens come to, the most bytes to an end. */
  readonly byteCountMax: number;
}

interface MaskLimits {
  /** Tokens that may still be drawn, the next one included. */
  readonly leftCount: number;
  /** Allowed where the text may end. */
  readonly endTokenIds: readonly number[];
}

const keptBytesMax = 2 ** 23;
/** About 20 MB. Beyond it everything is forgotten, and texts are read again. */
const configurationCountMax = 2 ** 14;

export class GrammarMasks {
  readonly #automaton: Automaton;
  readonly #vocabulary: Vocabulary;
  readonly #keptCountMax: number;
  #configurations: Configurations;
  /** By configuration, least recently used first. */
  #masks = new Map<number, KeptMask>();
  #plainSteps = new Map<number, number>();
  /** Changes when configurations are forgotten. */
  #generation = 0;

  /** `packed`: from packGrammar. @throws InvalidRequestError for one that is too large. */
  constructor(packed: string, vocabulary: Vocabulary) {
    this.#vocabulary = vocabulary;
    this.#automaton = buildAutomaton(JSON.parse(packed) as Grammar, (text) => vocabulary.symbolOf(text));
    this.#configurations = new Configurations(this.#automaton);
    this.#keptCountMax = Math.max(16, Math.floor(keptBytesMax / (4 * vocabulary.wordCount)));
  }

  /** A text of this grammar that has these tokens. @throws InvalidRequestError when they are no text of
   *  it. */
  open(tokenIds: readonly number[]): GrammarText {
    return new GrammarText(this, tokenIds);
  }

  get generation(): number {
    return this.#generation;
  }

  get start(): number {
    return this.#configurations.start;
  }

  after(place: number, tokenId: number): number {
    if (this.#vocabulary.isSpecial(tokenId)) return this.#configurations.nextMarker(place, tokenId);
    const bytes = this.#vocabulary.bytes(tokenId);
    if (bytes.length === 0) return dead;
    let now = place;
    for (let i = 0; i < bytes.length && now !== dead; i++) now = this.#configurations.next(now, at(bytes, i));
    return now;
  }

  /** May forget all places: see `generation`. */
  forgetIfFull(): void {
    if (this.#configurations.count <= configurationCountMax) return;
    this.#configurations = new Configurations(this.#automaton);
    this.#masks = new Map();
    this.#plainSteps = new Map();
    this.#generation++;
  }

  /** Into `words`: bit set, token allowed. */
  fill(place: number, { leftCount, endTokenIds }: MaskLimits, words: Uint32Array): void {
    const kept = this.#maskAt(place);
    words.set(kept.words);
    const isTight = endTokenIds.length > 0 && this.#configurations.byteCount(place) + 1 <= leftCount;
    if (isTight && kept.byteCountMax + 2 > leftCount)
      this.#fillClosing(place, leftCount - 2, endTokenIds, words);
    if (this.#configurations.isAccepting(place)) for (const id of endTokenIds) allow(words, id);
  }

  /** Only what can still be ended with `byteCountMax` bytes after it. Where no token fits, `words` stays
   *  as it is. */
  #fillClosing(
    place: number,
    byteCountMax: number,
    endTokenIds: readonly number[],
    words: Uint32Array,
  ): void {
    const closing = new Uint32Array(words.length);
    const fits = (next: number) => this.#configurations.byteCount(next) <= byteCountMax;
    for (const trie of [this.#vocabulary.plain, this.#vocabulary.other])
      this.#walk(trie, place, closing, fits);
    this.#allowMarkers(place, closing, fits);
    const canEnd = this.#configurations.isAccepting(place) && endTokenIds.length > 0;
    if (canEnd || closing.some((word) => word !== 0)) words.set(closing);
  }

  #maskAt(place: number): KeptMask {
    const known = this.#masks.get(place);
    if (known !== undefined) {
      this.#masks.delete(place);
      this.#masks.set(place, known);
      return known;
    }
    const made = this.#makeMask(place);
    this.#masks.set(place, made);
    for (const oldest of this.#masks.keys()) {
      if (this.#masks.size <= this.#keptCountMax) break;
      this.#masks.delete(oldest);
    }
    return made;
  }

  #makeMask(place: number): KeptMask {
    const words = new Uint32Array(this.#vocabulary.wordCount);
    let byteCountMax = 0;
    const note = (next: number) => {
      byteCountMax = Math.max(byteCountMax, this.#configurations.byteCount(next));
      return true;
    };
    const plainCount = this.#plainCount(place, note);
    if (plainCount > 0) words.set(at(this.#vocabulary.plainMasks, plainCount));
    else this.#walk(this.#vocabulary.plain, place, words, note);
    this.#walk(this.#vocabulary.other, place, words, note);
    this.#allowMarkers(place, words, note);
    return { words, byteCountMax };
  }

  #allowMarkers(place: number, words: Uint32Array, fits: (next: number) => boolean): void {
    for (const symbol of this.#configurations.markers(place)) {
      const next = this.#configurations.nextMarker(place, symbol);
      if (next !== dead && fits(next)) allow(words, symbol);
    }
  }

  #walk(trie: Trie, place: number, words: Uint32Array, fits: (next: number) => boolean): void {
    const { nodeCount, bytes, depths, skips, starts, tokens, depthMax } = trie;
    const configurations = this.#configurations;
    const path = new Int32Array(depthMax + 1);
    path[0] = place;
    for (let node = 0; node < nodeCount; ) {
      const depth = at(depths, node);
      const next = configurations.next(at(path, depth), at(bytes, node));
      if (next === dead) {
        node = at(skips, node);
        continue;
      }
      path[depth + 1] = next;
      const end = at(starts, node + 1);
      const start = at(starts, node);
      if (start < end && fits(next)) for (let i = start; i < end; i++) allow(words, at(tokens, i));
      node++;
    }
  }

  /** How many plain characters may come next, whichever they are; at most as many as plain tokens have. */
  #plainCount(place: number, note: (next: number) => boolean): number {
    let now = place;
    for (let count = 0; count < plainLengthMax; count++) {
      const next = this.#plainStep(now);
      if (next === dead) return count;
      note(next);
      if (next === now) return plainLengthMax;
      now = next;
    }
    return plainLengthMax;
  }

  /** Where every plain character comes to from here; `dead`: they differ, or one is not allowed. */
  #plainStep(place: number): number {
    const known = this.#plainSteps.get(place);
    if (known !== undefined) return known;
    const target = this.#configurations.next(place, 0x20);
    const isOne = target !== dead && this.#comesTo(place, target);
    const step = isOne ? target : dead;
    this.#plainSteps.set(place, step);
    return step;
  }

  #comesTo(place: number, target: number): boolean {
    const configurations = this.#configurations;
    for (let byte = 0x20; byte < 0x80; byte++) {
      if (byte !== 0x22 && byte !== 0x5c && configurations.next(place, byte) !== target) return false;
    }
    // configurations whose continuation bytes have all been looked at, by how many follow
    const checked = new Map<number, number>();
    const continues = (from: number, first: number, last: number, more: number): boolean => {
      if (from === dead) return false;
      const isAll = first === 0x80 && last === 0xbf;
      if (isAll && checked.get(from) === more) return true;
      for (let byte = first; byte <= last; byte++) {
        const next = configurations.next(from, byte);
        if (more === 0 ? next !== target : !continues(next, 0x80, 0xbf, more - 1)) return false;
      }
      if (isAll) checked.set(from, more);
      return true;
    };
    return longCharacters.every(([from, to, first, last, more]) => {
      for (let byte = from; byte <= to; byte++) {
        if (!continues(configurations.next(place, byte), first, last, more)) return false;
      }
      return true;
    });
  }
}

/** UTF-8 beyond ASCII: first bytes, what may follow each of them, and how many continuation bytes come
 *  after that. */
const longCharacters: readonly (readonly [number, number, number, number, number])[] = [
  [0xc2, 0xdf, 0x80, 0xbf, 0],
  [0xe0, 0xe0, 0xa0, 0xbf, 1],
  [0xe1, 0xec, 0x80, 0xbf, 1],
  [0xed, 0xed, 0x80, 0x9f, 1],
  [0xee, 0xef, 0x80, 0xbf, 1],
  [0xf0, 0xf0, 0x90, 0xbf, 2],
  [0xf1, 0xf3, 0x80, 0xbf, 2],
  [0xf4, 0xf4, 0x80, 0x8f, 2],
];

function allow(words: Uint32Array, id: number): void {
  words[id >>> 5] = (words[id >>> 5] ?? 0) | (1 << (id & 31));
}

/** One text as it grows. */
export class GrammarText {
  readonly #masks: GrammarMasks;
  readonly #tokenIds: number[] = [];
  #generation: number;
  #place: number;

  constructor(masks: GrammarMasks, tokenIds: readonly number[]) {
    this.#masks = masks;
    this.#generation = masks.generation;
    this.#place = masks.start;
    for (const tokenId of tokenIds) this.accept(tokenId);
  }

  /** @throws InvalidRequestError when no text of the grammar goes on like this. */
  accept(tokenId: number): void {
    this.#catchUp();
    this.#tokenIds.push(tokenId);
    this.#place = this.#masks.after(this.#place, tokenId);
    if (this.#place === dead) {
      throw new InvalidRequestError(
        `token ${tokenId} at place ${this.#tokenIds.length - 1} is not what the grammar allows there`,
      );
    }
  }

  fill(limits: MaskLimits, words: Uint32Array): void {
    this.#masks.forgetIfFull();
    this.#catchUp();
    this.#masks.fill(this.#place, limits, words);
  }

  #catchUp(): void {
    if (this.#generation === this.#masks.generation) return;
    this.#generation = this.#masks.generation;
    this.#place = this.#masks.start;
    for (const tokenId of this.#tokenIds) this.#place = this.#masks.after(this.#place, tokenId);
  }
}
