/* F16: sixteen float32 lanes, as one AVX-512 register, two AVX2 registers or a plain array. Included by each_isa.h only, once per
   instruction set. Lane i is element i everywhere and sums fold in one fixed order, so every instruction set gives the same bits. */

#if PD_PASS == PD_PASS_AVX512
struct F16 { __m512 v; };
PD_INLINE __mmask16 lanes(int count) { return (__mmask16)((1u << count) - 1u); }
PD_INLINE F16 splat(float x) { return {_mm512_set1_ps(x)}; }
PD_INLINE F16 load(const float *p) { return {_mm512_loadu_ps(p)}; }
PD_INLINE F16 load(const float *p, int count) { return {_mm512_maskz_loadu_ps(lanes(count), p)}; }
PD_INLINE void store(float *p, F16 a) { _mm512_storeu_ps(p, a.v); }
PD_INLINE void store(float *p, F16 a, int count) { _mm512_mask_storeu_ps(p, lanes(count), a.v); }
PD_INLINE F16 add(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
PD_INLINE F16 sub(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
PD_INLINE F16 mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
PD_INLINE F16 div(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
PD_INLINE F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c
PD_INLINE F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }                // a > b ? a : b, so NaN in a loses
PD_INLINE F16 exp(F16 a) { return {exp_avx512(a.v)}; }
PD_INLINE F16 tanh(F16 a) { return {tanh_avx512(a.v)}; }
PD_INLINE uint32_t at_least(F16 a, F16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }  // bit i: a[i] >= b[i]
PD_INLINE void store_bf16(uint16_t *p, F16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  const __m512i half = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), rounded, quiet);
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(half));
}
PD_INLINE F16 load_bf16(const uint16_t *p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16))};
}
PD_INLINE void store_f16(uint16_t *p, F16 a) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); }
PD_INLINE F16 load_f16(const uint16_t *p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))}; }

#elif PD_PASS == PD_PASS_AVX2
struct F16 { __m256 low, high; };
PD_INLINE __m256i lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
PD_INLINE F16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PD_INLINE F16 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PD_INLINE F16 load(const float *p, int count) {
  return {_mm256_maskload_ps(p, lanes(count)), _mm256_maskload_ps(p + 8, lanes(count - 8))};
}
PD_INLINE void store(float *p, F16 a) { _mm256_storeu_ps(p, a.low); _mm256_storeu_ps(p + 8, a.high); }
PD_INLINE void store(float *p, F16 a, int count) {
  _mm256_maskstore_ps(p, lanes(count), a.low);
  _mm256_maskstore_ps(p + 8, lanes(count - 8), a.high);
}
PD_INLINE F16 add(F16 a, F16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
PD_INLINE F16 sub(F16 a, F16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
PD_INLINE F16 mul(F16 a, F16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
PD_INLINE F16 div(F16 a, F16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
PD_INLINE F16 fma(F16 a, F16 b, F16 c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
PD_INLINE F16 max(F16 a, F16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
PD_INLINE F16 exp(F16 a) { return {exp_avx2(a.low), exp_avx2(a.high)}; }
PD_INLINE F16 tanh(F16 a) { return {tanh_avx2(a.low), tanh_avx2(a.high)}; }
PD_INLINE uint32_t at_least(F16 a, F16 b) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ)) |
         (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ)) << 8;
}
PD_INLINE __m256i bf16_bits(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}
PD_INLINE void store_bf16(uint16_t *p, F16 a) {
  const __m256i packed = _mm256_packus_epi32(bf16_bits(a.low), bf16_bits(a.high));  // within 128-bit halves
  _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(packed, 0xD8));
}
PD_INLINE F16 load_bf16(const uint16_t *p) {
  const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  const __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}
PD_INLINE void store_f16(uint16_t *p, F16 a) {
  _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
}
PD_INLINE F16 load_f16(const uint16_t *p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

#else
struct F16 { float v[16]; };
#define PD_EACH_LANE(expression) F16 r; for (int i = 0; i < 16; i++) r.v[i] = (expression); return r
PD_INLINE F16 splat(float x) { PD_EACH_LANE(x); }
PD_INLINE F16 load(const float *p) { PD_EACH_LANE(p[i]); }
PD_INLINE F16 load(const float *p, int count) { PD_EACH_LANE(i < count ? p[i] : 0.0f); }
PD_INLINE void store(float *p, F16 a) { for (int i = 0; i < 16; i++) p[i] = a.v[i]; }
PD_INLINE void store(float *p, F16 a, int count) { for (int i = 0; i < count; i++) p[i] = a.v[i]; }
PD_INLINE F16 add(F16 a, F16 b) { PD_EACH_LANE(a.v[i] + b.v[i]); }
PD_INLINE F16 sub(F16 a, F16 b) { PD_EACH_LANE(a.v[i] - b.v[i]); }
PD_INLINE F16 mul(F16 a, F16 b) { PD_EACH_LANE(a.v[i] * b.v[i]); }
PD_INLINE F16 div(F16 a, F16 b) { PD_EACH_LANE(a.v[i] / b.v[i]); }
PD_INLINE F16 fma(F16 a, F16 b, F16 c) { PD_EACH_LANE(std::fma(a.v[i], b.v[i], c.v[i])); }
PD_INLINE F16 max(F16 a, F16 b) { PD_EACH_LANE(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
PD_INLINE F16 exp(F16 a) { PD_EACH_LANE(exp_scalar(a.v[i])); }
PD_INLINE F16 tanh(F16 a) { PD_EACH_LANE(tanh_scalar(a.v[i])); }
PD_INLINE uint32_t at_least(F16 a, F16 b) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; i++) bits |= (uint32_t)(a.v[i] >= b.v[i]) << i;
  return bits;
}
PD_INLINE void store_bf16(uint16_t *p, F16 a) { for (int i = 0; i < 16; i++) p[i] = float_to_bf16(a.v[i]); }
PD_INLINE F16 load_bf16(const uint16_t *p) { PD_EACH_LANE(bf16_to_float(p[i])); }
PD_INLINE void store_f16(uint16_t *p, F16 a) { for (int i = 0; i < 16; i++) p[i] = narrow_f16(a.v[i]); }
PD_INLINE F16 load_f16(const uint16_t *p) { PD_EACH_LANE(f16_to_float(p[i])); }
#undef PD_EACH_LANE
#endif

// ---- the same for all

/* Lanes i and i + 8, then i + 4, i + 2, i + 1. */
PD_INLINE float sum_lanes(F16 a) {
  float v[16];
  store(v, a);
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; i++) v[i] += v[i + step];
  return v[0];
}
PD_INLINE float max_lanes(F16 a) {
  float v[16];
  store(v, a);
  for (int i = 1; i < 16; i++) v[0] = v[i] > v[0] ? v[i] : v[0];
  return v[0];
}

/* Elements first..first + 15 of a row of count elements; lanes past the end read 0 and are not written. */
PD_INLINE F16 load_row(const float *row, int64_t first, int64_t count) {
  return count - first >= 16 ? load(row + first) : load(row + first, (int)(count - first));
}
PD_INLINE void store_row(float *row, int64_t first, int64_t count, F16 a) {
  if (count - first >= 16) store(row + first, a);
  else store(row + first, a, (int)(count - first));
}

/* count floats to or from another dtype (PD_F32, PD_BF16, PD_F16). */
PD_INLINE void widen(float *out, const void *in, int32_t dtype, int64_t count) {
  if (dtype == PD_F32) { memcpy(out, in, (size_t)count * 4); return; }
  const uint16_t *half = (const uint16_t *)in;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) store(out + i, dtype == PD_BF16 ? load_bf16(half + i) : load_f16(half + i));
  for (; i < count; i++) out[i] = dtype == PD_BF16 ? bf16_to_float(half[i]) : f16_to_float(half[i]);
}
PD_INLINE void narrow(void *out, const float *in, int32_t dtype, int64_t count) {
  if (dtype == PD_F32) { memcpy(out, in, (size_t)count * 4); return; }
  uint16_t *half = (uint16_t *)out;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    if (dtype == PD_BF16) store_bf16(half + i, load(in + i));
    else store_f16(half + i, load(in + i));
  }
  for (; i < count; i++) half[i] = dtype == PD_BF16 ? float_to_bf16(in[i]) : narrow_f16(in[i]);
}
