/** Bit equality of long float arrays: much faster than a deep comparison, and it says where the first
 *  difference is. */
export function expectSameBits(actual: Float32Array, expected: Float32Array): void {
  const bytes = (floats: Float32Array): Buffer =>
    Buffer.from(floats.buffer, floats.byteOffset, floats.byteLength);
  if (bytes(actual).equals(bytes(expected))) return;
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} values, expected ${expected.length}`);
  const index = actual.findIndex((value, i) => !Object.is(value, expected[i]));
  throw new Error(`[${index}]: ${actual[index]}, expected ${expected[index]}`);
}
