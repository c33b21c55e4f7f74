/* Lane work shared by attention_vector.cc and attention_few.cc: transposes, trees and widening on F16. Like vec16.h it is included once
   per instruction set, inside its namespace; not for the scalar one. */

#if PD_PASS == PD_PASS_AVX512
PD_INLINE float first_lane(F16 a) { return _mm512_cvtss_f32(a.v); }
/* Lanes i and i + 8 meet; the rest of the tree is done on 8, then 4 lanes. */
PD_INLINE __m256 low_lanes(F16 a) { return _mm512_castps512_ps256(a.v); }
PD_INLINE __m256 high_lanes(F16 a) { return _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xFF, _mm512_castps_pd(a.v), 1)); }

/* rows[i][d] to rows[d][i] */
PD_INLINE void transpose(F16 *rows) {
  __m512 a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xEE);
    b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
  /* b[4 g + c], 128-bit part p: rows 4 g .. 4 g + 3 of column 4 p + c */
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    const __m512 even_low = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88), odd_low = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xDD);
    const __m512 even_high = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88), odd_high = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xDD);
    rows[c].v = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    rows[8 + c].v = _mm512_shuffle_f32x4(even_low, even_high, 0xDD);
    rows[4 + c].v = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    rows[12 + c].v = _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD);
  }
}

#else
PD_INLINE float first_lane(F16 a) { return _mm256_cvtss_f32(a.low); }
PD_INLINE __m256 low_lanes(F16 a) { return a.low; }
PD_INLINE __m256 high_lanes(F16 a) { return a.high; }

PD_INLINE void transpose8(__m256 *rows) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
  for (int c = 0; c < 4; c++) {
    rows[c] = _mm256_permute2f128_ps(b[c], b[4 + c], 0x20);
    rows[4 + c] = _mm256_permute2f128_ps(b[c], b[4 + c], 0x31);
  }
}

/* rows[i][d] to rows[d][i], in four quarters */
PD_INLINE void transpose(F16 *rows) {
  __m256 quarters[4][8];
  for (int i = 0; i < 8; i++) {
    quarters[0][i] = rows[i].low;
    quarters[1][i] = rows[8 + i].low;
    quarters[2][i] = rows[i].high;
    quarters[3][i] = rows[8 + i].high;
  }
  for (int i = 0; i < 4; i++) transpose8(quarters[i]);
  for (int i = 0; i < 8; i++) {
    rows[i] = {quarters[0][i], quarters[1][i]};
    rows[8 + i] = {quarters[2][i], quarters[3][i]};
  }
}
#endif

PD_INLINE float tree_sum(F16 a) {
  const __m256 eight = _mm256_add_ps(low_lanes(a), high_lanes(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

PD_INLINE float tree_max(F16 a) {
  const __m256 eight = _mm256_max_ps(low_lanes(a), high_lanes(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/* 16 elements from `first` of a row of head_dim (a multiple of 8); lanes past its end are 0 */
PD_INLINE F16 widen_row(const void *row, int32_t dtype, int first, int head_dim) {
  const int count = head_dim - first;
  if (dtype == PD_F32) return count >= 16 ? load((const float *)row + first) : load((const float *)row + first, count);
  const uint16_t *half = (const uint16_t *)row + first;
  uint16_t copy[16];
  if (count < 16) {
    _mm_storeu_si128((__m128i *)copy, _mm_loadu_si128((const __m128i *)half));
    _mm_storeu_si128((__m128i *)(copy + 8), _mm_setzero_si128());
    half = copy;
  }
  return dtype == PD_BF16 ? load_bf16(half) : load_f16(half);
}
