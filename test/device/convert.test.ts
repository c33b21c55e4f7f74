/** Conversions between number formats: every half value, rounding to nearest even, the same bits on every
 *  instruction set. */
import { afterAll, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { availableIsas, Bench } from './tensors.js';

const benches = availableIsas().map((isa) => new Bench({ isa, threadCount: 2 }));
afterAll(() => {
  for (const b of benches) b.close();
});

const bits = new DataView(new ArrayBuffer(4));
const floatOf = (pattern: number) => {
  bits.setUint32(0, pattern);
  return bits.getFloat32(0);
};

/** IEEE half by definition. */
function halfValue(pattern: number): number {
  const [sign, exponent, fraction] = [pattern >> 15 ? -1 : 1, (pattern >> 10) & 31, pattern & 1023];
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

const decoders = { bf16: (pattern: number) => floatOf(pattern * 65536), f16: halfValue };
const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i);

for (const dtype of ['bf16', 'f16'] as const) {
  it(`widens every ${dtype} exactly and narrows it back to itself`, async () => {
    for (const b of benches) {
      const [source, wide, back] = [b.u16(patterns, dtype), b.poisoned([65536]), b.poisoned([65536], dtype)];
      b.stream.convert(wide.pointer, 'f32', source.pointer, dtype, 65536);
      b.stream.convert(back.pointer, dtype, wide.pointer, 'f32', 65536);
      await b.stream.wait();
      const [widened, narrowed] = [b.floats(wide), b.halves(back)];
      for (let i = 0; i < 65536; i++) {
        const value = decoders[dtype](i);
        if (!Object.is(widened[i], value))
          throw new Error(`${i.toString(16)}: ${widened[i]}, expected ${value}`);
        if (!Number.isNaN(value) && narrowed[i] !== i)
          throw new Error(`${i.toString(16)} came back as ${narrowed[i]?.toString(16)}`);
        if (Number.isNaN(value)) expect(decoders[dtype](narrowed[i] as number)).toBeNaN();
      }
    }
  });

  it(`rounds to the nearest ${dtype}, ties to even`, async () => {
    const prng = new Prng(4);
    const finite = [...patterns].filter(
      (pattern) => pattern < 0x8000 && Number.isFinite(decoders[dtype](pattern)),
    );
    const middles = Array.from({ length: 400 }, () => prng.integer(0, finite.length - 2));
    const inputs: number[] = [];
    const expected: number[] = [];
    for (const i of middles) {
      const [low, high] = [decoders[dtype](i), decoders[dtype](i + 1)];
      const middle = (low + high) / 2;
      for (const [value, wanted] of [
        [middle, i % 2 === 0 ? i : i + 1],
        [low * 0.51 + high * 0.49, i],
        [low * 0.49 + high * 0.51, i + 1],
      ] as const) {
        inputs.push(value, -value);
        expected.push(wanted, wanted + 0x8000);
      }
    }
    inputs.push(1e39, 65520, 65519, 1e-30, -1e-30);
    const huge = dtype === 'bf16' ? 0x7f80 : 0x7c00;
    expected.push(
      huge,
      ...(dtype === 'bf16' ? [0x4780, 0x4780, 0x0da2, 0x8da2] : [0x7c00, 0x7bff, 0, 0x8000]),
    );
    for (const b of benches) {
      const [source, out] = [b.f32(inputs), b.poisoned([inputs.length], dtype)];
      b.stream.convert(out.pointer, dtype, source.pointer, 'f32', inputs.length);
      await b.stream.wait();
      expect([...b.halves(out)].slice(0, inputs.length)).toEqual(expected);
    }
  });
}

it('converts between the two halves', async () => {
  const values = [0, 1, -2.5, 1000, 0.125];
  for (const b of benches) {
    const [source, half, other, out] = [
      b.f32(values),
      b.poisoned([5], 'bf16'),
      b.poisoned([5], 'f16'),
      b.poisoned([5]),
    ];
    b.stream.convert(half.pointer, 'bf16', source.pointer, 'f32', 5);
    b.stream.convert(other.pointer, 'f16', half.pointer, 'bf16', 5);
    b.stream.convert(out.pointer, 'f32', other.pointer, 'f16', 5);
    await b.stream.wait();
    expect([...b.floats(out)].slice(0, 5)).toEqual(values);
  }
});

it('refuses dtypes it does not know', () => {
  const b = benches[0] as Bench;
  const x = b.f32([1]);
  expect(() => b.stream.convert(x.pointer, 'i8', x.pointer, 'f32', 1)).toThrow(/convert: from f32 to i8/);
});

it('fills with reproducible normal numbers, whatever the threads', async () => {
  const fills = [];
  for (const threadCount of [1, 2]) {
    const b = new Bench({ threadCount });
    const x = b.poisoned([300, 1001]);
    b.stream.random(x, 7, 0.5, 2);
    await b.stream.wait();
    fills.push(b.floats(x).slice());
    b.close();
  }
  expect(fills[0]).toEqual(fills[1]);
  const values = [...(fills[0] as Float32Array)];
  const mean = values.reduce((a, v) => a + v, 0) / values.length;
  const deviation = Math.sqrt(values.reduce((a, v) => a + (v - mean) ** 2, 0) / values.length);
  expect(Math.abs(mean - 2)).toBeLessThan(0.005);
  expect(Math.abs(deviation - 0.5)).toBeLessThan(0.005);
});
