/** A tokenizer's tokens laid out for masks: a trie of their bytes to be walked from left to right, and
 *  apart from it those that are whole characters of a JSON string, which most places in a JSON text allow
 *  or forbid all at once. Used by grammar-masks.ts; made once. */
import { at } from '../base/assert.js';

/** What a vocabulary is made of. */
interface TokenSource {
  /** Of the model, which may be more than the tokenizer has. */
  readonly vocabCount: number;
  /** Empty: no token. */
  bytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
}

/** Tokens by their bytes, each node before its children. */
export interface Trie {
  readonly nodeCount: number;
  readonly bytes: Uint8Array;
  readonly depths: Uint16Array;
  /** The first node that is not below this one. */
  readonly skips: Int32Array;
  /** Where in `tokens` those that end here begin; up to where the next node's begin. */
  readonly starts: Int32Array;
  readonly tokens: Int32Array;
  readonly depthMax: number;
}

/** Characters up to which plain tokens are kept by length. */
export const plainLengthMax = 32;

export class Vocabulary {
  readonly count: number;
  readonly wordCount: number;
  /** Whole characters of a JSON string's inside: no quote, backslash or control character. */
  readonly plain: Trie;
  readonly other: Trie;
  /** Item n: a mask of the plain tokens of at most n characters. */
  readonly plainMasks: readonly Uint32Array[];
  readonly #source: TokenSource;
  readonly #specials = new Map<string, number>();

  constructor(source: TokenSource) {
    this.#source = source;
    this.count = source.vocabCount;
    this.wordCount = Math.ceil(source.vocabCount / 32);
    const plain: number[] = [];
    const other: number[] = [];
    const byLength: number[][] = [];
    for (let id = 0; id < source.vocabCount; id++) {
      const bytes = source.bytes(id);
      if (bytes.length === 0) continue;
      if (source.isSpecial(id)) {
        this.#specials.set(Buffer.from(bytes).toString('utf8'), id);
        continue;
      }
      const length = plainLength(bytes);
      if (length === null || length > plainLengthMax) {
        other.push(id);
        continue;
      }
      plain.push(id);
      const ofLength = byLength[length];
      if (ofLength === undefined) byLength[length] = [id];
      else ofLength.push(id);
    }
    this.plain = trieOf(plain, source);
    this.other = trieOf(other, source);
    this.plainMasks = cumulativeMasks(byLength, this.wordCount);
  }

  /** A special token's symbol in automata is its id. */
  symbolOf(text: string): number | undefined {
    return this.#specials.get(text);
  }

  bytes(id: number): Uint8Array {
    return id < this.count ? this.#source.bytes(id) : empty;
  }

  isSpecial(id: number): boolean {
    return this.#source.isSpecial(id);
  }
}

const empty = new Uint8Array();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** In characters; null: not made of whole plain ones. */
function plainLength(bytes: Uint8Array): number | null {
  if (bytes.length > 4 * plainLengthMax) return null;
  for (const byte of bytes) if (byte < 0x20 || byte === 0x22 || byte === 0x5c) return null;
  try {
    return [...decoder.decode(bytes)].length;
  } catch {
    return null;
  }
}

function cumulativeMasks(
  byLength: readonly (readonly number[] | undefined)[],
  wordCount: number,
): Uint32Array[] {
  const masks = [new Uint32Array(wordCount)];
  for (let length = 1; length <= plainLengthMax; length++) {
    const mask = at(masks, length - 1).slice();
    for (const id of byLength[length] ?? []) mask[id >>> 5] = at(mask, id >>> 5) | (1 << (id & 31));
    masks.push(mask);
  }
  return masks;
}

function trieOf(ids: number[], source: TokenSource): Trie {
  const sorted = ids
    .map((id) => ({ id, bytes: source.bytes(id) }))
    .sort((a, b) => Buffer.compare(a.bytes, b.bytes) || a.id - b.id);
  const bytes: number[] = [];
  const depths: number[] = [];
  const skips: number[] = [];
  const starts: number[] = [];
  const tokens: number[] = [];
  const open: number[] = []; // nodes on the way to the last token
  let depthMax = 0;
  let last: Uint8Array = empty;
  const closeTo = (depth: number) => {
    while (open.length > depth) skips[open.pop() ?? 0] = bytes.length;
  };
  for (const { id, bytes: current } of sorted) {
    let shared = 0;
    while (shared < last.length && shared < current.length && last[shared] === current[shared]) shared++;
    closeTo(shared);
    for (let depth = shared; depth < current.length; depth++) {
      open.push(bytes.length);
      bytes.push(at(current, depth));
      depths.push(depth);
      skips.push(0);
      starts.push(tokens.length);
    }
    tokens.push(id);
    depthMax = Math.max(depthMax, current.length);
    last = current;
  }
  closeTo(0);
  starts.push(tokens.length);
  return {
    nodeCount: bytes.length,
    bytes: Uint8Array.from(bytes),
    depths: Uint16Array.from(depths),
    skips: Int32Array.from(skips),
    starts: Int32Array.from(starts),
    tokens: Int32Array.from(tokens),
    depthMax,
  };
}
