/** Who owns which KV block. Used by engine/scheduler; knows nothing of bytes (kv-cache) or requests.
 *
 *  Every block is in exactly one state:
 *
 *      free ──allocate──► owned (references ≥ 1) ──last release──► free      not in the prefix index
 *                           ▲                          └─────────► cached    in the prefix index, least recently used first out
 *      cached ──retain──────┘
 *      cached ──allocate──► owned   evicted: its name leaves the index
 *      cached ──forget────► free    its name leaves the index: what it holds is not to be read
 *
 *  All operations are O(1): a stack of free blocks, and the cached ones in a doubly linked list inside two
 *  arrays. */
import { assert } from '../base/assert.js';
import { type BlockId, blockId } from '../base/ids.js';
import { type PrefixHash, PrefixIndex } from './prefix-index.js';

/** Ends of the linked list; never leaves this file. */
const none = -1;

export class BlockManager {
  readonly blockCount: number;
  readonly #referenceCounts: Int32Array;
  readonly #index: PrefixIndex;
  /** The first `#freeCount` entries are the free blocks. */
  readonly #freeStack: Int32Array;
  #freeCount: number;
  readonly #older: Int32Array;
  readonly #newer: Int32Array;
  #oldest = none;
  #newest = none;
  #cachedCount = 0;

  constructor(blockCount: number) {
    assert(Number.isInteger(blockCount) && blockCount > 0, `block count ${blockCount}`);
    this.blockCount = blockCount;
    this.#referenceCounts = new Int32Array(blockCount);
    this.#index = new PrefixIndex(blockCount);
    this.#freeStack = Int32Array.from({ length: blockCount }, (_, i) => blockCount - 1 - i);
    this.#freeCount = blockCount;
    this.#older = new Int32Array(blockCount).fill(none);
    this.#newer = new Int32Array(blockCount).fill(none);
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  /** Kept for their prefix, owned by nobody; given up when someone needs room. */
  get cachedCount(): number {
    return this.#cachedCount;
  }

  get ownedCount(): number {
    return this.blockCount - this.#freeCount - this.#cachedCount;
  }

  /** Blocks that `allocate` can still hand out. */
  get availableCount(): number {
    return this.#freeCount + this.#cachedCount;
  }

  referenceCount(block: BlockId): number {
    return this.#referenceCounts[block] ?? 0;
  }

  /** A block with one reference, its content undefined. Evicts the least recently used cached block when none
   *  is free. */
  allocate(): BlockId {
    const block = this.#freeCount > 0 ? this.#popFree() : this.#evictOldest();
    this.#referenceCounts[block] = 1;
    return block;
  }

  /** One more reference to an owned or cached block. */
  retain(block: BlockId): void {
    const count = this.referenceCount(block);
    if (count === 0) this.#unlink(block);
    this.#referenceCounts[block] = count + 1;
  }

  /** One reference less; the last one makes the block cached (when it has a name) or free. */
  release(block: BlockId): void {
    const count = this.referenceCount(block);
    assert(count > 0, `block ${block} released once too often`);
    this.#referenceCounts[block] = count - 1;
    if (count > 1) return;
    if (this.#index.holds(block)) this.#append(block);
    else this.#freeStack[this.#freeCount++] = block;
  }

  /** Makes a full block findable. Its K and V must be computed, or enqueued on the stream every reader
   *  uses. */
  publish(block: BlockId, hash: PrefixHash): void {
    assert(this.referenceCount(block) > 0, `block ${block} published without an owner`);
    this.#index.insert(hash, block);
  }

  isPublished(block: BlockId): boolean {
    return this.#index.holds(block);
  }

  /** The block holding the prefix named `hash`; call `retain` before anything else may allocate. */
  find(hash: PrefixHash): BlockId | undefined {
    return this.#index.find(hash);
  }

  /** Nobody finds this prefix any more; its block is free once its owners, if there are any, have given it
   *  back. */
  forget(hash: PrefixHash): void {
    const block = this.#index.find(hash);
    if (block === undefined) return;
    this.#index.remove(block);
    if (this.referenceCount(block) > 0) return;
    this.#unlink(block);
    this.#freeStack[this.#freeCount++] = block;
  }

  /** Forgets every prefix; cached blocks become free. */
  clearCached(): void {
    while (this.#oldest !== none) {
      const block = this.#evictOldest();
      this.#freeStack[this.#freeCount++] = block;
    }
  }

  /** `expected[block]`, when given: how many references the caller knows of. */
  checkIntegrity(expected?: Int32Array): void {
    const seen = new Uint8Array(this.blockCount);
    const count = (block: number, state: string) => {
      assert(seen[block] === 0, `block ${block} is ${state} and something else`);
      assert(this.#referenceCounts[block] === 0, `block ${block} is ${state} but has references`);
      seen[block] = 1;
    };
    for (let i = 0; i < this.#freeCount; i++) {
      const block = this.#freeStack[i] ?? none;
      count(block, 'free');
      assert(!this.#index.holds(blockId(block)), `block ${block} is free but named`);
    }
    let listedCount = 0;
    for (let block = this.#oldest; block !== none; block = this.#newer[block] ?? none) {
      count(block, 'cached');
      assert(this.#index.holds(blockId(block)), `block ${block} is cached without a name`);
      const after = this.#newer[block] ?? none;
      assert(
        after === none ? this.#newest === block : this.#older[after] === block,
        `cached list broken at ${block}`,
      );
      listedCount++;
    }
    assert(
      listedCount === this.#cachedCount,
      `cached list has ${listedCount} blocks, counted ${this.#cachedCount}`,
    );
    for (let block = 0; block < this.blockCount; block++) {
      const count = this.#referenceCounts[block] ?? 0;
      assert(seen[block] === 1 || count > 0, `block ${block} is lost`);
      if (expected !== undefined)
        assert(expected[block] === count, `block ${block}: ${count} references, ${expected[block]} holders`);
    }
    this.#index.checkIntegrity();
  }

  #popFree(): BlockId {
    this.#freeCount--;
    return blockId(this.#freeStack[this.#freeCount] ?? none);
  }

  #evictOldest(): BlockId {
    assert(this.#oldest !== none, 'no block is available');
    const block = blockId(this.#oldest);
    this.#unlink(block);
    this.#index.remove(block);
    return block;
  }

  #append(block: BlockId): void {
    this.#older[block] = this.#newest;
    this.#newer[block] = none;
    if (this.#newest === none) this.#oldest = block;
    else this.#newer[this.#newest] = block;
    this.#newest = block;
    this.#cachedCount++;
  }

  #unlink(block: BlockId): void {
    const older = this.#older[block] ?? none;
    const newer = this.#newer[block] ?? none;
    assert(older !== none || this.#oldest === block, `block ${block} is not cached`);
    if (older === none) this.#oldest = newer;
    else this.#newer[older] = newer;
    if (newer === none) this.#newest = older;
    else this.#older[newer] = older;
    this.#older[block] = none;
    this.#newer[block] = none;
    this.#cachedCount--;
  }
}
