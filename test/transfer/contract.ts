/** What every KvConnector must show. Called with each member of the family; runs on the real CPU device,
 *  caches full of random bytes. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { type BlockId, blockId, requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { KvHandle } from '../../src/kv/kv-handle.js';
import { KvLayout, type KvShape } from '../../src/kv/kv-layout.js';
import type { KvConnector, KvPiece } from '../../src/transfer/connector.js';
import { type Member, reachable, Side } from './side.js';

const shape: KvShape = {
  modelName: 'contract',
  layerCount: 3,
  kvHeadCount: 2,
  headDim: 32,
  blockTokenCount: 16,
  dtype: 'bf16',
};
const blockCount = 24;
const ids = (...indices: number[]): BlockId[] => indices.map(blockId);

/** `count` different blocks in no order. */
function someBlocks(prng: Prng, count: number): BlockId[] {
  return Array.from({ length: blockCount }, (_, i) => ({ i, key: prng.uniform() }))
    .sort((a, b) => a.key - b.key)
    .map(({ i }) => blockId(i))
    .slice(0, count);
}

export function connectorContract(member: Member): void {
  describe(`connector ${member.name}`, () => {
    const layout = new KvLayout(shape);
    let source: Side;
    let target: Side;
    let connector: KvConnector;
    let landed: Awaited<ReturnType<NonNullable<Member['land']>>> | undefined;
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
      source = new Side(layout, blockCount);
      target = await reachable(member, new Side(layout, blockCount), 'w1');
      landed = await member.land?.(source);
      connector = member.make({
        ...source.source(),
        ...(landed === undefined ? {} : { landing: landed.landing }),
      });
      await source.fill(11);
      await target.fill(22);
    });
    afterEach(async () => {
      await connector.close();
      // whom we pull from has channels to us
      for (const { close } of target.listeners.splice(0)) await close();
      await landed?.close();
      await source.close();
      await target.close();
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
        const [sourceBlocks, targetBlocks] = [someBlocks(prng, count), someBlocks(prng, count)];
        const pieces = Array.from({ length: shape.layerCount }, (_, layer) => ({
          sourceBlocks,
          targetBlocks,
          firstLayer: layer,
          layerEnd: layer + 1,
        }));
        const transfer = (await connector.open(target.target())).begin(requestId(`r${seed}`), 1);
        for (const piece of pieces) transfer.push([piece], source.recorded());
        await transfer.finish(handle(`r${seed}`));
        expect((await target.bytes()).equals(expected(before, from, pieces))).toBe(true);
        expect(transfer.pushedBytes).toBe(count * layout.blockBytes);
      }
    });

    it('moves only the layers that are asked for', async () => {
      const [before, from] = [await target.bytes(), await source.bytes()];
      const piece = { sourceBlocks: ids(3, 4), targetBlocks: ids(9, 2), firstLayer: 1, layerEnd: 3 };
      const transfer = (await connector.open(target.target())).begin(requestId('r'), 1);
      transfer.push([piece], source.recorded());
      await transfer.finish(handle('r'));
      expect((await target.bytes()).equals(expected(before, from, [piece]))).toBe(true);
    });

    it('waits for the event: bytes computed before it are what arrives', async () => {
      const before = await target.bytes();
      const transfer = (await connector.open(target.target())).begin(requestId('r'), 1);
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
      const other = await reachable(member, new Side(new KvLayout(otherShape), 4), 'w9');
      const before = await other.bytes();
      const opening = connector.open(other.target('w9'));
      await expect(opening).rejects.toMatchObject({ code: 'layout_mismatch' });
      await expect(opening).rejects.toThrow(message);
      await expect(opening).rejects.toThrow(/w9/);
      expect((await other.bytes()).equals(before)).toBe(true);
      await other.close();
    });

    it('refuses another protocol version, and a cache too small for its blocks', async () => {
      const { kv, ...rest } = target.target();
      await expect(connector.open({ ...rest, kv: { ...kv, protocolVersion: 2 } })).rejects.toThrow(
        /protocolVersion differs/,
      );
      await expect(connector.open({ ...rest, kv, blockCount: blockCount + 1 })).rejects.toMatchObject({
        code: 'layout_mismatch',
      });
    });

    it('refuses a handle of another layout', async () => {
      const transfer = (await connector.open(target.target())).begin(requestId('r'), 1);
      transfer.push([whole(ids(1), ids(1))], source.recorded());
      await expect(transfer.finish(handle('r', { layoutHash: 'ffff' }))).rejects.toMatchObject({
        code: 'layout_mismatch',
      });
      await transfer.abort();
    });

    it('names the worker whose cache is gone', async () => {
      await reachable(member, target, 'w7');
      const opening = connector.open(member.gone(target.target('w7')));
      await expect(opening).rejects.toMatchObject({ code: 'transfer_error' });
      await expect(opening).rejects.toThrow(/w7/);
    });

    it('settles after an abort mid-copy; nothing is written afterwards', async () => {
      const [before, from] = [await target.bytes(), await source.bytes()];
      const transfer = (await connector.open(target.target())).begin(requestId('r'), 1);
      const all = whole(ids(...Array(blockCount).keys()), ids(...Array(blockCount).keys()));
      for (let i = 0; i < 200; i++) transfer.push([all], source.recorded());
      const aborting = transfer.abort();
      transfer.push([whole(ids(0), ids(7))], source.recorded());
      await aborting;
      const after = await target.bytes();
      for (let block = 0; block < blockCount; block++) {
        const of = (bytes: Buffer) =>
          bytes.subarray(block * layout.blockBytes, (block + 1) * layout.blockBytes);
        expect(of(after).equals(of(before)) || of(after).equals(of(from)), `block ${block} is whole`).toBe(
          true,
        );
      }
      await source.fill(44);
      transfer.push([all], source.recorded());
      await source.stream.wait();
      await expect(transfer.finish(handle('r'))).rejects.toMatchObject({ code: 'cancelled' });
      expect((await target.bytes()).equals(after)).toBe(true);
      await transfer.abort(); // idempotent
    });

    it('an abort while finishing rejects the finish and resolves itself', async () => {
      const transfer = (await connector.open(target.target())).begin(requestId('r'), 1);
      transfer.push([whole(ids(0, 1, 2), ids(3, 4, 5))], source.recorded());
      const finishing = transfer.finish(handle('r'));
      const aborting = transfer.abort();
      await expect(finishing).rejects.toMatchObject({ code: 'cancelled' });
      await aborting;
    });

    it('does not mix two transfers, to one target or to two', async () => {
      const third = await reachable(member, new Side(layout, blockCount), 'w2');
      await third.fill(55);
      const [before, beforeThird, from] = [await target.bytes(), await third.bytes(), await source.bytes()];
      const channel = await connector.open(target.target());
      const otherChannel = await connector.open(third.target('w2'));
      const transfers = [
        channel.begin(requestId('a'), 1),
        channel.begin(requestId('b'), 1),
        otherChannel.begin(requestId('c'), 1),
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
      await Promise.all([
        transfers[0].finish(handle('a')),
        transfers[1].finish(handle('b')),
        transfers[2].finish(handle('c')),
      ]);
      expect((await target.bytes()).equals(expected(before, from, [pieces[0], pieces[1]]))).toBe(true);
      expect((await third.bytes()).equals(expected(beforeThird, from, [pieces[2]]))).toBe(true);
      expect([channel.transferCount, otherChannel.transferCount]).toEqual([2, 1]);
      await otherChannel.close();
      await third.close();
    });

    it('aborting one transfer does not touch its neighbour', async () => {
      const [before, from] = [await target.bytes(), await source.bytes()];
      const channel = await connector.open(target.target());
      const [a, b] = [channel.begin(requestId('a'), 1), channel.begin(requestId('b'), 1)];
      const piece = whole(ids(8, 9), ids(1, 2));
      await a.abort();
      b.push([piece], source.recorded());
      await b.finish(handle('b'));
      expect((await target.bytes()).equals(expected(before, from, [piece]))).toBe(true);
    });

    it('a probe takes time and touches nothing', async () => {
      const before = await target.bytes();
      const channel = await connector.open(target.target());
      for (const bytes of [1, 4096, 3 << 20]) expect(await channel.probe(bytes)).toBeGreaterThan(0);
      expect((await target.bytes()).equals(before)).toBe(true);
      expect([channel.transferCount, channel.pushedBytes, channel.isBroken]).toEqual([0, 0, false]);
    });

    it('a block that is pushed again and again arrives as it was last', async () => {
      const channel = await connector.open(target.target());
      const transfer = channel.begin(requestId('r'), 1);
      const before = await target.bytes();
      const piece = whole(ids(...Array(blockCount).keys()), ids(...Array(blockCount).keys()));
      const count = (blockCount * layout.blockBytes) / 4;
      for (let round = 0; round < 30; round++) {
        source.stream.random(
          { pointer: source.cache.pointer, shape: [count], dtype: 'f32' },
          100 + round,
          1,
          0,
        );
        transfer.push([piece], source.recorded());
      }
      await transfer.finish(handle('r'));
      expect((await target.bytes()).equals(expected(before, await source.bytes(), [piece]))).toBe(true);
    });

    it('settles both sides after an abort at seeded points; nothing is written afterwards', async () => {
      const channel = await connector.open(target.target());
      for (let seed = 1; seed <= 100; seed++) {
        const prng = new Prng(seed);
        const id = `r${seed}`;
        const transfer = channel.begin(requestId(id), 1);
        const all = whole(ids(...Array(blockCount).keys()), ids(...Array(blockCount).keys()));
        const pushCount = prng.integer(1, 12);
        const abortAt = prng.integer(0, pushCount);
        const finishing = { promise: null as Promise<void> | null };
        for (let i = 0; i < pushCount; i++) {
          if (i === abortAt) void transfer.abort();
          transfer.push([all], source.recorded());
          if (prng.uniform() < 0.5) await systemClock.yield();
        }
        if (prng.uniform() < 0.3) finishing.promise = transfer.finish(handle(id)).catch(() => {});
        await transfer.abort();
        await finishing.promise;
        if (seed % 10 > 0) continue;
        const after = await target.bytes();
        await source.fill(1000 + seed);
        await systemClock.sleep(2);
        expect((await target.bytes()).equals(after)).toBe(true);
      }
      const last = channel.begin(requestId('last'), 1);
      const [before, from] = [await target.bytes(), await source.bytes()];
      const piece = whole(ids(1, 2), ids(3, 4));
      last.push([piece], source.recorded());
      await last.finish(handle('last'));
      expect((await target.bytes()).equals(expected(before, from, [piece]))).toBe(true);
    });

    it('pulls every byte of every block, in token order, and leaves the others and their owner untouched', async () => {
      for (let seed = 1; seed <= 6; seed++) {
        const prng = new Prng(seed);
        const [before, from] = [await source.bytes(), await target.bytes()];
        const count = prng.integer(1, blockCount);
        const [sourceBlocks, targetBlocks] = [someBlocks(prng, count), someBlocks(prng, count)];
        const pieces = [
          { sourceBlocks, targetBlocks, firstLayer: 0, layerEnd: 1 },
          { sourceBlocks, targetBlocks, firstLayer: 2, layerEnd: 3 },
        ];
        const transfer = (await connector.open(target.target())).begin(requestId(`r${seed}`), 1);
        for (const piece of pieces) transfer.pull([piece]);
        await transfer.finish(handle(`r${seed}`));
        expect((await source.bytes()).equals(expected(before, from, pieces)), `seed ${seed}`).toBe(true);
        expect((await target.bytes()).equals(from)).toBe(true);
        await source.fill(200 + seed);
      }
    });

    it('settles after a pull is aborted, at seeded points; nothing is written afterwards', async () => {
      const channel = await connector.open(target.target());
      const all = whole(ids(...Array(blockCount).keys()), ids(...Array(blockCount).keys()));
      for (let seed = 1; seed <= 30; seed++) {
        const prng = new Prng(seed);
        const transfer = channel.begin(requestId(`r${seed}`), 1);
        const pullCount = prng.integer(1, 4);
        for (let i = 0; i < pullCount; i++) transfer.pull([all]);
        for (let turn = prng.integer(0, 12); turn > 0; turn--) await systemClock.yield();
        const finishing = prng.uniform() < 0.5 ? transfer.finish(handle(`r${seed}`)).catch(() => {}) : null;
        await transfer.abort();
        await finishing;
        transfer.pull([all]);
        await source.fill(300 + seed); // the blocks' next owner
        const owned = await source.bytes();
        await systemClock.sleep(3);
        expect((await source.bytes()).equals(owned), `seed ${seed}`).toBe(true);
      }
      const [before, from] = [await source.bytes(), await target.bytes()];
      const last = channel.begin(requestId('last'), 1);
      last.pull([whole(ids(3, 9), ids(0, 7))]);
      await last.finish(handle('last'));
      expect((await source.bytes()).equals(expected(before, from, [whole(ids(3, 9), ids(0, 7))]))).toBe(true);
    });

    it('pulls and pushes of two transfers at once do not mix; blocks outside either cache are refused', async () => {
      const [before, beforeThere] = [await source.bytes(), await target.bytes()];
      const channel = await connector.open(target.target());
      const [a, b] = [channel.begin(requestId('a'), 1), channel.begin(requestId('b'), 2)];
      const [pulled, pushed] = [whole(ids(0, 1, 2), ids(10, 11, 12)), whole(ids(3, 4), ids(20, 21))];
      expect(() => a.pull([whole(ids(blockCount), ids(0))])).toThrow(/block/);
      expect(() => a.pull([whole(ids(0), ids(-1))])).toThrow(/block/);
      a.pull([pulled, whole([], [])]);
      b.push([pushed], source.recorded());
      await Promise.all([a.finish(handle('a')), b.finish(handle('b'))]);
      expect((await source.bytes()).equals(expected(before, beforeThere, [pulled]))).toBe(true);
      expect((await target.bytes()).equals(expected(beforeThere, before, [pushed]))).toBe(true);
    });

    it('zero blocks are legal', async () => {
      const before = await target.bytes();
      const transfer = (await connector.open(target.target())).begin(requestId('r'), 1);
      transfer.push([], source.recorded());
      transfer.push([whole([], [])], source.recorded());
      await transfer.finish(handle('r'));
      expect(transfer.pushedBytes).toBe(0);
      expect((await target.bytes()).equals(before)).toBe(true);
    });

    it('refuses blocks outside either cache before it copies', async () => {
      const before = await target.bytes();
      const transfer = (await connector.open(target.target())).begin(requestId('r'), 1);
      const after = source.recorded();
      for (const [from, to] of [
        [-1, 0],
        [blockCount, 0],
        [0, -1],
        [0, blockCount],
      ] as const) {
        expect(() => transfer.push([whole(ids(from), ids(to))], after)).toThrow(/block/);
      }
      expect(() =>
        transfer.push([{ ...whole(ids(0), ids(0)), layerEnd: shape.layerCount + 1 }], after),
      ).toThrow(/layers/);
      expect(() => transfer.push([whole(ids(0, 1), ids(0))], after)).toThrow(/pairs/);
      await transfer.finish(handle('r'));
      expect((await target.bytes()).equals(before)).toBe(true);
    });

    it('a transfer that outlives its channel settles all the same, finished or not', async () => {
      const channel = await connector.open(target.target());
      const [finished, open] = [channel.begin(requestId('a'), 1), channel.begin(requestId('b'), 1)];
      for (const transfer of [finished, open])
        transfer.push([whole(ids(1, 2), ids(3, 4))], source.recorded());
      await finished.finish(handle('a'));
      await channel.close(); // its worker died
      await finished.abort();
      await open.abort();
      await expect(open.finish(handle('b'))).rejects.toMatchObject({ code: 'cancelled' });
    });

    it('after close nothing is in flight, and nothing can begin', async () => {
      const channel = await connector.open(target.target());
      const transfer = channel.begin(requestId('r'), 1);
      for (let i = 0; i < 50; i++) transfer.push([whole(ids(1, 2, 3), ids(1, 2, 3))], source.recorded());
      await channel.close();
      const after = await target.bytes();
      await source.fill(66);
      transfer.push([whole(ids(1), ids(1))], source.recorded());
      expect((await target.bytes()).equals(after)).toBe(true);
      expect(() => channel.begin(requestId('s'), 1)).toThrow(/closed/);
      await channel.close(); // idempotent
    });
  });
}
