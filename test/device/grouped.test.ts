/** Weights of 4 to 8 bits as files store them: beside float64 on the values that the file means, against the scalar oracle bit for bit, row by
 *  row for invariant I3, in parts and ranges. The blocks are ggml's own. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { Prng } from '../../src/base/prng.js';
import type { Isa, Weight } from '../../src/device/device.js';
import { type BlockEncoding, type StoredMatrix, storedRowBytes } from '../../src/device/stored-matrix.js';
import type { GroupedFormat } from '../../src/device/weight-format.js';
import { expectSameBits } from './same-bits.js';
import { availableIsas, Bench } from './tensors.js';

const isas = availableIsas();
const open: Bench[] = [];
const benchOf = (isa: Isa, threadCount = 2): Bench => {
  const made = new Bench({ isa, threadCount });
  open.push(made);
  return made;
};
afterEach(() => {
  for (const bench of open.splice(0)) bench.close();
});

const recordings = JSON.parse(
  readFileSync(path.resolve(import.meta.dirname, '../fixtures/ggml/blocks.json'), 'utf8'),
) as Record<BlockEncoding, { readonly rows: number; readonly k: number; readonly blocks: string }>;
const formats: readonly (readonly [BlockEncoding, GroupedFormat])[] = [
  ...([
    ['q4_0', 'q4'],
    ['q4_1', 'q4_min'],
    ['q5_0', 'q5'],
    ['q5_1', 'q5_min'],
    ['q8_0', 'q8'],
  ] as const),
  ...([
    ['q2_k', 'q4_16_min'],
    ['q3_k', 'q4_16'],
    ['q4_k', 'q4_min'],
    ['q5_k', 'q5_min'],
    ['q6_k', 'q6_16'],
  ] as const),
  ...([
    ['iq4_nl', 'iq4'],
    ['iq4_xs', 'iq4'],
    ['mxfp4', 'fp4'],
  ] as const),
];
const k = 512;
const copies = 14; // of three rows: a panel and a part of one

function sourceOf(bench: Bench, encoding: BlockEncoding): StoredMatrix {
  const bytes = Buffer.from(recordings[encoding].blocks, 'base64');
  const host = bench.device.allocateHost(bytes.length);
  host.bytes.set(bytes);
  return { pointer: host.pointer, byteCount: bytes.length, encoding, rowStride: storedRowBytes(encoding, k) };
}

/** Three recorded rows, again and again. */
function fill(bench: Bench, weight: Weight, encoding: BlockEncoding, firstRow: number): void {
  const source = sourceOf(bench, encoding);
  for (let copy = 0; copy < copies; copy++)
    bench.stream.fillWeight(weight, { index: 0, firstRow: firstRow + copy * 3, rowCount: 3 }, source);
}

function weightOf(bench: Bench, encoding: BlockEncoding, format: GroupedFormat): Weight {
  const weight = bench.device.createWeight({ n: copies * 3, k }, format);
  fill(bench, weight, encoding, 0);
  return weight;
}

async function valuesOf(bench: Bench, encoding: BlockEncoding): Promise<Float32Array> {
  const target = bench.poisoned([3, k]);
  bench.stream.readMatrix({ ...target, dtype: 'f32' }, sourceOf(bench, encoding));
  await bench.stream.wait();
  return bench.floats(target).slice(0, 3 * k);
}

function normals(count: number, seed: number): Float32Array {
  const prng = new Prng(seed);
  return Float32Array.from({ length: count }, () => prng.normal());
}

async function multiply(bench: Bench, weight: Weight, x: Float32Array): Promise<Float32Array> {
  const rows = x.length / weight.k;
  const out = bench.poisoned([rows, weight.n]);
  bench.stream.ops.linear(out, bench.f32(x, [rows, weight.k]), weight, null, rows);
  await bench.stream.wait();
  return bench.floats(out).slice(0, rows * weight.n);
}

/** Activations as the kernels round them: int8 for each 32 columns. */
function rounded(x: Float32Array): Float64Array {
  const values = new Float64Array(x.length);
  for (let first = 0; first < x.length; first += 32) {
    const group = x.subarray(first, first + 32);
    const largest = group.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    for (const [i, value] of group.entries()) {
      const q = Math.fround(value * Math.fround(127 / largest));
      const even = Math.abs(q % 1) === 0.5 ? 2 * Math.round(q / 2) : Math.round(q);
      values[first + i] = even * Math.fround(largest / 127);
    }
  }
  return values;
}

describe.each(isas)('grouped weights on %s', (isa) => {
  it.each(formats)(
    '%s as %s are the product of their values, and the oracle’s to the bit',
    async (encoding, format) => {
      const [bench, oracle] = [benchOf(isa), benchOf('scalar')];
      const values = await valuesOf(bench, encoding);
      for (const rows of [1, 3, 8, 13, 30]) {
        const x = normals(rows * k, rows);
        const found = await multiply(bench, weightOf(bench, encoding, format), x);
        const xs = rounded(x);
        for (let r = 0; r < rows; r++) {
          for (let c = 0; c < 3; c++) {
            let [sum, size] = [0, 0];
            for (let i = 0; i < k; i++) {
              const product = at(xs, r * k + i) * at(values, c * k + i);
              sum += product;
              size += Math.abs(product);
            }
            // Scales are kept to 11 bits.
            for (const copy of [0, 5, copies - 1])
              expect(Math.abs(at(found, r * copies * 3 + copy * 3 + c) - sum)).toBeLessThan(size * 2 ** -11);
          }
        }
        expectSameBits(found, await multiply(oracle, weightOf(oracle, encoding, format), x));
      }
    },
  );

  it.each(formats)(
    '%s as %s give a row the same bits in any batch and on any number of threads',
    async (encoding, format) => {
      const rows = 40;
      const x = normals(rows * k, 4);
      const alone = benchOf(isa, 1);
      const whole = await multiply(alone, weightOf(alone, encoding, format), x);
      const bench = benchOf(isa, 2);
      const weight = weightOf(bench, encoding, format);
      for (const chunk of [1, 2, 5, 9, 12, 16]) {
        for (let row = 0; row + chunk <= rows; row += chunk * (chunk < 3 ? 7 : 1)) {
          const part = await multiply(bench, weight, x.subarray(row * k, (row + chunk) * k));
          expectSameBits(part, whole.subarray(row * copies * 3, (row + chunk) * copies * 3));
        }
      }
    },
  );

  it('parts of several formats are each their own', async () => {
    const bench = benchOf(isa);
    const n = copies * 3;
    const parts = [
      { rowCount: 64, format: 'q4_min' },
      { rowCount: 64, format: 'q6_16' },
      { rowCount: n, format: 'q8' },
    ] as const;
    const weight = bench.device.createWeight({ n: 128 + n, k }, parts);
    for (const [i, encoding] of (['q4_k', 'q6_k', 'q8_0'] as const).entries())
      fill(bench, weight, encoding, i * 64);
    const x = normals(5 * k, 6);
    const found = await multiply(bench, weight, x);
    for (const [i, encoding] of (['q4_k', 'q6_k', 'q8_0'] as const).entries()) {
      const own = await multiply(bench, weightOf(bench, encoding, at(parts, i).format), x);
      for (let r = 0; r < 5; r++)
        expectSameBits(
          found.slice(r * (128 + n) + i * 64, r * (128 + n) + i * 64 + n),
          own.slice(r * n, (r + 1) * n),
        );
    }
  });

  it.each([
    ['q4', 1 / 8],
    ['q4_min', 1 / 15],
    ['q5', 1 / 16],
    ['q6_16', 1 / 32],
    ['q8', 1 / 127],
  ] as const)('%s of plain values is near them, edges included', async (format, step) => {
    const [n, odd, bench] = [37, 77, benchOf(isa)];
    const w = normals(n * odd, 8);
    const plain = bench.f32(w, [n, odd]);
    const weight = bench.device.createWeight({ n, k: odd }, format);
    bench.stream.fillWeight(
      weight,
      { index: 0, firstRow: 0, rowCount: n },
      { pointer: plain.pointer, byteCount: n * odd * 4, encoding: 'f32', rowStride: odd },
    );
    // Rows of the identity give the weights back.
    const identity = new Float32Array(odd * odd);
    for (let i = 0; i < odd; i++) identity[i * odd + i] = 1;
    const found = await multiply(bench, weight, identity);
    for (let c = 0; c < n; c++) {
      for (let i = 0; i < odd; i++) {
        const size = format === 'q6_16' ? 16 : 32;
        const group = w.subarray(
          c * odd + Math.floor(i / size) * size,
          Math.min(c * odd + (Math.floor(i / size) + 1) * size, (c + 1) * odd),
        );
        const reach =
          format === 'q4_min'
            ? Math.max(0, ...group) - Math.min(0, ...group)
            : Math.max(...group.map(Math.abs));
        expect(Math.abs(at(found, i * n + c) - at(w, c * odd + i))).toBeLessThan(reach * step * 1.02);
      }
    }
  });

  it('a row of NaN or infinity stays in its row', async () => {
    const bench = benchOf(isa);
    const weight = weightOf(bench, 'q4_k', 'q4_min');
    const x = normals(9 * k, 7);
    [x[2 * k + 5], x[4 * k]] = [Number.NaN, Number.POSITIVE_INFINITY];
    const found = await multiply(bench, weight, x);
    for (let r = 0; r < 9; r++)
      for (let c = 0; c < weight.n; c++)
        expect(Number.isFinite(at(found, r * weight.n + c))).toBe(r !== 2 && r !== 4);
  });
});

describe('grouped weights', () => {
  it('refuse what cannot be', () => {
    const bench = benchOf('auto');
    const create = (parts: readonly { rowCount: number; format: 'q4' | 'f32' | 'iq4' }[], n: number) =>
      bench.device.createWeight({ n, k }, parts);
    expect(() =>
      create(
        [
          { rowCount: 20, format: 'q4' },
          { rowCount: 32, format: 'q4' },
        ],
        52,
      ),
    ).toThrow(/part of 20 rows/);
    expect(() =>
      create(
        [
          { rowCount: 32, format: 'q4' },
          { rowCount: 32, format: 'f32' },
        ],
        64,
      ),
    ).toThrow(/parts of format/);
    const weight = create([{ rowCount: 3, format: 'iq4' }], 3);
    const fillIt = () =>
      bench.stream.fillWeight(weight, { index: 0, firstRow: 0, rowCount: 3 }, sourceOf(bench, 'q4_0'));
    expect(fillIt).toThrow(/from encoding/);
  });
});
