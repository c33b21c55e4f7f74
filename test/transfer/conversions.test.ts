/** Hand-overs between caches that are not laid out alike, and in a smaller dtype on the way, over every
 *  connector. The oracle is the same op within one process; the op itself has its oracle in
 *  test/device/move-kv.test.ts. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { blockId, requestId, workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { KvLayout, type KvShape } from '../../src/kv/kv-layout.js';
import { WireLayout } from '../../src/kv/wire-layout.js';
import type { KvConnector, KvIdentity, KvSource, TransferDtype } from '../../src/transfer/connector.js';
import { HostRelayConnector } from '../../src/transfer/host-relay.js';
import { PeerConnector } from '../../src/transfer/peer.js';
import { TcpConnector } from '../../src/transfer/tcp.js';
import { Side } from './side.js';
import { listenOn, quickLimits } from './tcp-member.js';

const shape: KvShape = {
  modelName: 'tp',
  layerCount: 3,
  kvHeadCount: 4,
  headDim: 32,
  blockTokenCount: 16,
  dtype: 'bf16',
};
const members: Record<string, (source: KvSource) => KvConnector> = {
  peer: (source) => new PeerConnector(source),
  'host-relay': (source) => new HostRelayConnector(source, quickLimits),
  tcp: (source) => new TcpConnector(source, quickLimits),
};

interface Rank {
  readonly shape: KvShape;
  readonly firstHead: number;
  readonly transferDtype?: TransferDtype;
}

const identityOf = ({ shape: own, firstHead, transferDtype = 'auto' }: Rank): KvIdentity => ({
  protocolVersion: 1,
  modelName: own.modelName,
  dtype: own.dtype,
  layoutHash: new KvLayout(own).hash,
  transferDtype,
  geometry: { shape: own, firstHead },
});

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close();
});

async function sideOf(rank: Rank, tokenCount: number, seed: number): Promise<Side> {
  const side = new Side(new KvLayout(rank.shape), tokenCount / rank.shape.blockTokenCount);
  open.push(side);
  await side.fill(seed);
  return side;
}

/** Hands `tokenCount` tokens over, layer by layer, and says what was moved in bytes. */
async function handOver(
  make: (source: KvSource) => KvConnector,
  from: [Rank, Side],
  to: [Rank, Side],
  lists: Lists,
): Promise<number> {
  const [rank, side] = to;
  const receiver = await listenOn(side, 'w1', { identity: identityOf(rank) });
  const connector = make({
    device: from[1].device,
    cache: from[1].cache,
    identity: identityOf(from[0]),
    clock: systemClock,
  });
  try {
    const target = {
      ...side.target(),
      workerId: workerId('w1'),
      kv: identityOf(rank),
      receiver: receiver.address,
    };
    const transfer = (await connector.open(target)).begin(requestId('r'), 1);
    const [sourceBlocks, targetBlocks] = [lists.source.map(blockId), lists.target.map(blockId)];
    for (const [firstLayer, layerEnd] of [
      [0, 1],
      [1, 3],
    ] as const)
      transfer.push([{ sourceBlocks, targetBlocks, firstLayer, layerEnd }], from[1].recorded());
    const layoutHash = identityOf(rank).layoutHash;
    await transfer.finish({
      requestId: requestId('r'),
      epoch: 1,
      layoutHash,
      tokenCount: 1,
      firstTokens: [1],
    });
    return transfer.pushedBytes;
  } finally {
    await connector.close();
    await receiver.close();
  }
}

interface Lists {
  readonly source: number[];
  readonly target: number[];
}

const shuffled = (prng: Prng, blockCount: number, count: number) =>
  Array.from({ length: blockCount }, (_, i) => ({ i, key: prng.uniform() }))
    .sort((a, b) => a.key - b.key)
    .map(({ i }) => i)
    .slice(0, count);

/** What the target should hold: the same tokens, moved within one process, through `wireDtype` when it is
 *  lossy. */
async function expected(
  from: [Rank, Side],
  to: [Rank, Side],
  lists: Lists,
  wireDtype: 'i8' | 'fp8' | null,
): Promise<Buffer> {
  const [source, target] = [from[1], to[1]];
  const other = new Side(target.cache.layout, target.cache.blockCount);
  open.push(other);
  const before = await target.bytes();
  const host = other.device.allocateHost(before.length);
  host.bytes.set(before);
  other.stream.copy(other.cache.pointer, host.pointer, before.length);
  const tokenCount = Math.min(
    lists.source.length * from[0].shape.blockTokenCount,
    lists.target.length * to[0].shape.blockTokenCount,
  );
  const firstHead = Math.max(from[0].firstHead, to[0].firstHead);
  const headEnd = Math.min(
    from[0].firstHead + from[0].shape.kvHeadCount,
    to[0].firstHead + to[0].shape.kvHeadCount,
  );
  const { headDim, layerCount } = shape;
  const heads = { firstHead, headCount: headEnd - firstHead, headDim };
  const range = {
    targetStart: 0,
    sourceStart: 0,
    tokenCount,
    targetLayer: 0,
    sourceLayer: 0,
    layerCount,
    ...heads,
  };
  const sourcePlace = source.cache.layout.place(source.cache.pointer, lists.source, from[0].firstHead);
  const targetPlace = other.cache.layout.place(other.cache.pointer, lists.target, to[0].firstHead);
  if (wireDtype === null) other.stream.moveKv(targetPlace, sourcePlace, range);
  else {
    const wire = new WireLayout({ dtype: wireDtype, blockTokenCount: 16, layerCount, ...heads });
    const staging = other.device.allocate(wire.blockBytes * Math.ceil(tokenCount / 16));
    const place = wire.place(staging, Math.ceil(tokenCount / 16));
    other.stream.moveKv(place, sourcePlace, range);
    other.stream.moveKv(targetPlace, place, range);
  }
  await other.stream.wait();
  other.device.releaseHost(host);
  return other.bytes();
}

describe.each(Object.keys(members))('conversions over %s', (name) => {
  const make = members[name]!;

  it.each([
    [16, 64],
    [64, 16],
    [16, 32],
  ])('blocks of %d to blocks of %d tokens', async (fromSize, toSize) => {
    for (let seed = 1; seed <= 3; seed++) {
      const prng = new Prng(seed);
      const [from, to] = [fromSize, toSize].map((blockTokenCount) => ({
        shape: { ...shape, blockTokenCount },
        firstHead: 0,
      })) as [Rank, Rank];
      const [source, target] = [await sideOf(from, 512, seed), await sideOf(to, 512, 100 + seed)];
      // the last block of each side is filled as far as the other has one
      const tokenCount = prng.integer(1, 400);
      const lists = {
        source: shuffled(prng, 512 / fromSize, Math.ceil(tokenCount / fromSize)),
        target: shuffled(prng, 512 / toSize, Math.ceil(tokenCount / toSize)),
      };
      const wanted = await expected([from, source], [to, target], lists, null);
      await handOver(make, [from, source], [to, target], lists);
      expect((await target.bytes()).equals(wanted), `seed ${seed}`).toBe(true);
    }
  });

  it('heads of one rank to two, and of two to one: together they are what one to one gives', async () => {
    const one: Rank = { shape, firstHead: 0 };
    const halves = [0, 2].map((firstHead) => ({ shape: { ...shape, kvHeadCount: 2 }, firstHead }));
    const prng = new Prng(5);
    const lists = { source: shuffled(prng, 16, 9), target: shuffled(prng, 16, 9) };
    const back = { source: lists.target, target: lists.source };
    const [source, result] = [await sideOf(one, 256, 1), await sideOf(one, 256, 2)];
    for (const rank of halves) {
      const side = await sideOf(rank, 256, 3 + rank.firstHead);
      const wanted = await expected([one, source], [rank, side], lists, null);
      await handOver(make, [one, source], [rank, side], lists);
      expect((await side.bytes()).equals(wanted), `heads from ${rank.firstHead}`).toBe(true);
      await handOver(make, [rank, side], [one, result], back);
    }
    const { blockBytes } = source.cache.layout;
    const [sent, received] = [await source.bytes(), await result.bytes()];
    const block = (bytes: Buffer, index: number) =>
      bytes.subarray(index * blockBytes, (index + 1) * blockBytes);
    for (const index of lists.source)
      expect(block(received, index).equals(block(sent, index)), `block ${index}`).toBe(true);
  });

  it.runIf(name !== 'peer').each(['fp8', 'int8'] as const)(
    '%s on the way: half the bytes, each vector with its scale',
    async (transferDtype) => {
      const rank: Rank = { shape, firstHead: 0, transferDtype };
      const [source, target] = [await sideOf(rank, 256, 1), await sideOf(rank, 256, 2)];
      const lists = { source: [3, 1, 15, 4, 0], target: [9, 2, 6, 5, 8] };
      const wanted = await expected(
        [rank, source],
        [rank, target],
        lists,
        transferDtype === 'fp8' ? 'fp8' : 'i8',
      );
      const bytes = await handOver(make, [rank, source], [rank, target], lists);
      expect((await target.bytes()).equals(wanted)).toBe(true);
      const vectorCount = 5 * 16 * shape.layerCount * 2 * shape.kvHeadCount;
      expect(bytes).toBe(vectorCount * (shape.headDim + 4));
    },
  );

  it('refuses by name what cannot be converted, and pairs that do not agree on a dtype', async () => {
    const rank: Rank = { shape, firstHead: 0 };
    const [source, target] = [await sideOf(rank, 256, 1), await sideOf(rank, 256, 2)];
    const to = (other: Partial<Rank>) =>
      handOver(make, [rank, source], [{ ...rank, ...other }, target], { source: [0], target: [0] });
    await expect(to({ shape: { ...shape, headDim: 64 } })).rejects.toThrow(/layoutHash differs/);
    await expect(to({ shape: { ...shape, layerCount: 2 } })).rejects.toMatchObject({
      code: 'layout_mismatch',
    });
    await expect(to({ firstHead: 8, shape: { ...shape, blockTokenCount: 32 } })).rejects.toThrow(
      /no head is on both sides/,
    );
    await expect(to({ transferDtype: 'fp8' })).rejects.toThrow(
      /transferDtype differs \(auto here, fp8 there\)/,
    );
    const lossy: Rank = { ...rank, transferDtype: 'int8' };
    const both = handOver(make, [lossy, source], [lossy, target], { source: [0], target: [0] });
    if (name === 'peer')
      await expect(both).rejects.toThrow(/peer writes KV as it is, int8 needs host-relay or tcp/);
    else await both;
  });
});
