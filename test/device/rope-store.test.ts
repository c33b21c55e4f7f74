/** QK norm, rotation and the store into the paged cache, against a float64 reference, on every instruction
 *  set. */
import { afterAll, describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import type { BatchView, KvLayerView } from '../../src/device/device.js';
import type { Tensor } from '../../src/device/tensor.js';
import { availableIsas, Bench, expectClose } from './tensors.js';

interface Case {
  readonly headCount: number;
  readonly kvHeadCount: number;
  readonly headDim: number;
  readonly rotary: number;
  readonly dtype: 'f32' | 'bf16' | 'f16';
  readonly norms: 'with norms' | 'without norms';
}

const blockTokenCount = 8;
const blockCount = 6;
const positions = [0, 5, 17, 3, 2];
const slots = [40, 7, 8, -1, 23]; // the fourth row is padding
const eps = 1e-6;

const cases: readonly Case[] = [
  { headCount: 2, kvHeadCount: 1, headDim: 8, rotary: 8, dtype: 'f32', norms: 'without norms' },
  { headCount: 4, kvHeadCount: 2, headDim: 64, rotary: 64, dtype: 'bf16', norms: 'without norms' },
  { headCount: 3, kvHeadCount: 3, headDim: 128, rotary: 128, dtype: 'f16', norms: 'with norms' },
  { headCount: 4, kvHeadCount: 1, headDim: 96, rotary: 24, dtype: 'bf16', norms: 'with norms' },
  { headCount: 1, kvHeadCount: 1, headDim: 40, rotary: 10, dtype: 'f32', norms: 'with norms' },
  { headCount: 2, kvHeadCount: 2, headDim: 256, rotary: 256, dtype: 'f32', norms: 'without norms' },
];

const normals = (count: number, seed: number) => {
  const prng = new Prng(seed);
  return Float32Array.from({ length: count }, () => prng.normal());
};

const benches = availableIsas().map((isa) => new Bench({ isa, threadCount: 2 }));
afterAll(() => {
  for (const b of benches) b.close();
});

/** One head after norm and rotation, in float64. */
function reference(
  head: ArrayLike<number>,
  norm: ArrayLike<number> | null,
  rope: ArrayLike<number>,
): number[] {
  const square = Array.from(head).reduce((sum, v) => sum + v * v, 0) / head.length;
  const x = Array.from(head, (v, i) =>
    norm === null ? v : (v / Math.sqrt(square + eps)) * (norm[i] as number),
  );
  const half = rope.length / 2;
  return x.map((v, i) => {
    if (i >= 2 * half) return v;
    const [cos, sin] = [rope[i % half] as number, rope[half + (i % half)] as number];
    return i < half ? v * cos - (x[i + half] as number) * sin : v * cos + (x[i - half] as number) * sin;
  });
}

describe.each(cases)(
  '$headCount heads, $kvHeadCount kv heads of $headDim, rotary $rotary, $dtype cache, $norms',
  (shape) => {
    const { headCount, kvHeadCount, headDim, rotary, dtype } = shape;
    const width = (headCount + 2 * kvHeadCount) * headDim;
    const bytes = dtype === 'f32' ? 4 : 2;
    const half = kvHeadCount * blockTokenCount * headDim; // elements of K in a block
    const input = normals(positions.length * width, headDim);
    const [queryNorm, keyNorm] = [normals(headDim, 2), normals(headDim, 3)];
    const rope = Float32Array.from({ length: 20 * rotary }, (_, i) => {
      const [position, j] = [Math.floor(i / rotary), i % (rotary / 2)];
      const angle = position / 10000 ** ((2 * j) / rotary);
      return i % rotary < rotary / 2 ? Math.cos(angle) : Math.sin(angle);
    });

    async function run(b: Bench): Promise<{ qkv: Float32Array; cache: Float32Array; raw: Tensor }> {
      const qkv = b.f32(input, [positions.length, width]);
      const blockElements = 2 * half + 16; // a gap after each block shows a stray write
      const cache = b.poisoned([blockCount, blockElements], dtype);
      const layer: KvLayerView = {
        base: cache.pointer,
        blockBytes: blockElements * bytes,
        keyOffset: 0,
        valueOffset: half * bytes,
        dtype,
        blockTokenCount,
        kvHeadCount,
        headDim,
        blockCount,
      };
      const none = b.i32([0]).pointer;
      const batch: BatchView = {
        rowCount: positions.length,
        sequenceCount: 1,
        blockTableStride: 1,
        queryCountMax: positions.length,
        kvCountMax: 20,
        positions: b.i32(positions).pointer,
        slots: b.i32(slots).pointer,
        queryStart: none,
        kvCount: none,
        blockTable: none,
      };
      const normsAre = shape.norms === 'with norms';
      b.stream.ops.ropeStore(qkv, layer, batch, {
        headCount,
        queryNorm: normsAre ? b.f32(queryNorm) : null,
        keyNorm: normsAre ? b.f32(keyNorm) : null,
        eps,
        rope: b.f32(rope, [20, rotary]),
      });
      const widened = b.poisoned([blockCount, blockElements]);
      b.stream.convert(widened.pointer, 'f32', cache.pointer, dtype, blockCount * blockElements);
      await b.stream.wait();
      return { qkv: b.floats(qkv), cache: b.floats(widened), raw: cache };
    }

    it('rotates queries and stores keys and values, and nothing else', async () => {
      const results = await Promise.all(benches.map(run));
      const { qkv, cache } = results[0] as (typeof results)[0];
      for (const other of results.slice(1)) {
        expect(
          Buffer.compare(Buffer.from(other.cache.slice().buffer), Buffer.from(cache.slice().buffer)),
        ).toBe(0);
        expect(other.qkv.slice(0, headCount * headDim)).toEqual(qkv.slice(0, headCount * headDim));
      }
      const blockElements = 2 * half + 16;
      const expected = new Float64Array(cache.length).fill(Number.NaN);
      positions.forEach((position, r) => {
        const row = input.subarray(r * width, (r + 1) * width);
        const turn = rope.subarray(position * rotary, (position + 1) * rotary);
        const slot = slots[r] as number;
        if (slot < 0) return;
        for (let head = 0; head < headCount; head++) {
          const norm = shape.norms === 'with norms' ? queryNorm : null;
          const query = reference(row.subarray(head * headDim, (head + 1) * headDim), norm, turn);
          expectClose(
            qkv.subarray(r * width + head * headDim, r * width + (head + 1) * headDim),
            query,
            3e-6,
            1e-6,
          );
        }
        for (let head = 0; head < kvHeadCount; head++) {
          const at = (headCount + head) * headDim;
          const key = reference(
            row.subarray(at, at + headDim),
            shape.norms === 'with norms' ? keyNorm : null,
            turn,
          );
          const place =
            Math.floor(slot / blockTokenCount) * blockElements +
            (head * blockTokenCount + (slot % blockTokenCount)) * headDim;
          expected.set(key, place);
          expected.set(
            row.subarray(at + kvHeadCount * headDim, at + kvHeadCount * headDim + headDim),
            place + half,
          );
        }
      });
      const relative = { f32: 3e-6, bf16: 2 ** -8, f16: 2 ** -11 }[dtype];
      expectClose(cache, expected, relative + 3e-6, 1e-6);
    });
  },
);
