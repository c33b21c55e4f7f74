/** Gives sequences their KV blocks and takes them back: prefix hits, growth, copy-on-write, forks. Used by
 *  the scheduler and commit; which sequence deserves memory is their matter.
 *
 *  A block may be found by others (is published) once every position in it is computed or enqueued AND its
 *  tokens are known on the host. All local readers use the engine's one stream, so "enqueued before" is
 *  enough; a block leaves a sequence only when no step in flight touches it, so a writer outside that stream
 *  (a hand-over into reserved blocks) never meets an old reader. */
import { assert, at } from '../base/assert.js';
import type { BlockId } from '../base/ids.js';
import type { BlockManager } from '../kv/block-manager.js';
import type { PrefixHash, PrefixHasher } from '../kv/prefix-index.js';
import type { RequestState, Sequence } from './sequence.js';
import type { StepPlan } from './step-plan.js';

interface AdmitRequest {
  /** Positions that must have blocks. */
  readonly tokenCount: number;
  /** Positions that may come from the prefix cache. */
  readonly reusableTokenCount: number;
  /** Blocks that must stay available afterwards. */
  readonly spareBlockCount: number;
}

export class SequenceMemory {
  readonly blocks: BlockManager;
  readonly blockTokenCount: number;
  readonly #hasher: PrefixHasher | undefined;

  /** Without a hasher nothing is published and nothing found. */
  constructor(blocks: BlockManager, blockTokenCount: number, hasher: PrefixHasher | undefined) {
    this.blocks = blocks;
    this.blockTokenCount = blockTokenCount;
    this.#hasher = hasher;
  }

  blockCountFor(tokenCount: number): number {
    return Math.ceil(tokenCount / this.blockTokenCount);
  }

  /** Gives a sequence without blocks all it needs for `tokenCount` positions, or nothing. */
  admit(sequence: Sequence, { tokenCount, reusableTokenCount, spareBlockCount }: AdmitRequest): boolean {
    assert(sequence.blockIds.length === 0, 'admitted twice');
    const found = this.#find(sequence, Math.floor(reusableTokenCount / this.blockTokenCount));
    const revivedCount = found.reduce(
      (count, block) => count + (this.blocks.referenceCount(block) === 0 ? 1 : 0),
      0,
    );
    const newCount = this.blockCountFor(tokenCount) - found.length;
    if (newCount + spareBlockCount > this.blocks.availableCount - revivedCount) return false;
    for (const block of found) this.blocks.retain(block);
    sequence.blockIds = found;
    for (let i = 0; i < newCount; i++) found.push(this.blocks.allocate());
    sequence.publishedCount = found.length - newCount;
    sequence.startCached(sequence.publishedCount * this.blockTokenCount);
    return true;
  }

  /** Blocks still missing before positions up to `endToken` may be written. */
  missingCount(sequence: Sequence, endToken: number): number {
    const missing = this.blockCountFor(endToken) - sequence.blockIds.length;
    return Math.max(0, missing) + (this.#sharedWriteIndex(sequence) === undefined ? 0 : 1);
  }

  /** Makes positions computedCount .. endToken - 1 writable; `missingCount` blocks are available. */
  grow(sequence: Sequence, endToken: number, plan: StepPlan): void {
    const sharedIndex = this.#sharedWriteIndex(sequence);
    if (sharedIndex !== undefined) {
      const source = at(sequence.blockIds, sharedIndex);
      const target = this.blocks.allocate();
      sequence.blockIds[sharedIndex] = target;
      plan.copies.push({ target, source });
      plan.pinnedBlockIds.push(source); // the sequence's reference; given back once the copy has run
    }
    while (sequence.blockIds.length < this.blockCountFor(endToken))
      sequence.blockIds.push(this.blocks.allocate());
  }

  /** `choice` continues behind the first `tokenCount` positions of `leader`, sharing their blocks. */
  fork(leader: Sequence, choice: Sequence, tokenCount: number): void {
    assert(choice.blockIds.length === 0 && leader.computedCount >= tokenCount, 'fork from a computed prompt');
    choice.blockIds = leader.blockIds.slice(0, this.blockCountFor(tokenCount));
    for (const block of choice.blockIds) this.blocks.retain(block);
    const fullCount = Math.floor(tokenCount / this.blockTokenCount);
    choice.hashes = leader.hashes.slice(0, fullCount);
    choice.publishedCount = Math.min(leader.publishedCount, fullCount);
    choice.startCached(Math.min(leader.cachedCount, tokenCount));
    choice.advance(tokenCount);
  }

  /** Gives everything back; full blocks stay findable. Tail first, so that the tail of a prefix is evicted
   *  before its head. */
  free(sequence: Sequence): void {
    assert(sequence.inFlightCount === 0, 'a step in flight still touches these blocks');
    this.publish(sequence);
    for (let i = sequence.blockIds.length - 1; i >= 0; i--) this.blocks.release(at(sequence.blockIds, i));
    sequence.blockIds = [];
    sequence.forgetCache();
  }

  unpin(plan: StepPlan): void {
    for (const block of plan.pinnedBlockIds) this.blocks.release(block);
    plan.pinnedBlockIds.length = 0;
  }

  /** What the request has computed may be NaN, and what it found may have been: nobody finds its prefixes,
   *  nor will any it computes. Who reads the same blocks already gets the same NaN and spoils its own. */
  spoil(request: RequestState): void {
    request.isSpoiled = true;
    for (const { hashes } of request.choices) for (const hash of hashes) this.blocks.forget(hash);
  }

  /** Makes newly full blocks findable. */
  publish(sequence: Sequence): void {
    if (this.#hasher === undefined || sequence.request.isSpoiled) return;
    const fullCount = Math.floor(
      Math.min(sequence.computedCount, sequence.knownCount) / this.blockTokenCount,
    );
    while (sequence.publishedCount < fullCount) {
      const index = sequence.publishedCount++;
      this.blocks.publish(at(sequence.blockIds, index), this.#hashAt(this.#hasher, sequence, index));
    }
  }

  /** The block that the next position falls into, when others read it too. */
  #sharedWriteIndex(sequence: Sequence): number | undefined {
    const index = Math.floor(sequence.computedCount / this.blockTokenCount);
    const block = sequence.blockIds[index];
    return block !== undefined && this.blocks.referenceCount(block) > 1 ? index : undefined;
  }

  #find(sequence: Sequence, countMax: number): BlockId[] {
    const found: BlockId[] = [];
    if (this.#hasher === undefined) return found;
    while (found.length < countMax) {
      const block = this.blocks.find(this.#hashAt(this.#hasher, sequence, found.length));
      if (block === undefined) break;
      found.push(block);
    }
    return found;
  }

  #hashAt(hasher: PrefixHasher, sequence: Sequence, index: number): PrefixHash {
    const { hashes } = sequence;
    const tokenAt = (position: number) => sequence.tokenAt(position);
    while (hashes.length <= index) {
      const parent = hashes.at(-1) ?? hasher.root(sequence.request.cacheSalt);
      hashes.push(hasher.extend(parent, hashes.length * this.blockTokenCount, tokenAt));
    }
    return at(hashes, index);
  }
}
