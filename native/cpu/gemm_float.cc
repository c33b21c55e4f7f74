/* Tile kernels with float32 arithmetic for float32 and bfloat16 weights, on AVX2 and AVX-512. Equal to gemm_scalar.cc bit for bit: one
   fma per element of k, ascending. Bfloat16 weights are widened in registers (a shift for the even element of a pair, a mask for the odd
   one). Used through gemm_kernel(). */
#include "gemm.h"
#define PD_KERNELS "gemm_float.cc"
#include "each_isa.h"

#ifdef PD_PASS
#if PD_PASS != PD_PASS_SCALAR

/* Rows and 16-column groups whose sums fill the registers: 24 of 32 zmm, or 12 of 16 ymm. */
#if PD_PASS == PD_PASS_AVX512
constexpr int kTileRows = 12;
constexpr int groups_for(int) { return 2; }
PD_INLINE F16 even_half(const uint8_t *p) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))}; }
PD_INLINE F16 odd_half(const uint8_t *p) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))))};
}
#else
constexpr int kTileRows = 6;
constexpr int groups_for(int rows) { return rows <= 3 ? 2 : 1; }
PD_INLINE F16 even_half(const uint8_t *p) {
  const __m256i *words = reinterpret_cast<const __m256i *>(p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(words), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(words + 1), 16))};
}
PD_INLINE F16 odd_half(const uint8_t *p) {
  const __m256i *words = reinterpret_cast<const __m256i *>(p), mask = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(words), mask)),
          _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(words + 1), mask))};
}
#endif

/* How a unit (4 bytes along k) of 16 weight rows becomes floats: `steps` elements of k each. */
struct Float32Weight {
  static constexpr int steps = 1;
  PD_INLINE F16 at(const uint8_t *p, int) { return load(reinterpret_cast<const float *>(p)); }
};
struct Bfloat16Weight {
  static constexpr int steps = 2;
  PD_INLINE F16 at(const uint8_t *p, int step) { return step == 0 ? even_half(p) : odd_half(p); }
};

template <class Weight, int rows>
static void tile_rows(const uint32_t *words, const uint8_t *panel, int64_t unit_count, float *acc, const float *start) {
  constexpr int groups = groups_for(rows);
  for (int group = 0; group < kPanelRows / 16; group += groups) {
    F16 sums[rows][groups];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
      for (int g = 0; g < groups; g++)
        sums[r][g] = load((start != nullptr ? start : acc + r * kPanelRows) + (group + g) * 16);
    const float *x = reinterpret_cast<const float *>(words);
    const uint8_t *w = panel + group * 64;
    for (int64_t u = 0; u < unit_count; u++, w += kPanelUnitBytes) {
      if (rows <= kPrefetchRows && rows < kTileRows)
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++) _mm_prefetch(reinterpret_cast<const char *>(w + kPrefetchBytes + g * 64), _MM_HINT_T0);
      for (int step = 0; step < Weight::steps; step++, x += rows) {
        F16 columns[groups];
#pragma GCC unroll 2
        for (int g = 0; g < groups; g++) columns[g] = Weight::at(w + g * 64, step);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
          const F16 value = splat(x[r]);
#pragma GCC unroll 2
          for (int g = 0; g < groups; g++) sums[r][g] = fma(value, columns[g], sums[r][g]);
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
      for (int g = 0; g < groups; g++) store(acc + r * kPanelRows + (group + g) * 16, sums[r][g]);
  }
}

template <class Weight>
static void tile(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  typedef void (*Rows)(const uint32_t *, const uint8_t *, int64_t, float *, const float *);
  static const Rows by_rows[] = {tile_rows<Weight, 1>, tile_rows<Weight, 2>, tile_rows<Weight, 3>, tile_rows<Weight, 4>,
                                 tile_rows<Weight, 5>, tile_rows<Weight, 6>,
#if PD_PASS == PD_PASS_AVX512
                                 tile_rows<Weight, 7>, tile_rows<Weight, 8>, tile_rows<Weight, 9>, tile_rows<Weight, 10>,
                                 tile_rows<Weight, 11>, tile_rows<Weight, 12>
#endif
  };
  by_rows[rows - 1](x, panel, unit_count, static_cast<float *>(acc), static_cast<const float *>(start));
}

#endif
#else

namespace pd {

const GemmKernel *gemm_kernel_float(const IsaLevel &isa, int32_t weight_format) {
#if defined(__x86_64__)
  static const GemmKernel f32_avx2 = {XFormat::F32, avx2::kTileRows, avx2::tile<avx2::Float32Weight>, false};
  static const GemmKernel bf16_avx2 = {XFormat::F32, avx2::kTileRows, avx2::tile<avx2::Bfloat16Weight>, false};
  static const GemmKernel f32_avx512 = {XFormat::F32, avx512::kTileRows, avx512::tile<avx512::Float32Weight>, false};
  static const GemmKernel bf16_avx512 = {XFormat::F32, avx512::kTileRows, avx512::tile<avx512::Bfloat16Weight>, false};
  if (weight_format == PD_I8) return nullptr;
  if (isa.isa == PD_ISA_AVX512) return weight_format == PD_F32 ? &f32_avx512 : &bf16_avx512;
  if (isa.isa == PD_ISA_AVX2) return weight_format == PD_F32 ? &f32_avx2 : &bf16_avx2;
#endif
  (void)isa;
  (void)weight_format;
  return nullptr;
}

}  // namespace pd
#endif
