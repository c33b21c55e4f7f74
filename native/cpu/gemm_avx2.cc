/* Tile kernel for int8 on AVX2 (and on AVX-512 without VNNI): |w| times x with w's sign, in pairs to 16 bits, then to 32. Values lie in
   -127..127, so a pair is at most 32258 and never saturates: exact, equal to the oracle. Used through gemm_kernel(). */
#include "gemm.h"
#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2")

namespace pd {
namespace {

constexpr int kTileRows = 4; /* 4 x 2 accumulators, 2 x 2 for |w| and w, the rest for products */

template <int rows>
void tile_rows(const uint32_t *words, const uint8_t *panel, int64_t unit_count, int32_t *acc, const int32_t *start) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int column = 0; column < kPanelRows; column += 16) {
    __m256i low[rows], high[rows];
    for (int r = 0; r < rows; r++) {
      const int32_t *from = (start != nullptr ? start : acc + r * kPanelRows) + column;
      low[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
      high[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + 8));
    }
    const uint32_t *x = words;
    for (int64_t u = 0; u < unit_count; u++, x += rows) {
      const __m256i *w = reinterpret_cast<const __m256i *>(panel + u * kPanelUnitBytes + column * 4);
      const __m256i w_low = _mm256_loadu_si256(w), w_high = _mm256_loadu_si256(w + 1);
      const __m256i size_low = _mm256_abs_epi8(w_low), size_high = _mm256_abs_epi8(w_high);
      for (int r = 0; r < rows; r++) {
        const __m256i value = _mm256_set1_epi32(static_cast<int>(x[r]));
        const __m256i pairs_low = _mm256_maddubs_epi16(size_low, _mm256_sign_epi8(value, w_low));
        const __m256i pairs_high = _mm256_maddubs_epi16(size_high, _mm256_sign_epi8(value, w_high));
        low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(pairs_low, ones));
        high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(pairs_high, ones));
      }
    }
    for (int r = 0; r < rows; r++) {
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(acc + r * kPanelRows + column), low[r]);
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(acc + r * kPanelRows + column + 8), high[r]);
    }
  }
}

void tile(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  typedef void (*Rows)(const uint32_t *, const uint8_t *, int64_t, int32_t *, const int32_t *);
  static const Rows by_rows[kTileRows] = {tile_rows<1>, tile_rows<2>, tile_rows<3>, tile_rows<4>};
  by_rows[rows - 1](x, panel, unit_count, static_cast<int32_t *>(acc), static_cast<const int32_t *>(start));
}

}  // namespace
}  // namespace pd

#pragma GCC pop_options
#endif

namespace pd {

const GemmKernel *gemm_kernel_avx2(const IsaLevel &isa, int32_t weight_format) {
#if defined(__x86_64__)
  static const GemmKernel i8 = {XFormat::I8, kTileRows, tile, false};
  if (isa.isa >= PD_ISA_AVX2 && weight_format == PD_I8) return &i8;
#endif
  (void)isa;
  (void)weight_format;
  return nullptr;
}

}  // namespace pd
