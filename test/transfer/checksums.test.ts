/** CRC-32C of blocks: the standard's values, equal on every instruction set, and a flipped bit anywhere is
 *  seen. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type BlockId, blockId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { openDevice } from '../../src/device/native.js';
import { offsetPointer } from '../../src/device/tensor.js';
import { KvLayout } from '../../src/kv/kv-layout.js';
import { BlockChecksums } from '../../src/transfer/checksums.js';
import { Side } from './side.js';

/** Bit by bit, from the polynomial's definition. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

async function checksumOf(bytes: Uint8Array, isa: 'auto' | 'scalar'): Promise<number> {
  const device = openDevice({ kind: 'cpu', index: 0, threadCount: 1, isa });
  const stream = device.createStream();
  const [data, out] = [device.allocateHost(bytes.length), device.allocateHost(4)];
  data.bytes.set(bytes);
  stream.checksumBlocks(out.pointer, { base: data.pointer, blockBytes: bytes.length }, [0]);
  await stream.wait();
  const value = new DataView(out.bytes.buffer, out.bytes.byteOffset).getUint32(0, true);
  device.releaseHost(data);
  device.releaseHost(out);
  device.close();
  return value;
}

describe.each(['auto', 'scalar'] as const)('CRC-32C, %s', (isa) => {
  it.each([
    ['RFC 3720: 32 zeros', new Uint8Array(32), 0x8a9136aa],
    ['RFC 3720: 32 ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ['RFC 3720: ascending', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ['the check value', new TextEncoder().encode('123456789'), 0xe3069283],
  ])('%s', async (_what, bytes, expected) => {
    expect(await checksumOf(bytes, isa)).toBe(expected);
  });

  it('equals the definition for every length', async () => {
    const prng = new Prng(9);
    for (let count = 1; count < 40; count++) {
      const bytes = Uint8Array.from({ length: count }, () => prng.integer(0, 255));
      expect(await checksumOf(bytes, isa), `${count} bytes`).toBe(crc32c(bytes));
    }
  });
});

describe('BlockChecksums', () => {
  const layout = new KvLayout({
    modelName: 'sums',
    layerCount: 2,
    kvHeadCount: 1,
    headDim: 32,
    blockTokenCount: 8,
    dtype: 'bf16',
  });
  let side: Side;
  let checksums: BlockChecksums;
  beforeEach(async () => {
    side = new Side(layout, 6);
    checksums = new BlockChecksums(side.device, side.cache);
    await side.fill(5);
  });
  afterEach(async () => {
    checksums.close();
    await side.close();
  });
  const all: BlockId[] = [4, 0, 5, 2].map(blockId);

  it('gives one per block, in the order asked, also many at once', async () => {
    const bytes = await side.bytes();
    const expected = all.map((block) =>
      crc32c(bytes.subarray(block * layout.blockBytes, (block + 1) * layout.blockBytes)),
    );
    const answers = await Promise.all([
      checksums.of(all),
      checksums.of([]),
      checksums.of(all.slice(1)),
      checksums.of(all),
    ]);
    expect(answers).toEqual([expected, [], expected.slice(1), expected]);
    expect(new Set(expected).size).toBe(4);
  });

  it('sees one flipped bit, wherever it is', async () => {
    const before = await checksums.of(all);
    const prng = new Prng(3);
    const host = side.device.allocateHost(1);
    for (let trial = 0; trial < 30; trial++) {
      const index = prng.integer(0, 3);
      const place = offsetPointer(
        side.cache.pointer,
        all[index]! * layout.blockBytes + prng.integer(0, layout.blockBytes - 1),
      );
      const flip = async (bit: number) => {
        side.stream.copy(host.pointer, place, 1);
        await side.stream.wait();
        host.bytes[0]! ^= 1 << bit;
        side.stream.copy(place, host.pointer, 1);
        await side.stream.wait();
      };
      const bit = prng.integer(0, 7);
      await flip(bit);
      const damaged = await checksums.of(all);
      expect(damaged.map((value, i) => value === before[i])).toEqual([0, 1, 2, 3].map((i) => i !== index));
      await flip(bit);
    }
    expect(await checksums.of(all)).toEqual(before);
    side.device.releaseHost(host);
  });

  it('refuses blocks that are none', () => {
    expect(() =>
      side.stream.checksumBlocks(side.cache.pointer, { base: side.cache.pointer, blockBytes: 8 }, [-1]),
    ).toThrow(/block -1/);
  });
});
