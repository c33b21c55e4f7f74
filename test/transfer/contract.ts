/** What every KvConnector must show. Called with each member of the family; runs on the real CPU device, caches full of random bytes. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type BlockId, blockId, requestId, workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { Device, EventHandle, Stream } from '../../src/device/device.js';
import { openDevice } from '../../src/device/native.js';
import { KvCache } from '../../src/kv/kv-cache.js';
import type { KvHandle } from '../../src/kv/kv-handle.js';
import { KvLayout, type KvShape } from '../../src/kv/kv-layout.js';
import type { KvConnector, KvIdentity, KvPiece, KvTarget } from '../../src/transfer/connector.js';

const shape: KvShape = { modelName: 'contract', layerCount: 3, kvHeadCount: 2, headDim: 32, blockTokenCount: 16, dtype: 'bf16' };
const blockCount = 24;
const ids = (...indices: number[]): BlockId[] => indices.map(blockId);

export type MakeConnector = (device: Device, cache: KvCache, identity: KvIdentity) => KvConnector;

const identityOf = (layout: KvLayout): KvIdentity => ({
  protocolVersion: 1,
  modelName: layout.shape.modelName,
  dtype: layout.shape.dtype,
  layoutHash: layout.hash,
});

/** Two workers in one process: each with a device, a stream and a cache. */
class Side {
  readonly device = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
  readonly stream: Stream = this.device.createStream();
  readonly cache: KvCache;

  constructor(layout: KvLayout, count = blockCount) {
    this.cache = new KvCache(this.device, layout, count);
  }

  async fill(seed: number): Promise<void> {
    const count = (this.cache.blockCount * this.cache.layout.blockBytes) / 4;
    this.stream.random({ pointer: this.cache.pointer, shape: [count], dtype: 'f32' }, seed, 1, 0);
    await this.stream.wait();
  }

  /** All bytes of the cache, block after block. */
  async bytes(): Promise<Buffer> {
    const byteCount = this.cache.blockCount * this.cache.layout.blockBytes;
    const host = this.device.allocateHost(byteCount);
    this.stream.copy(host.pointer, this.cache.pointer, byteCount);
    await this.stream.wait();
    const copy = Buffer.from(host.bytes);
    this.device.releaseHost(host);
    return copy;
  }

  recorded(): EventHandle {
    const event = this.device.createEvent();
    this.stream.record(event);
    return event;
  }

  target(name = 'w1'): KvTarget {
    const { cache } = this;
    return {
      workerId: workerId(name),
      incarnation: 1,
      cache: cache.export(),
      blockCount: cache.blockCount,
      kv: identityOf(cache.layout),
    };
  }

  close(): void {
    this.cache.close();
    this.stream.close();
    this.device.close();
  }
}

export function connectorContract(name: string, make: MakeConnector): void {
  describe(`connector ${name}`, () => {
    const layout = new KvLayout(shape);
    let source: Side;
    let target: Side;
    let connector: KvConnector;
    const handle = (id: string, more: Partial<KvHandle> = {}): KvHandle => ({
      requestId: requestId(id),
      epoch: 1,
      layoutHash: layout.hash,
      tokenCount: 16,
      firstTokens: [1],
      ...more,
    });
    const whole = (sourceBlocks: BlockId[], targetBlocks: BlockId[]): KvPiece => ({
      sourceBlocks,
      targetBlocks,
      firstLayer: 0,
      layerEnd: shape.layerCount,
    });

    beforeEach(async () => {
      source = new Side(layout);
      target = new Side(layout);
      connector = make(source.device, source.cache, identityOf(layout));
      await source.fill(11);
      await target.fill(22);
    });
    afterEach(async () => {
      await connector.close();
      source.close();
      target.close();
    });

    /** The target as it was, with these blocks (and layers) of the source in it. */
    function expected(before: Buffer, from: Buffer, pieces: readonly KvPiece[]): Buffer {
      const result = Buffer.from(before);
      for (const { sourceBlocks, targetBlocks, firstLayer, layerEnd } of pieces) {
        sourceBlocks.forEach((block, i) => {
          const offset = firstLayer * layout.layerBytes;
          const start = block * layout.blockBytes + offset;
          from.copy(
            result,
            targetBlocks[i]! * layout.blockBytes + offset,
            start,
            start + (layerEnd - firstLayer) * layout.layerBytes,
          );
        });
      }
      return result;
    }

    it('delivers every byte of every block in token order and leaves the others untouched', async () => {
      for (let seed = 1; seed <= 10; seed++) {
        const prng = new Prng(seed);
        const [before, from] = [await target.bytes(), await source.bytes()];
        const count = prng.integer(1, blockCount);
        const shuffled = () =>
          Array.from({ length: blockCount }, (_, i) => ({ i, key: prng.uniform() }))
            .sort((a, b) => a.key - b.key)
            .map(({ i }) => blockId(i))
            .slice(0, count);
        const [sourceBlocks, targetBlocks] = [shuffled(), shuffled()];
        const pieces = Array.from({ length: shape.layerCount }, (_, layer) => ({
          sourceBlocks,
          targetBlocks,
          firstLayer: layer,
          layerEnd: layer + 1,
        }));
        const transfer = (await connector.open(target.target())).begin(requestId(`r${seed}`));
        for (const piece of pieces) transfer.push([piece], source.recorded());
        await transfer.finish(handle(`r${seed}`));
        expect((await target.bytes()).equals(expected(before, from, pieces))).toBe(true);
        expect(transfer.pushedBytes).toBe(count * layout.blockBytes);
      }
    });

    it('moves only the layers that are asked for', async () => {
      const [before, from] = [await target.bytes(), await source.bytes()];
      const piece = { sourceBlocks: ids(3, 4), targetBlocks: ids(9, 2), firstLayer: 1, layerEnd: 3 };
      const transfer = (await connector.open(target.target())).begin(requestId('r'));
      transfer.push([piece], source.recorded());
      await transfer.finish(handle('r'));
      expect((await target.bytes()).equals(expected(before, from, [piece]))).toBe(true);
    });

    it('waits for the event: bytes computed before it are what arrives', async () => {
      const before = await target.bytes();
      const transfer = (await connector.open(target.target())).begin(requestId('r'));
      const slow = source.device.allocate(64 << 20);
      source.stream.random({ pointer: slow, shape: [16 << 20], dtype: 'f32' }, 1, 1, 0); // some tens of milliseconds
      const count = (blockCount * layout.blockBytes) / 4;
      source.stream.random({ pointer: source.cache.pointer, shape: [count], dtype: 'f32' }, 33, 1, 0);
      const piece = whole(ids(0, 1), ids(5, 6));
      transfer.push([piece], source.recorded());
      await transfer.finish(handle('r'));
      expect((await target.bytes()).equals(expected(before, await source.bytes(), [piece]))).toBe(true);
      source.device.release(slow);
    });

    it.each([
      ['model', { ...shape, modelName: 'other' }, /modelName differs \(contract here, other there\)/],
      ['dtype', { ...shape, dtype: 'f32' as const }, /dtype differs \(bf16 here, f32 there\)/],
      ['block size', { ...shape, blockTokenCount: 32 }, /layoutHash differs/],
    ])('refuses a target of another %s by name', async (_what, otherShape, message) => {
      const other = new Side(new KvLayout(otherShape), 4);
      const before = await other.bytes();
      const opening = connector.open(other.target('w9'));
      await expect(opening).rejects.toMatchObject({ code: 'layout_mismatch' });
      await expect(opening).rejects.toThrow(message);
      await expect(opening).rejects.toThrow(/w9/);
      expect((await other.bytes()).equals(before)).toBe(true);
      other.close();
    });

    it('refuses another protocol version, and a cache too small for its blocks', async () => {
      const { kv, ...rest } = target.target();
      await expect(connector.open({ ...rest, kv: { ...kv, protocolVersion: 2 } })).rejects.toThrow(/protocolVersion differs/);
      await expect(connector.open({ ...rest, kv, blockCount: blockCount + 1 })).rejects.toMatchObject({
        code: 'layout_mismatch',
      });
    });

    it('refuses a handle of another layout', async () => {
      const transfer = (await connector.open(target.target())).begin(requestId('r'));
      transfer.push([whole(ids(1), ids(1))], source.recorded());
      await expect(transfer.finish(handle('r', { layoutHash: 'ffff' }))).rejects.toMatchObject({ code: 'layout_mismatch' });
      await transfer.abort();
    });

    it('names the worker whose cache is gone', async () => {
      const cache = { ...target.cache.export(), processId: 2 ** 22 - 1 };
      const opening = connector.open({ ...target.target('w7'), cache });
      await expect(opening).rejects.toMatchObject({ code: 'transfer_error' });
      await expect(opening).rejects.toThrow(/w7/);
    });

    it('settles after an abort mid-copy; nothing is written afterwards', async () => {
      const from = await source.bytes();
      const transfer = (await connector.open(target.target())).begin(requestId('r'));
      const all = whole(ids(...Array(blockCount).keys()), ids(...Array(blockCount).keys()));
      for (let i = 0; i < 200; i++) transfer.push([all], source.recorded());
      const aborting = transfer.abort();
      transfer.push([whole(ids(0), ids(7))], source.recorded());
      await aborting;
      const after = await target.bytes();
      expect(after.equals(from)).toBe(true); // what was enqueued has run to its end, what came after has not begun
      await source.fill(44);
      transfer.push([all], source.recorded());
      await source.stream.wait();
      await expect(transfer.finish(handle('r'))).rejects.toMatchObject({ code: 'cancelled' });
      expect((await target.bytes()).equals(after)).toBe(true);
      await transfer.abort(); // idempotent
    });

    it('an abort while finishing rejects the finish and resolves itself', async () => {
      const transfer = (await connector.open(target.target())).begin(requestId('r'));
      transfer.push([whole(ids(0, 1, 2), ids(3, 4, 5))], source.recorded());
      const finishing = transfer.finish(handle('r'));
      const aborting = transfer.abort();
      await expect(finishing).rejects.toMatchObject({ code: 'cancelled' });
      await aborting;
    });

    it('does not mix two transfers, to one target or to two', async () => {
      const third = new Side(layout);
      await third.fill(55);
      const [before, beforeThird, from] = [await target.bytes(), await third.bytes(), await source.bytes()];
      const channel = await connector.open(target.target());
      const otherChannel = await connector.open(third.target('w2'));
      const transfers = [
        channel.begin(requestId('a')),
        channel.begin(requestId('b')),
        otherChannel.begin(requestId('c')),
      ] as const;
      const pieces = [
        whole(ids(0, 1, 2), ids(10, 11, 12)),
        whole(ids(2, 3, 4), ids(0, 1, 2)),
        whole(ids(5, 0), ids(6, 7)),
      ] as const;
      for (let layer = 0; layer < shape.layerCount; layer++) {
        for (const [i, transfer] of transfers.entries()) {
          transfer.push([{ ...pieces[i]!, firstLayer: layer, layerEnd: layer + 1 }], source.recorded());
        }
      }
      await Promise.all([transfers[0].finish(handle('a')), transfers[1].finish(handle('b')), transfers[2].finish(handle('c'))]);
      expect((await target.bytes()).equals(expected(before, from, [pieces[0], pieces[1]]))).toBe(true);
      expect((await third.bytes()).equals(expected(beforeThird, from, [pieces[2]]))).toBe(true);
      expect([channel.transferCount, otherChannel.transferCount]).toEqual([2, 1]);
      await otherChannel.close();
      third.close();
    });

    it('aborting one transfer does not touch its neighbour', async () => {
      const [before, from] = [await target.bytes(), await source.bytes()];
      const channel = await connector.open(target.target());
      const [a, b] = [channel.begin(requestId('a')), channel.begin(requestId('b'))];
      const piece = whole(ids(8, 9), ids(1, 2));
      await a.abort();
      b.push([piece], source.recorded());
      await b.finish(handle('b'));
      expect((await target.bytes()).equals(expected(before, from, [piece]))).toBe(true);
    });

    it('zero blocks are legal', async () => {
      const before = await target.bytes();
      const transfer = (await connector.open(target.target())).begin(requestId('r'));
      transfer.push([], source.recorded());
      transfer.push([whole([], [])], source.recorded());
      await transfer.finish(handle('r'));
      expect(transfer.pushedBytes).toBe(0);
      expect((await target.bytes()).equals(before)).toBe(true);
    });

    it('refuses blocks outside either cache before it copies', async () => {
      const before = await target.bytes();
      const transfer = (await connector.open(target.target())).begin(requestId('r'));
      const after = source.recorded();
      for (const [from, to] of [
        [-1, 0],
        [blockCount, 0],
        [0, -1],
        [0, blockCount],
      ] as const) {
        expect(() => transfer.push([whole(ids(from), ids(to))], after)).toThrow(/block/);
      }
      expect(() => transfer.push([{ ...whole(ids(0), ids(0)), layerEnd: shape.layerCount + 1 }], after)).toThrow(/layers/);
      expect(() => transfer.push([whole(ids(0, 1), ids(0))], after)).toThrow(/pairs/);
      await transfer.finish(handle('r'));
      expect((await target.bytes()).equals(before)).toBe(true);
    });

    it('after close nothing is in flight, and nothing can begin', async () => {
      const channel = await connector.open(target.target());
      const transfer = channel.begin(requestId('r'));
      for (let i = 0; i < 50; i++) transfer.push([whole(ids(1, 2, 3), ids(1, 2, 3))], source.recorded());
      await channel.close();
      const after = await target.bytes();
      await source.fill(66);
      transfer.push([whole(ids(1), ids(1))], source.recorded());
      expect((await target.bytes()).equals(after)).toBe(true);
      expect(() => channel.begin(requestId('s'))).toThrow(/closed/);
      await channel.close(); // idempotent
    });
  });
}
