/** Used by the layouts that keep scales by group, where kernels want them by row. */

/** values: [outer, inner]; the result: [inner, outer]. */
export function transposed(values: Float32Array, outer: number, inner: number): Float32Array<ArrayBuffer> {
  const turned = new Float32Array(outer * inner);
  for (let o = 0; o < outer; o++)
    for (let i = 0; i < inner; i++) turned[i * outer + o] = values[o * inner + i] ?? 0;
  return turned;
}
