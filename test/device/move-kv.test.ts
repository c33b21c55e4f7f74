/** pd_move_kv against an oracle in JavaScript: every pair of dtypes, block sizes and head ranges; bytes
 *  around what is moved stay. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import type { Device, HostBuffer, KvPlace, KvRange, Stream } from '../../src/device/device.js';
import { type Dtype, dtypeByteCounts } from '../../src/device/dtype.js';
import { openDevice } from '../../src/device/native.js';

const headDim = 32;
const layerCount = 3;

/** The values that a code stands for: RFC-like table of e4m3 (bias 7, no infinity). */
const e4m3 = Array.from({ length: 256 }, (_, code) => {
  const [exponent, mantissa] = [(code >> 3) & 15, code & 7];
  const magnitude = exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10);
  return (code & 0x7f) === 0x7f ? Number.NaN : code >= 128 ? -magnitude : magnitude;
});

/** Nearest of the table, ties to the even code. */
function toE4m3(value: number): number {
  const magnitude = Math.min(Math.abs(value), 448);
  let best = 0;
  for (let code = 1; code < 0x7f; code++) {
    const [distance, bestDistance] = [Math.abs(e4m3[code]! - magnitude), Math.abs(e4m3[best]! - magnitude)];
    if (distance < bestDistance || (distance === bestDistance && code % 2 === 0)) best = code;
  }
  return value < 0 || Object.is(value, -0) ? best | 0x80 : best;
}

const roundEven = (value: number) => {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
};

function toBf16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** A place in host memory, with its geometry. */
class Side {
  readonly place: KvPlace;
  readonly host: HostBuffer;
  readonly view: DataView;

  constructor(
    device: Device,
    dtype: Dtype,
    blockTokenCount: number,
    heads: { first: number; count: number },
    blocks: number[],
  ) {
    const hasScales = dtype === 'i8' || dtype === 'fp8';
    const scaleOffset = heads.count * blockTokenCount * headDim * dtypeByteCounts[dtype];
    const valueOffset = scaleOffset + (hasScales ? heads.count * blockTokenCount * 4 : 0);
    const blockBytes = layerCount * 2 * valueOffset;
    this.host = device.allocateHost(blockBytes * (Math.max(...blocks) + 1));
    this.view = new DataView(this.host.bytes.buffer, this.host.bytes.byteOffset, this.host.bytes.length);
    this.place = {
      base: this.host.pointer,
      blockBytes,
      layerBytes: 2 * valueOffset,
      valueOffset,
      scaleOffset: hasScales ? scaleOffset : 0,
      dtype,
      blockTokenCount,
      headCount: heads.count,
      firstHead: heads.first,
      blocks,
    };
  }

  /** Where the vector and its scale are. */
  at(position: number, layer: number, which: number, head: number): { elements: number; scale: number } {
    const { blocks, blockTokenCount, blockBytes, layerBytes, valueOffset, scaleOffset, firstHead, dtype } =
      this.place;
    const half =
      blocks[Math.floor(position / blockTokenCount)]! * blockBytes + layer * layerBytes + which * valueOffset;
    const index = (head - firstHead) * blockTokenCount + (position % blockTokenCount);
    return {
      elements: half + index * headDim * dtypeByteCounts[dtype],
      scale: half + scaleOffset + index * 4,
    };
  }

  read(position: number, layer: number, which: number, head: number): number[] {
    const { elements, scale } = this.at(position, layer, which, head);
    const { dtype } = this.place;
    return Array.from({ length: headDim }, (_, i) => {
      if (dtype === 'f32') return this.view.getFloat32(elements + 4 * i, true);
      if (dtype === 'bf16')
        return new Float32Array(Uint32Array.of(this.view.getUint16(elements + 2 * i, true) << 16).buffer)[0]!;
      const code = dtype === 'i8' ? this.view.getInt8(elements + i) : e4m3[this.view.getUint8(elements + i)]!;
      return Math.fround(code * this.view.getFloat32(scale, true));
    });
  }

  write(position: number, layer: number, which: number, head: number, values: readonly number[]): void {
    const { elements, scale } = this.at(position, layer, which, head);
    const { dtype } = this.place;
    const largest = Math.max(...values.map(Math.abs));
    const unit =
      dtype === 'i8'
        ? Math.fround(largest / 127)
        : largest > 0
          ? 2 ** Math.ceil(Math.log2(largest / 448))
          : 1;
    const inverse = largest > 0 ? Math.fround(1 / unit) : 0;
    values.forEach((value, i) => {
      const scaled = Math.fround(value * inverse);
      if (dtype === 'f32') this.view.setFloat32(elements + 4 * i, value, true);
      else if (dtype === 'bf16') this.view.setUint16(elements + 2 * i, toBf16(value), true);
      else if (dtype === 'i8')
        this.view.setInt8(elements + i, Math.max(-127, Math.min(127, roundEven(scaled))));
      else this.view.setUint8(elements + i, toE4m3(scaled));
    });
    if (dtype === 'i8' || dtype === 'fp8') this.view.setFloat32(scale, unit, true);
  }
}

describe.each(['auto', 'scalar'] as const)('move kv, %s', (isa) => {
  let device: Device;
  let stream: Stream;
  beforeAll(() => {
    device = openDevice({ kind: 'cpu', index: 0, threadCount: 1, isa });
    stream = device.createStream();
  });
  afterAll(() => device.close());

  const dtypes = ['f32', 'bf16', 'i8', 'fp8'] as const;
  it.each(dtypes.flatMap((from) => dtypes.map((to) => [from, to] as const)))('%s to %s', async (from, to) => {
    for (let seed = 1; seed <= 4; seed++) {
      const prng = new Prng(seed);
      const tokenCount = prng.integer(1, 150);
      const blocksOf = (start: number, size: number) =>
        Array.from({ length: Math.ceil((start + tokenCount) / size) }, (_, i) => i).sort(
          () => prng.uniform() - 0.5,
        );
      const [fromSize, toSize] = [prng.pick([16, 64]), prng.pick([16, 64])];
      const [sourceStart, targetStart] = [prng.integer(0, fromSize - 1), prng.integer(0, toSize - 1)];
      const source = new Side(
        device,
        from,
        fromSize,
        { first: 0, count: 4 },
        blocksOf(sourceStart, fromSize),
      );
      const heads = prng.pick([
        { first: 0, count: 4 },
        { first: 2, count: 2 },
        { first: 1, count: 6 },
      ]); // tensor-parallel shards, or more
      const target = new Side(device, to, toSize, heads, blocksOf(targetStart, toSize));
      const firstHead = Math.max(0, heads.first);
      const range: KvRange = {
        targetStart,
        sourceStart,
        tokenCount,
        targetLayer: 1,
        sourceLayer: 0,
        layerCount: 2,
        headDim,
        firstHead,
        headCount: Math.min(4, heads.first + heads.count) - firstHead,
      };
      const vectors = (visit: (token: number, layer: number, which: number, head: number) => void) => {
        for (let token = 0; token < tokenCount; token++)
          for (let layer = 0; layer < 2; layer++)
            for (let which = 0; which < 2; which++)
              for (let head = firstHead; head < firstHead + range.headCount; head++)
                visit(token, layer, which, head);
      };
      target.host.bytes.fill(0xa5);
      vectors((token, layer, which, head) => {
        const size = 10 ** prng.integer(-6, 3);
        const values = Array.from({ length: headDim }, () =>
          Math.fround((prng.uniform() - 0.5) * (prng.uniform() < 0.02 ? 0 : size)),
        );
        source.write(sourceStart + token, layer, which, head, values);
      });
      const expected = new Side(device, to, toSize, heads, [...target.place.blocks]);
      expected.host.bytes.fill(0xa5);
      vectors((token, layer, which, head) =>
        expected.write(
          targetStart + token,
          layer + 1,
          which,
          head,
          source.read(sourceStart + token, layer, which, head),
        ),
      );
      stream.moveKv(target.place, source.place, range);
      await stream.wait();
      const wrong = target.host.bytes.findIndex((byte, i) => byte !== expected.host.bytes[i]);
      expect(wrong, `seed ${seed}: first wrong byte`).toBe(-1);
      for (const { host } of [source, target, expected]) device.releaseHost(host);
    }
  });

  it('what is not finite comes back as such', async () => {
    for (const to of ['i8', 'fp8'] as const) {
      const source = new Side(device, 'f32', 16, { first: 0, count: 1 }, [0]);
      const [packed, back] = [
        new Side(device, to, 16, { first: 0, count: 1 }, [0]),
        new Side(device, 'f32', 16, { first: 0, count: 1 }, [0]),
      ];
      source.write(
        3,
        0,
        0,
        0,
        Array.from({ length: headDim }, (_, i) => (i === 5 ? Number.NaN : 1)),
      );
      const range = {
        targetStart: 0,
        sourceStart: 0,
        tokenCount: 16,
        targetLayer: 0,
        sourceLayer: 0,
        layerCount: 1,
        firstHead: 0,
        headCount: 1,
        headDim,
      };
      stream.moveKv(packed.place, source.place, range);
      stream.moveKv(back.place, packed.place, range);
      await stream.wait();
      expect(back.read(3, 0, 0, 0).every(Number.isNaN)).toBe(true);
      expect(back.read(2, 0, 0, 0).every((value) => value === 0)).toBe(true);
    }
  });

  it('refuses heads that are not there and too few blocks', () => {
    const [a, b] = [
      new Side(device, 'f32', 16, { first: 0, count: 2 }, [0]),
      new Side(device, 'f32', 16, { first: 0, count: 4 }, [0]),
    ];
    const range = {
      targetStart: 0,
      sourceStart: 0,
      tokenCount: 16,
      targetLayer: 0,
      sourceLayer: 0,
      layerCount: 1,
      firstHead: 1,
      headCount: 2,
      headDim,
    };
    expect(() => stream.moveKv(a.place, b.place, range)).toThrow(/heads 1\.\.3 of a target with 0\.\.2/);
    expect(() => stream.moveKv(a.place, b.place, { ...range, headCount: 1, sourceStart: 1 })).toThrow(
      /1 blocks/,
    );
  });
});
