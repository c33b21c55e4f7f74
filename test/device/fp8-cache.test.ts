/** The fp8 KV cache on every instruction set: what is stored lies within half a step of what a float32 cache
 *  holds, and attention over it has the bits of attention over a float32 cache of the stored values. */
import { afterAll, describe, expect, it } from 'vitest';
import type { BatchView, KvLayerView } from '../../src/device/device.js';
import type { Tensor } from '../../src/device/tensor.js';
import { KvLayout } from '../../src/kv/kv-layout.js';
import { availableIsas, Bench } from './tensors.js';

const cases = [
  { headCount: 4, kvHeadCount: 2, headDim: 64, blockTokenCount: 16, window: 0 },
  { headCount: 3, kvHeadCount: 3, headDim: 72, blockTokenCount: 8, window: 40 },
  { headCount: 8, kvHeadCount: 1, headDim: 128, blockTokenCount: 32, window: 0 },
];
const tokenCount = 150;
const blockCount = 23; // odd, so that no two positions share a block
const benches = availableIsas().map((isa) => new Bench({ isa, threadCount: 2 }));
afterAll(() => {
  for (const bench of benches) bench.close();
});

function e4m3(code: number): number {
  const [sign, exponent, mantissa] = [code & 0x80 ? -1 : 1, (code >> 3) & 15, code & 7];
  if ((code & 0x7f) === 0x7f) return Number.NaN;
  return sign * (exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10));
}

const block = (position: number, blockTokenCount: number) => 1 + 2 * Math.floor(position / blockTokenCount);

describe.each(cases)(
  '$headCount heads, $kvHeadCount kv heads of $headDim, blocks of $blockTokenCount, window $window',
  (shape) => {
    const { headCount, kvHeadCount, headDim, blockTokenCount, window } = shape;
    const layoutOf = (dtype: 'f32' | 'fp8') =>
      new KvLayout({ modelName: 'one layer', layerCount: 1, kvHeadCount, headDim, blockTokenCount, dtype });
    const blockOf = (position: number) => block(position, blockTokenCount) % blockCount;

    function batchOf(bench: Bench, queryCount: number, kvCount: number): BatchView {
      const positions = Array.from({ length: queryCount }, (_, i) => kvCount - queryCount + i);
      const slots = positions.map(
        (position) => blockOf(position) * blockTokenCount + (position % blockTokenCount),
      );
      const table = Array.from({ length: Math.ceil(kvCount / blockTokenCount) }, (_, i) =>
        blockOf(i * blockTokenCount),
      );
      return {
        rowCount: queryCount,
        sequenceCount: 1,
        blockTableStride: table.length,
        singleQueryCount: 0,
        queryCountMax: queryCount,
        kvCountMax: kvCount,
        positions: bench.i32(positions).pointer,
        slots: bench.i32(slots).pointer,
        blockTable: bench.i32(table).pointer,
        queryStart: bench.i32([0, queryCount]).pointer,
        kvCount: bench.i32([kvCount]).pointer,
      };
    }

    /** A cache in which the keys and values of all tokens are stored. */
    async function store(bench: Bench, dtype: 'f32' | 'fp8'): Promise<{ cache: Tensor; view: KvLayerView }> {
      const layout = layoutOf(dtype);
      const cache = bench.poisoned([(blockCount * layout.blockBytes) / 4]);
      const view = layout.layerView(cache.pointer, 0, blockCount);
      const width = (headCount + 2 * kvHeadCount) * headDim;
      const qkv = bench.normal([tokenCount, width], 5, 3);
      bench.floats(qkv).fill(0, width - headDim, width); // a value of zeros
      const rope = bench.normal([tokenCount, headDim], 6);
      const options = { headCount, queryNorm: null, keyNorm: null, eps: 1e-6, rope };
      bench.stream.ops.ropeStore(qkv, view, batchOf(bench, tokenCount, tokenCount), options);
      await bench.stream.wait();
      return { cache, view };
    }

    /** The fp8 cache as float32, in the layout of a float32 cache; also every scale. */
    function decode(bench: Bench, cache: Tensor): { values: Float32Array; scales: number[] } {
      const [packed, plain] = [layoutOf('fp8'), layoutOf('f32')];
      const raw = new Uint8Array(bench.floats(cache).buffer, 0, blockCount * packed.blockBytes);
      const values = new Float32Array((blockCount * plain.blockBytes) / 4).fill(Number.NaN);
      const vectorCount = kvHeadCount * blockTokenCount;
      const scales: number[] = [];
      for (let half = 0; half < 2 * blockCount; half++) {
        const start = half * packed.halfLayerBytes;
        for (let vector = 0; vector < vectorCount; vector++) {
          const scale = new DataView(raw.buffer, start + vectorCount * headDim + 4 * vector, 4).getFloat32(
            0,
            true,
          );
          if (!Number.isNaN(scale)) scales.push(scale);
          for (let d = 0; d < headDim; d++) {
            values[(half * vectorCount + vector) * headDim + d] =
              e4m3(raw[start + vector * headDim + d] as number) * scale;
          }
        }
      }
      return { values, scales };
    }

    it('stores within half a step, with scales that are powers of two', async () => {
      for (const bench of benches) {
        const exact = bench.floats((await store(bench, 'f32')).cache);
        const { values, scales } = decode(bench, (await store(bench, 'fp8')).cache);
        expect(scales.every((scale) => Number.isInteger(Math.log2(scale)))).toBe(true);
        for (let first = 0; first < values.length; first += headDim) {
          const row = exact.subarray(first, first + headDim);
          const most = row.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
          for (const [d, value] of row.entries()) {
            const step = Math.max(Math.abs(value) / 16, (most / 224) * 2 ** -10); // half of it
            const stored = values[first + d] as number;
            if (Number.isNaN(value) !== Number.isNaN(stored))
              throw new Error(`[${first + d}]: ${stored} for ${value}`);
            if (Math.abs(stored - value) > step * (1 + 1e-6))
              throw new Error(`[${first + d}]: ${stored} for ${value}`);
          }
        }
      }
    });

    it('attends to the stored values, bit for bit', async () => {
      for (const bench of benches) {
        const { cache, view } = await store(bench, 'fp8');
        const plain = layoutOf('f32').layerView(
          bench.f32(decode(bench, cache).values).pointer,
          0,
          blockCount,
        );
        for (const [queryCount, kvCount] of [
          [tokenCount, tokenCount],
          [30, 100],
          [1, 64],
          [1, 150],
          [1, 1],
        ] as const) {
          const q = bench.normal([queryCount, headCount * headDim], 9);
          const outs = [view, plain].map((layer) => {
            const out = bench.poisoned([queryCount, headCount * headDim]);
            const options = { headCount, scale: headDim ** -0.5, window, softcap: 0 };
            bench.stream.ops.pagedAttention(out, q, layer, batchOf(bench, queryCount, kvCount), options);
            return out;
          });
          await bench.stream.wait();
          const [fromFp8, fromPlain] = outs.map((out) => Array.from(bench.floats(out)));
          expect(fromFp8!.some(Number.isNaN)).toBe(false);
          expect(fromFp8).toEqual(fromPlain);
        }
      }
    });
  },
);
