/* Grouped weights on AVX-512 with VPDPBUSD: numbers unpacked in registers, int8 activations, exact sums of a group in int32, then one fma with the
   group's scale. Equal to gemm_grouped_scalar.cc bit for bit. Used through gemm_kernel(). */
#include "gemm.h"
#include "grouped.h"
#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

namespace pd {
namespace {

constexpr int kTileRows = 12;     /* a half panel at a time: 12 sums, 12 dots, numbers, scale, constants */
constexpr int kTwoHalvesRows = 8; /* both halves in one forward stream: 16 sums, 8 dots */

#define PD_INLINE static inline __attribute__((always_inline))

template <int32_t F>
struct Numbers {
  static constexpr GroupedFormat format = grouped_format(F);

  PD_INLINE __m512i table() {
    if (format.table == 0) return _mm512_setzero_si512();
    alignas(16) uint8_t bytes[16];
    for (int i = 0; i < 16; i++) bytes[i] = table_byte(format.table, i);
    return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i *>(bytes)));
  }

  /* 16 rows of word `word`: 64 bytes */
  PD_INLINE __m512i at(const uint8_t *unit, int half, int word, __m512i table) {
    if (format.bits == 8) return _mm512_loadu_si512(unit + word * kPanelUnitBytes + half * 64);
    const __m512i packed = _mm512_loadu_si512(unit + word % 4 * kPanelUnitBytes + half * 64), low = _mm512_set1_epi8(15);
    __m512i numbers = _mm512_and_si512(word < 4 ? packed : _mm512_srli_epi16(packed, 4), low);
    for (int plane = 0; plane < format.planes(); plane++) {
      const uint8_t *bits = unit + format.number_bytes() + ((plane * 8 + word) * 2 + half) * 8;
      numbers = _mm512_mask_add_epi8(numbers, *reinterpret_cast<const __mmask64 *>(bits), numbers, _mm512_set1_epi8(static_cast<char>(16 << plane)));
    }
    return format.table == 0 ? numbers : _mm512_shuffle_epi8(table, numbers);
  }
};

PD_INLINE __m512 halves_at(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
PD_INLINE __m512 splat(uint32_t bits) { return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(bits))); }

template <int32_t F, int rows, int halves>
PD_INLINE void run(const uint32_t *x, const uint8_t *panel, int64_t unit_count, uint8_t *acc, const uint8_t *start, int first_half) {
  constexpr GroupedFormat format = grouped_format(F);
  const __m512i table = Numbers<F>::table();
  __m512 sums[rows][halves];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++)
      sums[r][h] = _mm512_loadu_ps((start != nullptr ? start : acc + r * kPanelUnitBytes) + (first_half + h) * 64);
  for (int64_t u = 0; u < unit_count; u++, x += kGroupedWords * rows, panel += format.unit_bytes()) {
    if (rows <= kPrefetchRows)
      for (int line = 0; line < format.unit_bytes(); line += 64)
        _mm_prefetch(reinterpret_cast<const char *>(panel + kPrefetchBytes + line), _MM_HINT_T0);
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++) {
      const int half = first_half + h;
#pragma GCC unroll 2
      for (int g = 0; g < format.groups; g++) {
        constexpr int words = 8 / format.groups;
        const int sum_word = format.groups == 1 ? 0 : 1 + g;
        __m512i dots[rows];
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
          dots[r] = format.has_minimum ? _mm512_setzero_si512()
                                       : _mm512_slli_epi32(_mm512_set1_epi32(static_cast<int>(x[(kWordSums + sum_word) * rows + r])), format.zero_shift());
#pragma GCC unroll 8
        for (int w = 0; w < words; w++) {
          const int word = g * words + w;
          const __m512i numbers = Numbers<F>::at(panel, half, word, table);
#pragma GCC unroll 12
          for (int r = 0; r < rows; r++) dots[r] = _mm512_dpbusd_epi32(dots[r], numbers, _mm512_set1_epi32(static_cast<int>(x[word * rows + r])));
        }
        const __m512 scale = halves_at(panel + format.scale_offset() + g * 64 + half * 32);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
          sums[r][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), _mm512_mul_ps(scale, splat(x[kWordScale * rows + r])), sums[r][h]);
        if (!format.has_minimum) continue;
        const __m512 minimum = halves_at(panel + format.minimum_offset() + g * 64 + half * 32);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) sums[r][h] = _mm512_fmadd_ps(minimum, splat(x[(kWordScaledSums + sum_word) * rows + r]), sums[r][h]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int h = 0; h < halves; h++) _mm512_storeu_ps(acc + r * kPanelUnitBytes + (first_half + h) * 64, sums[r][h]);
}

template <int32_t F, int rows>
void tile_rows(const uint32_t *x, const uint8_t *panel, int64_t unit_count, uint8_t *acc, const uint8_t *start) {
  if (rows <= kTwoHalvesRows) return run<F, rows, 2>(x, panel, unit_count, acc, start, 0);
  run<F, rows, 1>(x, panel, unit_count, acc, start, 0);
  run<F, rows, 1>(x, panel, unit_count, acc, start, 1);
}

template <int32_t F>
void tile(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  typedef void (*Rows)(const uint32_t *, const uint8_t *, int64_t, uint8_t *, const uint8_t *);
  static const Rows by_rows[kTileRows] = {tile_rows<F, 1>, tile_rows<F, 2>, tile_rows<F, 3>, tile_rows<F, 4>,  tile_rows<F, 5>,  tile_rows<F, 6>,
                                          tile_rows<F, 7>, tile_rows<F, 8>, tile_rows<F, 9>, tile_rows<F, 10>, tile_rows<F, 11>, tile_rows<F, 12>};
  by_rows[rows - 1](x, panel, unit_count, static_cast<uint8_t *>(acc), static_cast<const uint8_t *>(start));
}

}  // namespace
}  // namespace pd

#pragma GCC pop_options

namespace pd {

const GemmKernel *gemm_kernel_grouped_dot(const IsaLevel &isa, int32_t format) {
  if (isa.isa != PD_ISA_AVX512 || !isa.vnni) return nullptr;
  switch (format) {
#define PD_CASE(F)                                                            \
  case F: {                                                                   \
    static const GemmKernel kernel = {XFormat::Grouped, kTileRows, tile<F>, false}; \
    return &kernel;                                                           \
  }
    PD_GROUPED_FORMATS(PD_CASE)
#undef PD_CASE
    default: return nullptr;
  }
}

}  // namespace pd

#else
namespace pd {
const GemmKernel *gemm_kernel_grouped_dot(const IsaLevel &, int32_t) { return nullptr; }
}  // namespace pd
#endif
