/** Which block already holds the K and V of which prefix. Used by block-manager alone (engine/ hashes,
 *  block-manager looks up).
 *
 *  A full block is named by a chain of 128-bit hashes: hash(i) = sha256(hash(i - 1), tokens of block i), and
 *  hash(-1) covers the model and the request's salt. Equal names mean equal prefixes (2^-64 at a billion
 *  blocks), so tokens need no second look, and a block whose parent was evicted can be found again as soon as
 *  the parent is back.
 *
 *  Invariant: hash → block and block → hash are inverse to each other. */
import { hash as digest } from 'node:crypto';
import { assert } from '../base/assert.js';
import type { BlockId, TokenId } from '../base/ids.js';

declare const prefixHashBrand: unique symbol;
/** 16 bytes as a latin-1 string: cheap to compare and to key a map with. */
export type PrefixHash = string & { readonly [prefixHashBrand]: true };

const hashByteCount = 16;

/** Names blocks. One per engine: the buffer is reused by every call. */
export class PrefixHasher {
  readonly #namespace: string;
  readonly #blockTokenCount: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(namespace: string, blockTokenCount: number) {
    this.#namespace = namespace;
    this.#blockTokenCount = blockTokenCount;
    this.#bytes = new Uint8Array(hashByteCount + 4 * blockTokenCount);
    this.#view = new DataView(this.#bytes.buffer);
  }

  /** The name of the empty prefix. Requests with different salts never share blocks. */
  root(salt: string): PrefixHash {
    return short(digest('sha256', JSON.stringify([this.#namespace, this.#blockTokenCount, salt]), 'binary'));
  }

  /** The name of the prefix `parent` + `tokens[firstToken .. firstToken + blockTokenCount)`. `tokenAt` reads
   *  by position. */
  extend(parent: PrefixHash, firstToken: number, tokenAt: (position: number) => TokenId): PrefixHash {
    for (let i = 0; i < hashByteCount; i++) this.#bytes[i] = parent.charCodeAt(i);
    for (let i = 0; i < this.#blockTokenCount; i++)
      this.#view.setInt32(hashByteCount + 4 * i, tokenAt(firstToken + i), true);
    return short(digest('sha256', this.#bytes, 'binary'));
  }
}

function short(text: string): PrefixHash {
  return text.slice(0, hashByteCount) as PrefixHash;
}

export class PrefixIndex {
  readonly #blockOf = new Map<PrefixHash, BlockId>();
  readonly #hashOf: (PrefixHash | undefined)[];

  constructor(blockCount: number) {
    this.#hashOf = new Array<PrefixHash | undefined>(blockCount).fill(undefined);
  }

  get count(): number {
    return this.#blockOf.size;
  }

  find(hash: PrefixHash): BlockId | undefined {
    return this.#blockOf.get(hash);
  }

  holds(block: BlockId): boolean {
    return this.#hashOf[block] !== undefined;
  }

  /** Returns false when that prefix already has a block, or the block a name: the first one stays. */
  insert(hash: PrefixHash, block: BlockId): boolean {
    if (this.#blockOf.has(hash) || this.holds(block)) return false;
    this.#blockOf.set(hash, block);
    this.#hashOf[block] = hash;
    return true;
  }

  remove(block: BlockId): void {
    const hash = this.#hashOf[block];
    assert(hash !== undefined, `block ${block} is not in the prefix index`);
    this.#blockOf.delete(hash);
    this.#hashOf[block] = undefined;
  }

  checkIntegrity(): void {
    let namedCount = 0;
    this.#hashOf.forEach((hash, block) => {
      if (hash === undefined) return;
      namedCount++;
      assert(this.#blockOf.get(hash) === block, `prefix index: block ${block} and its hash disagree`);
    });
    assert(
      namedCount === this.#blockOf.size,
      `prefix index: ${namedCount} named blocks, ${this.#blockOf.size} hashes`,
    );
  }
}
