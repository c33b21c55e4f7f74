/** Packed weights, linear and MoE linear: against float64, against the scalar oracle bit for bit, and row by
 *  row for invariant I3. */
import { afterEach, describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import type { Isa, Weight } from '../../src/device/device.js';
import type { Dtype } from '../../src/device/dtype.js';
import { plainMatrix } from '../../src/device/stored-matrix.js';
import type { Tensor } from '../../src/device/tensor.js';
import { fromBf16, toBf16, toF16 } from './halves.js';
import { expectSameBits } from './same-bits.js';
import { availableIsas, Bench, expectClose } from './tensors.js';

const isas = availableIsas();
const formats = ['f32', 'bf16', 'i8'] as const;
type Format = (typeof formats)[number];
/** rows, n, k: single elements, edges of tiles (12, 6, 4 rows), panels (32 columns), units (2, 4 of k) and
 *  passes (256 units). */
const shapes = [
  [1, 1, 1],
  [3, 17, 33],
  [7, 33, 66],
  [13, 100, 131],
  [25, 65, 1031],
  [2, 64, 2048],
  [70, 40, 300],
] as const;

const open: Bench[] = [];
const benchOf = (isa: Isa, threadCount = 2): Bench => {
  const made = new Bench({ isa, threadCount });
  open.push(made);
  return made;
};
afterEach(() => {
  for (const made of open.splice(0)) made.close();
});

const normals = (count: number, seed: number): Float32Array => {
  const prng = new Prng(seed);
  return Float32Array.from({ length: count }, () => prng.normal());
};

const roundToEven = (x: number): number => {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
};

/** Symmetric int8 of each row of k, back in real numbers, as weights and activations are quantised. */
function quantised(values: Float32Array, k: number): Float64Array {
  const out = new Float64Array(values.length);
  for (let start = 0; start < values.length; start += k) {
    const row = values.subarray(start, start + k);
    const largest = row.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const [scale, inverse] = [Math.fround(largest / 127), Math.fround(127 / largest)];
    row.forEach((x, i) => {
      out[start + i] = roundToEven(Math.fround(x * inverse)) * scale;
    });
  }
  return out;
}

/** What the kernel multiplies: the stored weight, and the activation in the kernel's number format. */
function operands(
  format: Format,
  isaName: string,
  x: Float32Array,
  w: Float32Array,
  k: number,
): [ArrayLike<number>, ArrayLike<number>] {
  if (format === 'f32') return [x, w];
  if (format === 'i8') return [quantised(x, k), quantised(w, k)];
  const roundsActivations = isaName.includes('bf16');
  return [
    roundsActivations ? x.map((value) => fromBf16(toBf16(value))) : x,
    w.map((value) => fromBf16(toBf16(value))),
  ];
}

function reference(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  bias: Float32Array,
  rows: number,
  n: number,
  k: number,
): Float64Array {
  const out = new Float64Array(rows * n);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < n; c++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += (x[r * k + i] as number) * (w[c * k + i] as number);
      out[r * n + c] = sum + (bias[c] as number);
    }
  }
  return out;
}

function weightOf(bench: Bench, format: Dtype, values: Float32Array, n: number, k: number): Weight {
  const weight = bench.device.createWeight({ n, k }, format);
  const source = bench.f32(values, [n, k]);
  bench.stream.fillWeight(
    weight,
    { index: 0, firstRow: 0, rowCount: n },
    plainMatrix(source.pointer, 'f32', n, k),
  );
  return weight;
}

async function multiply(
  bench: Bench,
  weight: Weight,
  x: Float32Array,
  bias: Float32Array | null = null,
): Promise<Float32Array> {
  const rows = x.length / weight.k;
  const out = bench.poisoned([rows, weight.n]);
  bench.stream.ops.linear(
    out,
    bench.f32(x, [rows, weight.k]),
    weight,
    bias === null ? null : bench.f32(bias),
    rows,
  );
  await bench.stream.wait();
  return bench.floats(out).slice(0, rows * weight.n);
}

describe.each(isas)('linear on %s', (isa) => {
  it.each(formats)('%s is the product in float64, and the oracle’s to the bit', async (format) => {
    const [bench, oracle] = [benchOf(isa), benchOf('scalar')];
    for (const [rows, n, k] of shapes) {
      const [x, w, bias] = [normals(rows * k, 1), normals(n * k, 2), normals(n, 3)];
      const actual = await multiply(bench, weightOf(bench, format, w, n, k), x, bias);
      const [xs, ws] = operands(format, bench.device.info.isa, x, w, k);
      expectClose(actual, reference(xs, ws, bias, rows, n, k), 1e-5, 4e-6 * Math.sqrt(k));
      if (format === 'bf16' && bench.device.info.isa.includes('bf16')) continue; // its dot product rounds in another order
      expectSameBits(actual, await multiply(oracle, weightOf(oracle, format, w, n, k), x, bias));
    }
  });

  it.each(formats)(
    '%s gives a row the same bits alone, in any batch and on any number of threads',
    async (format) => {
      const [rows, n, k] = [64, 97, 600];
      const [x, w] = [normals(rows * k, 4), normals(n * k, 5)];
      const whole = await multiply(benchOf(isa, 1), weightOf(open.at(-1) as Bench, format, w, n, k), x);
      const bench = benchOf(isa, 2);
      const weight = weightOf(bench, format, w, n, k);
      for (const chunk of [1, 2, 5, 8, 13, 16, 37, 64]) {
        for (let row = 0; row < rows; row += chunk) {
          const part = await multiply(bench, weight, x.subarray(row * k, (row + chunk) * k));
          expectSameBits(part, whole.subarray(row * n, (row + chunk) * n));
          if (chunk === 1) row += 6;
        }
      }
    },
  );

  it('keeps a not-a-number in its own row', async () => {
    const [n, k] = [40, 50];
    const x = normals(3 * k, 6);
    x[k + 7] = Number.NaN;
    for (const format of ['f32', 'bf16'] as const) {
      const bench = benchOf(isa);
      const out = await multiply(bench, weightOf(bench, format, normals(n * k, 7), n, k), x);
      expect(out.every((value, i) => Number.isNaN(value) === (i >= n && i < 2 * n))).toBe(true);
    }
  });
});

describe('weights', () => {
  it.each(formats)(
    '%s: filled in ranges, from any dtype, with strides, is the same matrix',
    async (format) => {
      const bench = benchOf('auto');
      const [n, k, stride] = [75, 45, 64];
      // exact in every dtype
      const plain = normals(n * k, 8).map((value) => fromBf16(toBf16(Math.fround(value)) & 0xfff0));
      const x = normals(5 * k, 9);
      const expected = await multiply(bench, weightOf(bench, format, plain, n, k), x);
      const spread = new Float32Array(n * stride).fill(Number.NaN);
      for (let r = 0; r < n; r++) spread.set(plain.subarray(r * k, (r + 1) * k), r * stride);
      const sources = [
        { dtype: 'f32', tensor: bench.f32(spread) },
        { dtype: 'bf16', tensor: bench.u16(Array.from(spread, toBf16), 'bf16') },
        { dtype: 'f16', tensor: bench.u16(Array.from(spread, toF16), 'f16') },
      ] as const;
      for (const { dtype, tensor } of sources) {
        const weight = bench.device.createWeight({ n, k }, format);
        const bytes = dtype === 'f32' ? 4 : 2;
        for (const [firstRow, end] of [
          [33, 70],
          [0, 33],
          [70, 75],
        ] as const) {
          const pointer = (tensor.pointer + firstRow * stride * bytes) as Tensor['pointer'];
          bench.stream.fillWeight(
            weight,
            { index: 0, firstRow, rowCount: end - firstRow },
            plainMatrix(pointer, dtype, end - firstRow, stride),
          );
        }
        expectSameBits(await multiply(bench, weight, x), expected);
      }
    },
  );

  it('random fill is a function of seed and place, near normal', async () => {
    const [n, k] = [128, 256];
    const identity = new Float32Array(k * k);
    for (let i = 0; i < k; i++) identity[i * k + i] = 1;
    const drawn = async (threads: number, seed: number): Promise<Float32Array> => {
      const bench = benchOf('auto', threads);
      const weight = bench.device.createWeight({ n, k }, 'f32');
      bench.stream.fillWeightRandom(weight, seed, 0.5);
      return multiply(bench, weight, identity);
    };
    const values = await drawn(1, 11);
    expectSameBits(await drawn(2, 11), values);
    expect(await drawn(2, 12)).not.toEqual(values);
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.02);
    expect(Math.abs(Math.sqrt(variance) - 0.5)).toBeLessThan(0.01);
    expect(new Set(values).size).toBeGreaterThan(values.length / 8);
  });

  it('refuses what cannot be', () => {
    const bench = benchOf('auto');
    expect(() => bench.device.createWeight({ n: 4, k: 4 }, 'f16')).toThrow(/format/);
    expect(() => bench.device.createWeight({ n: 4, k: 1 << 18 }, 'i8')).toThrow(/too long/);
    const weight = bench.device.createWeight({ count: 2, n: 4, k: 4 }, 'f32');
    const source = bench.f32(new Float32Array(16));
    const from = plainMatrix(source.pointer, 'f32', 3, 4);
    expect(() => bench.stream.fillWeight(weight, { index: 0, firstRow: 2, rowCount: 3 }, from)).toThrow(
      /out of range/,
    );
    expect(() => bench.stream.fillWeight(weight, { index: 2, firstRow: 0, rowCount: 1 }, from)).toThrow(
      /out of range/,
    );
    expect(() =>
      bench.stream.ops.linear(bench.poisoned([1, 4]), bench.f32([1, 2, 3, 4], [1, 4]), weight, null, 1),
    ).toThrow(/stack/);
    expect(() => bench.stream.fillWeight(weight, { index: 2, firstRow: 0, rowCount: 1 }, from)).toThrow(
      /out of range/,
    );
    expect(() =>
      bench.stream.ops.linear(bench.poisoned([1, 4]), bench.f32([1, 2, 3, 4], [1, 4]), weight, null, 1),
    ).toThrow(/stack/);
  });
});

describe.each(isas)('moe linear on %s', (isa) => {
  it.each(formats)('%s is each pair’s own product, to the bit', async (format) => {
    const [experts, n, k, topK] = [7, 45, 64, 3];
    for (const tokens of [1, 6, 300]) {
      const bench = benchOf(isa);
      const prng = new Prng(tokens);
      const [x, w, pairs] = [normals(tokens * k, 13), normals(experts * n * k, 14), tokens * topK];
      // experts 2, 4, 5 see nobody
      const ids = Int32Array.from({ length: pairs }, () => prng.pick([0, 1, 1, 1, 3, 6]));
      const stack = bench.device.createWeight({ count: experts, n, k }, format);
      const source = bench.f32(w);
      const alone: Weight[] = [];
      for (let e = 0; e < experts; e++) {
        const pointer = (source.pointer + e * n * k * 4) as Tensor['pointer'];
        bench.stream.fillWeight(
          stack,
          { index: e, firstRow: 0, rowCount: n },
          plainMatrix(pointer, 'f32', n, k),
        );
        alone.push(weightOf(bench, format, w.subarray(e * n * k, (e + 1) * n * k), n, k));
      }
      const out = bench.poisoned([pairs, n]);
      bench.stream.ops.moeLinear(
        out,
        bench.f32(x, [tokens, k]),
        stack,
        bench.i32(ids, [tokens, topK]),
        pairs,
        topK,
      );
      await bench.stream.wait();
      const actual = bench.floats(out);
      for (let j = 0; j < pairs; j += tokens > 100 ? 17 : 1) {
        const row = Math.floor(j / topK) * k;
        const expected = await multiply(bench, alone[ids[j] as number] as Weight, x.subarray(row, row + k));
        expectSameBits(actual.slice(j * n, (j + 1) * n), expected);
      }
    }
  });
});
