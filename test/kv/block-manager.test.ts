/** Block manager and prefix index against a naive model, under thousands of random operations. */
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../src/base/assert.js';
import { type BlockId, blockId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { BlockManager } from '../../src/kv/block-manager.js';
import { type PrefixHash, PrefixHasher } from '../../src/kv/prefix-index.js';

/** The same rules, written for the eye: lists instead of arrays of links. */
class NaiveManager {
  readonly references = new Map<BlockId, number>();
  readonly names = new Map<BlockId, PrefixHash>();
  /** Oldest first. */
  readonly cached: BlockId[] = [];

  take(block: BlockId): void {
    const index = this.cached.indexOf(block);
    if (index >= 0) this.cached.splice(index, 1);
    this.references.set(block, (this.references.get(block) ?? 0) + 1);
  }

  forget(hash: PrefixHash): void {
    const block = [...this.names].find(([, name]) => name === hash)?.[0];
    if (block === undefined) return;
    this.names.delete(block);
    const index = this.cached.indexOf(block);
    if (index >= 0) this.cached.splice(index, 1);
  }

  give(block: BlockId): void {
    const count = this.references.get(block)! - 1;
    if (count > 0) this.references.set(block, count);
    else {
      this.references.delete(block);
      if (this.names.has(block)) this.cached.push(block);
    }
  }
}

function fuzz(seed: number, blockCount: number, operationCount: number): void {
  const prng = new Prng(seed);
  const manager = new BlockManager(blockCount);
  const naive = new NaiveManager();
  const hasher = new PrefixHasher('test', 8);
  const root = hasher.root('');
  const hashOf = (n: number) => hasher.extend(root, 0, () => n);
  const held: BlockId[] = [];
  const takeOne = (): BlockId => held.splice(prng.integer(0, held.length - 1), 1)[0]!;
  const operations: (() => void)[] = [
    () => {
      if (manager.availableCount === 0) {
        expect(() => manager.allocate()).toThrow(AssertionError);
        return;
      }
      const victim = manager.freeCount === 0 ? naive.cached[0] : undefined;
      const block = manager.allocate();
      if (victim !== undefined) {
        expect(block).toBe(victim); // least recently used first
        naive.names.delete(block);
      }
      expect(naive.references.has(block)).toBe(false);
      naive.take(block);
      held.push(block);
    },
    () => {
      if (held.length === 0) return;
      const block = takeOne();
      manager.release(block);
      naive.give(block);
    },
    () => {
      if (held.length === 0) return;
      const block = prng.pick(held);
      const hash = hashOf(prng.integer(0, 2 * blockCount));
      const isNew = !naive.names.has(block) && ![...naive.names.values()].includes(hash);
      manager.publish(block, hash);
      if (isNew) naive.names.set(block, hash);
      expect(manager.isPublished(block)).toBe(naive.names.has(block));
    },
    () => {
      const hash = hashOf(prng.integer(0, 2 * blockCount));
      manager.forget(hash);
      naive.forget(hash);
      expect(manager.find(hash)).toBeUndefined();
    },
    () => {
      const hash = hashOf(prng.integer(0, 2 * blockCount));
      const block = manager.find(hash);
      expect(block).toBe([...naive.names].find(([, name]) => name === hash)?.[0]);
      if (block === undefined) return;
      manager.retain(block);
      naive.take(block);
      held.push(block);
    },
  ];
  for (let i = 0; i < operationCount; i++) {
    prng.pick(operations)();
    const expected = new Int32Array(blockCount);
    for (const block of held) expected[block] = (expected[block] ?? 0) + 1;
    manager.checkIntegrity(expected);
    expect(manager.ownedCount).toBe(naive.references.size);
    expect(manager.cachedCount).toBe(naive.cached.length);
  }
  for (const block of held) manager.release(block);
  manager.clearCached();
  expect(manager.freeCount).toBe(blockCount);
  manager.checkIntegrity(new Int32Array(blockCount));
}

describe('block manager', () => {
  it.each([1, 2, 3, 4])('agrees with a naive model, seed %i', (seed) =>
    fuzz(seed, [1, 3, 16, 40][seed - 1]!, 3000),
  );

  it('refuses to release or publish what nobody owns', () => {
    const manager = new BlockManager(2);
    const block = manager.allocate();
    manager.release(block);
    expect(() => manager.release(block)).toThrow(AssertionError);
    expect(() => manager.publish(block, new PrefixHasher('m', 8).root(''))).toThrow(AssertionError);
    expect(() => manager.retain(blockId(1))).toThrow(AssertionError); // free, not cached
  });

  it('notices a holder it does not know and one that is missing', () => {
    const manager = new BlockManager(4);
    const block = manager.allocate();
    expect(() => manager.checkIntegrity(new Int32Array(4))).toThrow(AssertionError);
    const twice = new Int32Array(4);
    twice[block] = 2;
    expect(() => manager.checkIntegrity(twice)).toThrow(AssertionError);
  });
});

describe('prefix hasher', () => {
  const hasher = new PrefixHasher('model', 8);
  const tokens = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];
  const tokenAt = (position: number) => tokens[position]!;

  it('depends on tokens, order, parent, salt, model and block size alone', () => {
    const first = hasher.extend(hasher.root(''), 0, tokenAt);
    const names = [
      first,
      hasher.extend(first, 8, tokenAt), // same tokens, other parent
      hasher.extend(hasher.root(''), 0, (p) => tokens[7 - p]!),
      hasher.extend(hasher.root('salt'), 0, tokenAt),
      new PrefixHasher('other', 8).extend(new PrefixHasher('other', 8).root(''), 0, tokenAt),
      new PrefixHasher('model', 16).extend(new PrefixHasher('model', 16).root(''), 0, tokenAt),
    ];
    expect(new Set(names).size).toBe(names.length);
    expect(new PrefixHasher('model', 8).extend(hasher.root(''), 8, tokenAt)).toBe(first);
  });

  it('tells 256 from 1 in every byte of a token', () => {
    const one = (id: number) => hasher.extend(hasher.root(''), 0, () => id);
    expect(new Set([1, 256, 65536, 16777216, 257].map(one)).size).toBe(5);
  });
});
