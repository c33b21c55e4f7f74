/** Paged attention: against float64, against the scalar oracle bit for bit, and invariant I3: a row's bits
 *  are the same in any batch, chunking and thread count, as prefill or as decode. */
import { afterEach, describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import type { BatchView, Isa, KvLayerView } from '../../src/device/device.js';
import type { Pointer } from '../../src/device/tensor.js';
import { fromBf16, fromF16, toBf16, toF16 } from './halves.js';
import { expectSameBits } from './same-bits.js';
import { availableIsas, Bench, expectClose } from './tensors.js';

interface Case {
  readonly headDim: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly blockTokens: number;
  readonly dtype: 'f32' | 'bf16' | 'f16';
  readonly window: number;
  readonly softcap: number;
}

/** Head dims with and without a half group of lanes, groups of 1 to 100 query heads, every dtype, windows
 *  around the tile of 64. */
const cases: readonly Case[] = [
  { headDim: 64, heads: 4, kvHeads: 2, blockTokens: 16, dtype: 'f32', window: 0, softcap: 0 },
  { headDim: 128, heads: 4, kvHeads: 1, blockTokens: 16, dtype: 'bf16', window: 0, softcap: 0 },
  { headDim: 8, heads: 2, kvHeads: 2, blockTokens: 8, dtype: 'f16', window: 0, softcap: 0 },
  { headDim: 96, heads: 6, kvHeads: 2, blockTokens: 64, dtype: 'f32', window: 40, softcap: 0 },
  { headDim: 256, heads: 4, kvHeads: 2, blockTokens: 256, dtype: 'bf16', window: 0, softcap: 50 },
  { headDim: 72, heads: 3, kvHeads: 3, blockTokens: 32, dtype: 'f16', window: 100, softcap: 30 },
  { headDim: 64, heads: 14, kvHeads: 2, blockTokens: 16, dtype: 'bf16', window: 1, softcap: 0 },
  { headDim: 24, heads: 1, kvHeads: 1, blockTokens: 8, dtype: 'f32', window: 64, softcap: 0 },
  { headDim: 16, heads: 100, kvHeads: 1, blockTokens: 16, dtype: 'bf16', window: 0, softcap: 0 },
];
const describeCase = (c: Case): string =>
  `head_dim ${c.headDim}, heads ${c.heads}/${c.kvHeads}, blocks of ${c.blockTokens}, ${c.dtype}, window ${c.window}, softcap ${c.softcap}`;

/** Keys held and query tokens of each sequence: whole prefills, chunks, decodes, an empty one. */
const sequences = [
  { kvCount: 130, queryCount: 130 },
  { kvCount: 1, queryCount: 1 },
  { kvCount: 64, queryCount: 1 },
  { kvCount: 65, queryCount: 3 },
  { kvCount: 0, queryCount: 2 },
  { kvCount: 150, queryCount: 64 },
  { kvCount: 201, queryCount: 1 },
];
const paddingRows = 2;
const sum = (counts: readonly number[]): number => counts.reduce((total, count) => total + count, 0);
const rowCount = sum(sequences.map((s) => s.queryCount)) + paddingRows;

const open: Bench[] = [];
const benchOf = (isa: Isa, threadCount: number): Bench => {
  const made = new Bench({ isa, threadCount });
  open.push(made);
  return made;
};
afterEach(() => {
  for (const made of open.splice(0)) made.close();
});

/** A filled cache, all else in it not-a-number, with blocks in random order, and queries in rows wider than
 *  the heads. */
class World {
  readonly stride: number;
  readonly tableStride: number;
  readonly table: number[];
  readonly queries: Float32Array;
  readonly cache: Float32Array | Uint16Array;
  readonly #halfBlock: number;
  #reference: Float64Array | undefined;

  constructor(readonly shape: Case) {
    const { headDim, heads, kvHeads, blockTokens, dtype } = shape;
    const prng = new Prng(headDim * 31 + heads);
    this.stride = heads * headDim + 8;
    this.queries = Float32Array.from({ length: rowCount * this.stride }, () => prng.normal());
    const blockCounts = sequences.map((s) => Math.ceil(s.kvCount / blockTokens));
    this.tableStride = Math.max(...blockCounts) + 1;
    const order = Array.from({ length: sum(blockCounts) + 1 }, (_, i) => ({ i, key: prng.uniform() })).sort(
      (a, b) => a.key - b.key,
    );
    this.table = blockCounts.flatMap((count) =>
      Array.from({ length: this.tableStride }, (_, b) => (b < count ? order.pop()!.i : -1)),
    );
    this.#halfBlock = kvHeads * blockTokens * headDim;
    const elements = (sum(blockCounts) + 1) * this.#halfBlock * 2;
    this.cache =
      dtype === 'f32' ? new Float32Array(elements).fill(Number.NaN) : new Uint16Array(elements).fill(0xffff);
    const encode = { f32: (v: number) => v, bf16: toBf16, f16: toF16 }[dtype];
    for (const [s, { kvCount }] of sequences.entries()) {
      for (let key = 0; key < kvCount; key++) {
        for (let head = 0; head < kvHeads; head++) {
          for (const part of [0, 1] as const) {
            const at = this.#at(s, head, key, part);
            for (let d = 0; d < headDim; d++)
              this.cache[at + d] = encode(prng.normal() * (part === 0 ? 2 : 1));
          }
        }
      }
    }
  }

  #at(sequence: number, head: number, key: number, part: 0 | 1): number {
    const { blockTokens, headDim } = this.shape;
    const block = this.table[sequence * this.tableStride + Math.floor(key / blockTokens)]!;
    return (2 * block + part) * this.#halfBlock + (head * blockTokens + (key % blockTokens)) * headDim;
  }

  #row(sequence: number, head: number, key: number, part: 0 | 1): Float64Array {
    const at = this.#at(sequence, head, key, part);
    const decode = { f32: (v: number) => v, bf16: fromBf16, f16: fromF16 }[this.shape.dtype];
    return Float64Array.from({ length: this.shape.headDim }, (_, d) => decode(this.cache[at + d]!));
  }

  /** Attention by its definition, in float64; rows of empty sequences and padding are zero. */
  reference(): Float64Array {
    this.#reference ??= this.#computeReference();
    return this.#reference;
  }

  #computeReference(): Float64Array {
    const { headDim, heads, kvHeads, window, softcap } = this.shape;
    const out = new Float64Array(rowCount * heads * headDim);
    let first = 0;
    for (const [s, { kvCount, queryCount }] of sequences.entries()) {
      for (let head = 0; head < heads && kvCount > 0; head++) {
        const kvHead = Math.floor(head / (heads / kvHeads));
        const keys = Array.from({ length: kvCount }, (_, key) => this.#row(s, kvHead, key, 0));
        const values = Array.from({ length: kvCount }, (_, key) => this.#row(s, kvHead, key, 1));
        for (let i = 0; i < queryCount; i++) {
          const position = kvCount - queryCount + i;
          const start = window > 0 ? Math.max(0, position - window + 1) : 0;
          const q = this.queries.subarray((first + i) * this.stride + head * headDim);
          const scores = keys.slice(start, position + 1).map((key) => {
            const scaled = key.reduce((dot, k, d) => dot + k * q[d]!, 0) / Math.sqrt(headDim);
            return softcap > 0 ? softcap * Math.tanh(scaled / softcap) : scaled;
          });
          const most = Math.max(...scores);
          const weights = scores.map((score) => Math.exp(score - most));
          const total = sum(weights);
          const at = ((first + i) * heads + head) * headDim;
          for (const [j, weight] of weights.entries()) {
            for (let d = 0; d < headDim; d++) out[at + d]! += (weight / total) * values[start + j]![d]!;
          }
        }
      }
      first += queryCount;
    }
    return out;
  }
}

interface Part {
  readonly sequence: number;
  readonly kvCount: number;
  readonly queryCount: number;
  readonly firstRow: number;
}
const wholeBatch = (): Part[] => {
  let firstRow = 0;
  return sequences.map(({ kvCount, queryCount }, sequence) => {
    firstRow += queryCount;
    return { sequence, kvCount, queryCount, firstRow: firstRow - queryCount };
  });
};

/** Runs parts of the world as one batch; gives out [rows of the parts and padding][heads * headDim]. */
class Runner {
  readonly #bench: Bench;
  readonly #layer: KvLayerView;

  constructor(
    isa: Isa,
    threads: number,
    readonly world: World,
  ) {
    const { headDim, kvHeads, blockTokens, dtype } = world.shape;
    const bench = benchOf(isa, threads);
    const cache = dtype === 'f32' ? bench.f32(world.cache) : bench.u16(world.cache, dtype);
    const halfBytes = kvHeads * blockTokens * headDim * (dtype === 'f32' ? 4 : 2);
    this.#bench = bench;
    this.#layer = {
      base: cache.pointer,
      blockBytes: 2 * halfBytes,
      keyOffset: 0,
      valueOffset: halfBytes,
      dtype,
      blockTokenCount: blockTokens,
      kvHeadCount: kvHeads,
      headDim,
      blockCount: world.cache.length / (2 * kvHeads * blockTokens * headDim),
    };
  }

  async run(parts: readonly Part[], padding = 0): Promise<Float32Array> {
    const { world } = this;
    const { heads, headDim, window, softcap, blockTokens } = world.shape;
    const queryRows = parts.flatMap((part) =>
      Array.from({ length: part.queryCount }, (_, i) => part.firstRow + i),
    );
    const rows = queryRows.length + padding;
    const queries = new Float32Array(rows * world.stride).fill(Number.NaN);
    for (const [row, from] of queryRows.entries()) {
      queries.set(world.queries.subarray(from * world.stride, (from + 1) * world.stride), row * world.stride);
    }
    const starts = [0];
    for (const part of parts) starts.push(starts.at(-1)! + part.queryCount);
    const tables = parts.flatMap((part) => {
      // blocks wholly before this key are gone
      const left = window > 0 ? part.kvCount - part.queryCount - window + 1 : 0;
      const table = world.table.slice(
        part.sequence * world.tableStride,
        (part.sequence + 1) * world.tableStride,
      );
      return table.map((block, b) => ((b + 1) * blockTokens <= left ? -1 : block));
    });
    const bench = this.#bench;
    const batch: BatchView = {
      rowCount: rows,
      sequenceCount: parts.length,
      blockTableStride: world.tableStride,
      queryCountMax: Math.max(...parts.map((part) => part.queryCount)),
      kvCountMax: Math.max(...parts.map((part) => part.kvCount)),
      positions: 0 as Pointer,
      slots: 0 as Pointer,
      queryStart: bench.i32(starts).pointer,
      kvCount: bench.i32(parts.map((part) => part.kvCount)).pointer,
      blockTable: bench.i32(tables).pointer,
    };
    const out = bench.poisoned([rows, heads * headDim]);
    const options = { headCount: heads, scale: 1 / Math.sqrt(headDim), window, softcap };
    bench.stream.ops.pagedAttention(
      out,
      bench.f32(queries, [rows, world.stride]),
      this.#layer,
      batch,
      options,
    );
    await bench.stream.wait();
    return bench.floats(out).slice(0, rows * heads * headDim);
  }
}

const worlds = cases.map((c) => [describeCase(c), new World(c)] as const);

describe.each(availableIsas())('paged attention on %s', (isa) => {
  it.each(worlds)('%s', async (_, world) => {
    const { shape } = world;
    const whole = await new Runner(isa, 1, world).run(wholeBatch(), paddingRows);
    expectClose(whole, world.reference(), 2e-5, 2e-5);
    if (isa !== 'scalar')
      expectSameBits(whole, await new Runner('scalar', 2, world).run(wholeBatch(), paddingRows));

    const runner = new Runner(isa, 2, world);
    const width = shape.heads * shape.headDim;
    for (const part of wholeBatch().filter((p) => p.kvCount > 0)) {
      for (const chunk of [1, 16, 37]) {
        for (let row = 0; row < part.queryCount; row += chunk) {
          if (chunk === 1 && row % 9 !== 0 && row !== part.queryCount - 1) continue;
          const queryCount = Math.min(chunk, part.queryCount - row);
          const kvCount = part.kvCount - part.queryCount + row + queryCount;
          const alone = await runner.run([{ ...part, kvCount, queryCount, firstRow: part.firstRow + row }]);
          const firstRow = part.firstRow + row;
          expectSameBits(alone, whole.slice(firstRow * width, (firstRow + queryCount) * width));
        }
      }
    }
  });
});

describe('paged attention', () => {
  it('refuses shapes it cannot compute', async () => {
    const [first] = cases;
    for (const wrong of [{ headDim: 12 }, { headDim: 264 }]) {
      const runner = new Runner('auto', 1, new World({ ...first!, ...wrong }));
      await expect(runner.run([wholeBatch()[1]!])).rejects.toThrow(/head_dim/);
    }
  });
});
