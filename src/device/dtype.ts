/** Number formats, with the codes of native/pd.h. */

export type Dtype = 'f32' | 'bf16' | 'f16' | 'i8' | 'fp8' | 'i32';

export const dtypeCodes: Readonly<Record<Dtype, number>> = { f32: 0, bf16: 1, f16: 2, i8: 3, fp8: 4, i32: 5 };
export const dtypeByteCounts: Readonly<Record<Dtype, number>> = {
  f32: 4,
  bf16: 2,
  f16: 2,
  i8: 1,
  fp8: 1,
  i32: 4,
};
