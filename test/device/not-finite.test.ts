/** What is no number, and ids that point nowhere: each costs its own row alone, on every instruction set. The
 *  contract is native/pd.h's. */
import { afterAll, describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { type BatchView, type KvLayerView, tokenForbidden, tokenNotFinite } from '../../src/device/device.js';
import { plainMatrix } from '../../src/device/stored-matrix.js';
import type { Tensor } from '../../src/device/tensor.js';
import { type Row, sample } from './sample-rows.js';
import { availableIsas, Bench } from './tensors.js';

function normals(count: number, seed: number, scale = 1): Float32Array {
  const prng = new Prng(seed);
  return Float32Array.from({ length: count }, () => prng.normal() * scale);
}

const isNaNs = (values: Float32Array) => values.every(Number.isNaN);
const empty = new Array(20).fill(-1);

/** Every way of choosing a token. */
const ways: readonly (readonly [string, Row])[] = [
  ['greedy', {}],
  ['temperature', { temperature: 1 }],
  ['top-k', { temperature: 1, topK: 5 }],
  ['top-p', { temperature: 1, topP: 0.8 }],
  ['min-p', { temperature: 1, minP: 0.1 }],
  [
    'penalties',
    { temperature: 1, repetition: 1.2, presence: 0.4, frequency: 0.2, prompt: [1, 2], output: [3] },
  ],
  ['bias', { bias: [[3, 5]] }],
  ['mask', { allowed: [0, 1, 2, 3, 4, 5] }],
  ['target', { target: 4 }],
];

describe.each(availableIsas())('on %s', (isa) => {
  const b = new Bench({ isa, threadCount: isa === 'scalar' ? 1 : 2 });
  afterAll(() => b.close());

  describe('sample', () => {
    it.each(ways)(
      'tells logits that are not numbers, and its neighbours draw as before (%s)',
      async (_, way) => {
        for (const vocab of [7, 64, 1000, 5003]) {
          const clean = normals(4 * vocab, vocab);
          const rows: Row[] = [
            { topCount: 3, slot: 0 },
            { ...way, topCount: 3, slot: 1 },
            { temperature: 1, slot: 2 },
            { ...way, slot: 3 },
          ];
          const expected = await sample(b, b.f32(clean, [4, vocab]), rows);
          for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
            for (const place of [0, 5, vocab >> 1, vocab - 1]) {
              const logits = clean.slice();
              logits[vocab + place] = bad;
              const got = await sample(b, b.f32(logits, [4, vocab]), rows);
              expect(got.tokens, `${bad} at ${place} of ${vocab}`).toEqual(
                expected.tokens.with(1, tokenNotFinite),
              );
              // a step that runs already reads a token
              expect(got.lastTokens).toEqual(expected.lastTokens.with(1, 0));
              expect(got.logprobs).toEqual(expected.logprobs.with(1, Number.NEGATIVE_INFINITY));
              expect(got.topIds).toEqual(expected.topIds.with(1, empty));
            }
          }
          const logits = clean.slice().fill(Number.NEGATIVE_INFINITY, vocab, 2 * vocab);
          expect((await sample(b, b.f32(logits, [4, vocab]), rows)).tokens).toEqual(
            expected.tokens.with(1, tokenNotFinite),
          );
        }
      },
    );

    it('minus infinity alone is no error: it forbids', async () => {
      const logits = normals(300, 2).fill(Number.NEGATIVE_INFINITY, 10, 300);
      for (const [name, way] of ways) {
        const [token] = (await sample(b, b.f32(logits, [1, 300]), [way])).tokens;
        expect(token, name).toBeGreaterThanOrEqual(0);
        expect(token, name).toBeLessThan(10);
      }
      const nothing = await sample(b, b.f32(logits, [1, 300]), [{ allowed: [200], slot: 0 }]);
      expect(nothing.tokens).toEqual([tokenForbidden]);
      expect(nothing.lastTokens).toEqual([0]);
    });

    it('leaves out ids outside the vocabulary', async () => {
      const logits = b.f32(normals(10, 1), [1, 10]);
      const plain: Row = { temperature: 0.7, repetition: 2, output: [4], bias: [[3, 2]] };
      const stray: Row = {
        ...plain,
        output: [10, 4, -1, 2 ** 31 - 1],
        bias: [
          [-5, 9],
          [3, 2],
          [10, 9],
        ],
      };
      expect(await sample(b, logits, [stray])).toEqual(await sample(b, logits, [plain]));
      expect((await sample(b, logits, [{ target: 10 }])).tokens).toEqual([tokenForbidden]);
    });
  });

  it('a router row without numbers takes experts that exist, with weights that are none', async () => {
    for (const [experts, topK] of [
      [8, 2],
      [128, 8],
      [33, 33],
    ] as const) {
      const clean = normals(5 * experts, experts);
      const route = async (logits: Float32Array) => {
        const [ids, weights] = [b.poisoned([5, topK], 'i32'), b.poisoned([5, topK])];
        b.stream.ops.moeRoute(ids, weights, b.f32(logits, [5, experts]), 5, 'topk');
        await b.stream.wait();
        return {
          ids: [...b.integers(ids)].slice(0, 5 * topK),
          weights: b.floats(weights).slice(0, 5 * topK),
        };
      };
      const expected = await route(clean);
      const spoilt: readonly ((row: Float32Array) => void)[] = [
        (row) => row.fill(Number.NaN),
        (row) => row.fill(Number.NaN, 0, 1),
        (row) => row.fill(Number.NaN, experts - 1),
        (row) => row.fill(Number.POSITIVE_INFINITY, 3, 4),
        (row) => row.fill(Number.NEGATIVE_INFINITY),
      ];
      for (const spoil of spoilt) {
        const logits = clean.slice();
        spoil(logits.subarray(2 * experts, 3 * experts));
        const got = await route(logits);
        expect(got.ids.slice(2 * topK, 3 * topK)).toEqual(Array.from({ length: topK }, (_, j) => j));
        expect(isNaNs(got.weights.slice(2 * topK, 3 * topK))).toBe(true);
        for (const rows of [
          [0, 2],
          [3, 5],
        ] as const) {
          expect(got.ids.slice(rows[0] * topK, rows[1] * topK)).toEqual(
            expected.ids.slice(rows[0] * topK, rows[1] * topK),
          );
          expect(got.weights.slice(rows[0] * topK, rows[1] * topK)).toEqual(
            expected.weights.slice(rows[0] * topK, rows[1] * topK),
          );
        }
      }
    }
  });

  it('expert ids outside are clamped', async () => {
    const weight = b.device.createWeight({ count: 3, n: 5, k: 8 }, 'f32');
    for (let index = 0; index < 3; index++) {
      const source = plainMatrix(b.f32(normals(40, index)).pointer, 'f32', 5, 8);
      b.stream.fillWeight(weight, { index, firstRow: 0, rowCount: 5 }, source);
    }
    const x = b.f32(normals(32, 9), [4, 8]);
    const multiply = async (ids: readonly number[]) => {
      const out = b.poisoned([4, 5]);
      b.stream.ops.moeLinear(out, x, weight, b.i32(ids, [4, 1]), 4, 1);
      await b.stream.wait();
      return b.floats(out).slice(0, 20);
    };
    expect(await multiply([3, -1, 2 ** 31 - 1, 1])).toEqual(await multiply([2, 0, 2, 1]));
    b.device.destroyWeight(weight);
  });

  it('token ids and row indices outside make the row NaN', async () => {
    const table = b.f32(normals(18, 1), [3, 6]);
    const out = b.poisoned([6, 6]);
    b.floats(out).fill(1);
    b.stream.ops.embedding(
      out,
      table,
      b.i32([2, 3, -1, -2, 2 ** 31 - 1, 0]).pointer,
      b.i32([1, -7]).pointer,
      6,
      1,
    );
    const picked = b.poisoned([5, 6]);
    b.floats(picked).fill(1);
    b.stream.ops.gatherRows(picked, table, b.i32([0, 3, -1, 2, -(2 ** 31)]).pointer, 5);
    await b.stream.wait();
    const rowOf = (tensor: Tensor, row: number) => b.floats(tensor).slice(row * 6, row * 6 + 6);
    for (const [row, id] of [
      [0, 2],
      [2, 1],
      [5, 0],
    ] as const)
      expect(rowOf(out, row)).toEqual(rowOf(table, id));
    for (const row of [1, 3, 4]) expect(isNaNs(rowOf(out, row))).toBe(true);
    for (const [row, index] of [
      [0, 0],
      [3, 2],
    ] as const)
      expect(rowOf(picked, row)).toEqual(rowOf(table, index));
    for (const row of [1, 2, 4]) expect(isNaNs(rowOf(picked, row))).toBe(true);
  });

  it('slots and blocks outside the cache are neither written nor read, positions are clamped', async () => {
    const [headDim, blockTokenCount, blockCount] = [8, 8, 2];
    const half = blockTokenCount * headDim;
    // two blocks behind the cache show stray writes
    const cache = b.f32(new Float32Array(2 * half * (blockCount + 2)).fill(7));
    const layer: KvLayerView = {
      base: cache.pointer,
      blockBytes: 8 * half,
      keyOffset: 0,
      valueOffset: 4 * half,
      dtype: 'f32',
      blockTokenCount,
      kvHeadCount: 1,
      headDim,
      blockCount,
    };
    const rope = b.f32(normals(5 * headDim, 3), [5, headDim]);
    const store = async (
      positions: readonly number[],
      slots: readonly number[],
      table: readonly number[],
    ) => {
      b.floats(cache).fill(7);
      const qkv = b.f32(normals(3 * 3 * headDim, 4), [3, 3 * headDim]);
      const batch: BatchView = {
        rowCount: 3,
        sequenceCount: 3,
        blockTableStride: 2,
        queryCountMax: 1,
        kvCountMax: 9,
        positions: b.i32(positions).pointer,
        slots: b.i32(slots).pointer,
        queryStart: b.i32([0, 1, 2, 3]).pointer,
        kvCount: b.i32([1, 9, 1]).pointer,
        blockTable: b.i32(table).pointer,
      };
      const out = b.poisoned([3, headDim]);
      b.stream.ops.ropeStore(qkv, layer, batch, {
        headCount: 1,
        queryNorm: null,
        keyNorm: null,
        eps: 1e-6,
        rope,
      });
      b.stream.ops.pagedAttention(out, qkv, layer, batch, { headCount: 1, scale: 1, window: 0, softcap: 0 });
      await b.stream.wait();
      return { cache: b.floats(cache).slice(), out: b.floats(out).slice(0, 3 * headDim) };
    };
    const expected = await store([0, 4, 0], [0, -1, 8], [0, -1, 1, -1, 1, -1]);
    const strayed = await store(
      [-9, 2 ** 31 - 1, 0],
      [0, blockCount * blockTokenCount, 8],
      [0, -1, 1, blockCount, 1, -1],
    );
    expect(strayed.cache).toEqual(expected.cache);
    expect(strayed.out.slice(0, headDim)).toEqual(expected.out.slice(0, headDim));
    expect(strayed.out.slice(2 * headDim)).toEqual(expected.out.slice(2 * headDim));
    expect(
      (await store([0, 4, 0], [0, -1, 2 ** 31 - 1], [0, -1, 1, -1, 2 ** 30, -1])).cache.slice(4 * half),
    ).toEqual(new Float32Array(4 * half).fill(7));
  });

  it.each(['f32', 'bf16', 'i8'] as const)(
    'a row of NaN or infinity stays in its row of a product with %s weights',
    async (format) => {
      for (const rows of [3, 20]) {
        const [k, n] = [70, 33];
        const weight = b.device.createWeight({ n, k }, format);
        const source = plainMatrix(b.f32(normals(n * k, 1)).pointer, 'f32', n, k);
        b.stream.fillWeight(weight, { index: 0, firstRow: 0, rowCount: n }, source);
        const multiply = async (x: Float32Array) => {
          const out = b.poisoned([rows, n]);
          b.stream.ops.linear(out, b.f32(x, [rows, k]), weight, null, rows);
          await b.stream.wait();
          return b.floats(out).slice(0, rows * n);
        };
        const clean = normals(rows * k, 2);
        const expected = await multiply(clean);
        for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
          const x = clean.slice();
          x[k + 69] = bad;
          const got = await multiply(x);
          expect(got.slice(n, 2 * n).some(Number.isFinite)).toBe(false);
          expect(got.slice(0, n)).toEqual(expected.slice(0, n));
          expect(got.slice(2 * n)).toEqual(expected.slice(2 * n));
        }
        b.device.destroyWeight(weight);
      }
    },
  );

  it('a softcap does not make numbers of infinity', async () => {
    const x = b.f32([1, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e30, -3]);
    b.stream.ops.softcap({ ...x, shape: [1, 6] }, 1, 15);
    await b.stream.wait();
    expect([...b.floats(x)].map(Number.isFinite)).toEqual([true, false, false, false, true, true]);
  });
});
