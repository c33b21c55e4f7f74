/** The small ops: each against a float64 reference, and bit for bit the same on every instruction set and
 *  thread count. */
import { afterAll, describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import type { Isa } from '../../src/device/device.js';
import type { Tensor } from '../../src/device/tensor.js';
import { availableIsas, Bench, expectClose } from './tensors.js';

const isas = availableIsas();
const benches = new Map<Isa, Bench>(
  isas.map((isa) => [isa, new Bench({ isa, threadCount: isa === 'scalar' ? 1 : 2 })]),
);
afterAll(() => {
  for (const b of benches.values()) b.close();
});

function normals(count: number, seed: number, scale = 1): Float32Array {
  const prng = new Prng(seed);
  return Float32Array.from({ length: count }, () => prng.normal() * scale);
}

/** Runs the op on every instruction set; all results must have the same bits. Returns them. */
async function onAll(run: (b: Bench) => Tensor): Promise<Float32Array> {
  let first: Uint8Array | undefined;
  for (const [isa, b] of benches) {
    const out = run(b);
    await b.stream.wait();
    const bytes = new Uint8Array(b.floats(out).slice().buffer);
    first ??= bytes;
    if (Buffer.compare(first, bytes) !== 0) throw new Error(`${isa} differs from ${isas[0]}`);
  }
  return new Float32Array((first as Uint8Array).buffer);
}

const columns = [1, 7, 16, 17, 33, 64, 100, 257, 1024];
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

describe('rmsnorm', () => {
  const norm = (x: ArrayLike<number>, weight: ArrayLike<number>, eps: number) => {
    const square = Array.from(x).reduce((sum, v) => sum + v * v, 0) / x.length;
    return Array.from(x, (v, i) => (v / Math.sqrt(square + eps)) * (weight[i] as number));
  };

  it.each(columns)('%i columns', async (cols) => {
    const rows = 5;
    const [x, weight] = [normals(rows * cols, cols), normals(cols, cols + 1)];
    const got = await onAll((b) => {
      const out = b.poisoned([rows, cols]);
      b.stream.ops.rmsnorm(out, b.f32(x, [rows, cols]), b.f32(weight), rows, 1e-6);
      return out;
    });
    for (let r = 0; r < rows; r++) {
      expectClose(
        got.slice(r * cols, (r + 1) * cols),
        norm(x.subarray(r * cols, (r + 1) * cols), weight, 1e-6),
        2e-6,
        1e-7,
      );
    }
  });

  it.each(columns)('behind a residual addition, in place, %i columns', async (cols) => {
    const rows = 3;
    const [x, residual, weight] = [normals(rows * cols, cols), normals(rows * cols, 2, 3), normals(cols, 3)];
    const sums = Float32Array.from(x, (v, i) => v + (residual[i] as number));
    const kept: Float32Array[] = [];
    const got = await onAll((b) => {
      const [xt, rt] = [b.f32(x, [rows, cols]), b.f32(residual, [rows, cols])];
      b.stream.ops.addRmsnorm(xt, rt, xt, b.f32(weight), rows, 1e-5);
      kept.push(b.floats(rt));
      return xt;
    });
    for (const after of kept) expect(after).toEqual(sums);
    for (let r = 0; r < rows; r++) {
      expectClose(
        got.slice(r * cols, (r + 1) * cols),
        norm(sums.subarray(r * cols, (r + 1) * cols), weight, 1e-5),
        2e-6,
        1e-7,
      );
    }
  });

  it('leaves rows past the given count alone', async () => {
    const got = await onAll((b) => {
      const out = b.poisoned([3, 17]);
      b.stream.ops.rmsnorm(out, b.f32(normals(51, 1), [3, 17]), b.f32(normals(17, 2)), 2, 1e-6);
      return out;
    });
    expect([...got.slice(0, 34)].some(Number.isNaN)).toBe(false);
    expect([...got.slice(34)].every(Number.isNaN)).toBe(true);
  });
});

describe('elementwise', () => {
  const wild = Float32Array.from([
    0, -0, 1e-8, -1e-8, 1e-40, 20, -20, 88, -88, 100, -100, 1e4, -1e4, 0.6249, 0.6251, -0.625,
  ]);

  it.each(columns)('add, %i columns', async (cols) => {
    const [x, y] = [normals(4 * cols, 1), normals(4 * cols, 2)];
    const got = await onAll((b) => {
      const residual = b.f32(y, [4, cols]);
      b.stream.ops.add(residual, b.f32(x, [4, cols]), 3);
      return residual;
    });
    expect([...got.slice(0, 3 * cols)]).toEqual(
      [...x.slice(0, 3 * cols)].map((v, i) => Math.fround(v + (y[i] as number))),
    );
    expect(got.slice(3 * cols)).toEqual(y.slice(3 * cols));
  });

  const activations = {
    silu: (x: number) => x * sigmoid(x),
    gelu_tanh: (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  };
  for (const name of ['silu', 'gelu_tanh'] as const) {
    it.each([...columns, 3000])(`${name} * up, %i columns`, async (inter) => {
      const rows = 3;
      const gateUp = normals(rows * 2 * inter, inter, 2);
      if (inter === 1024) gateUp.set(wild);
      const got = await onAll((b) => {
        const out = b.poisoned([rows, inter]);
        b.stream.ops.actMul(out, b.f32(gateUp, [rows, 2 * inter]), rows, name);
        return out;
      });
      const expected = Array.from({ length: rows * inter }, (_, i) => {
        const at = Math.floor(i / inter) * 2 * inter + (i % inter);
        return activations[name](gateUp[at] as number) * (gateUp[at + inter] as number);
      });
      // tanh near -1 cancels in 1 + tanh: an absolute error of an ulp of 1, times x
      expectClose(got, expected, 1e-6, name === 'silu' ? 1e-30 : 2e-6);
    });
  }

  it.each(columns)('softcap, %i columns', async (cols) => {
    const x = normals(3 * cols, cols, 40);
    if (cols === 64) x.set(wild);
    const got = await onAll((b) => {
      const tensor = b.f32(x, [3, cols]);
      b.stream.ops.softcap(tensor, 3, 30);
      return tensor;
    });
    expectClose(
      got,
      [...x].map((v) => 30 * Math.tanh(v / 30)),
      4e-7,
      1e-42, // v / 30 may be denormal
    );
  });
});

describe('rows', () => {
  it.each(columns)('gather, %i columns', async (cols) => {
    const x = normals(6 * cols, 3);
    const picks = [5, 0, 3, 3];
    const got = await onAll((b) => {
      const out = b.poisoned([5, cols]);
      b.stream.ops.gatherRows(out, b.f32(x, [6, cols]), b.i32(picks).pointer, 4);
      return out;
    });
    picks.forEach((pick, i) => {
      expect(got.slice(i * cols, (i + 1) * cols)).toEqual(x.slice(pick * cols, (pick + 1) * cols));
    });
    expect(got.slice(4 * cols).every(Number.isNaN)).toBe(true);
  });

  it.each(['f32', 'bf16', 'f16'] as const)(
    'embedding from a %s table, tokens of the device included',
    async (dtype) => {
      for (const hidden of [1, 7, 33, 256]) {
        const vocab = 9;
        const [ids, last] = [
          [3, -1, 8, 0, -3],
          [5, 6, 7],
        ];
        const values = normals(vocab * hidden, hidden);
        const rounded: Float32Array[] = [];
        const got = await onAll((b) => {
          const source = b.f32(values, [vocab, hidden]);
          const table = dtype === 'f32' ? source : b.poisoned([vocab, hidden], dtype);
          const widened = b.poisoned([vocab, hidden]);
          if (dtype !== 'f32') b.stream.convert(table.pointer, dtype, source.pointer, 'f32', vocab * hidden);
          b.stream.convert(widened.pointer, 'f32', table.pointer, dtype, vocab * hidden);
          rounded.push(b.floats(widened));
          const out = b.poisoned([5, hidden]);
          b.stream.ops.embedding(out, table, b.i32(ids).pointer, b.i32(last).pointer, 5, 1.5);
          return out;
        });
        const tokens = ids.map((id) => (id >= 0 ? id : (last[-1 - id] as number)));
        const table = rounded[0] as Float32Array;
        const expected = tokens.flatMap((token) =>
          [...table.slice(token * hidden, (token + 1) * hidden)].map((v) => Math.fround(v * 1.5)),
        );
        expect([...got.slice(0, 5 * hidden)]).toEqual(expected);
      }
    },
  );
});

describe('mixture of experts', () => {
  it.each([
    [4, 2],
    [7, 1],
    [60, 4],
    [128, 8],
    [17, 17],
  ])('%i experts, top %i', async (experts, topK) => {
    for (const normalise of ['topk', 'none'] as const) {
      const rows = 9;
      const logits = normals(rows * experts, experts + topK);
      logits.fill(0.5, 0, experts); // all equal: the lower ids win
      const chosen: Int32Array[] = [];
      const got = await onAll((b) => {
        const [ids, weights] = [b.poisoned([rows, topK], 'i32'), b.poisoned([rows, topK])];
        b.stream.ops.moeRoute(ids, weights, b.f32(logits, [rows, experts]), rows, normalise);
        chosen.push(b.integers(ids));
        return weights;
      });
      for (let r = 0; r < rows; r++) {
        const row = [...logits.slice(r * experts, (r + 1) * experts)];
        const total = row.reduce((sum, v) => sum + Math.exp(v), 0);
        const best = row
          .map((v, id) => ({ id, p: Math.exp(v) / total }))
          .sort((x, y) => y.p - x.p || x.id - y.id)
          .slice(0, topK);
        const share = normalise === 'topk' ? best.reduce((sum, { p }) => sum + p, 0) : 1;
        for (const ids of chosen)
          expect([...ids.slice(r * topK, (r + 1) * topK)]).toEqual(best.map(({ id }) => id));
        expectClose(
          got.slice(r * topK, (r + 1) * topK),
          best.map(({ p }) => p / share),
          2e-6,
          0,
        );
      }
    }
  });

  it.each(columns)('combine, %i columns', async (hidden) => {
    const [rows, topK] = [5, 3];
    const [x, weights] = [normals(rows * topK * hidden, 1), normals(rows * topK, 2)];
    const got = await onAll((b) => {
      const out = b.poisoned([rows, hidden]);
      b.stream.ops.moeCombine(out, b.f32(x, [rows * topK, hidden]), b.f32(weights, [rows, topK]), rows);
      return out;
    });
    const expected = Array.from({ length: rows * hidden }, (_, i) => {
      const [r, c] = [Math.floor(i / hidden), i % hidden];
      return [0, 1, 2].reduce(
        (sum, j) => sum + (weights[r * topK + j] as number) * (x[(r * topK + j) * hidden + c] as number),
        0,
      );
    });
    expectClose(got.slice(0, rows * hidden), expected, 1e-6, 1e-6);
  });
});

describe('shapes', () => {
  it('refuses what does not fit, naming op and shapes', () => {
    const b = benches.get('scalar') as Bench;
    const x = b.f32(normals(34, 1), [2, 17]);
    expect(() => b.stream.ops.rmsnorm(x, x, b.f32(normals(16, 1)), 2, 1e-6)).toThrow(
      /rmsnorm.*\[2, 17\].*\[16\]/,
    );
    expect(() => b.stream.ops.rmsnorm(x, x, b.f32(normals(17, 1)), 3, 1e-6)).toThrow(/3 rows/);
    expect(() => b.stream.ops.actMul(x, x, 2, 'silu')).toThrow(/act_mul/);
  });

  it('refuses half activations, which the CPU does not compute in', () => {
    const b = benches.get('scalar') as Bench;
    const x = b.poisoned([2, 16], 'bf16');
    expect(() => b.stream.ops.rmsnorm(x, x, b.f32(normals(16, 1)), 2, 1e-6)).toThrow(
      /rmsnorm: activations of dtype bf16/,
    );
    expect(b.device.supports('rmsnorm', 'bf16')).toBe(false);
    expect(b.device.supports('rmsnorm', 'f32')).toBe(true);
    expect(b.device.supports('rope_store', 'f16')).toBe(true);
    expect(b.device.supports('linear', 'fp8')).toBe(false);
  });
});
