/* Grouped weights on AVX2 (and on AVX-512 without VNNI): unsigned numbers of up to 6 bits times int8 in pairs to 16 bits, which cannot saturate;
   bytes around 128 by their size and sign. Exact in int32, equal to gemm_grouped_scalar.cc bit for bit. Used through gemm_kernel(). */
#include "gemm.h"
#include "grouped.h"
#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace pd {
namespace {

constexpr int kTileRows = 4;
constexpr int kQuarterRows = 8; /* of the panel: one register */

#define PD_INLINE static inline __attribute__((always_inline))

template <int32_t F>
struct Numbers {
  static constexpr GroupedFormat format = grouped_format(F);
  static constexpr bool is_byte = format.bits == 8 || format.table != 0;

  PD_INLINE __m256i table() {
    if (format.table == 0) return _mm256_setzero_si256();
    alignas(16) uint8_t bytes[16];
    for (int i = 0; i < 16; i++) bytes[i] = table_byte(format.table, i);
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(bytes)));
  }

  PD_INLINE __m256i at(const uint8_t *unit, int quarter, int word, __m256i table) {
    const auto load = [&](int from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(unit + from * kPanelUnitBytes + quarter * 32)); };
    if (format.bits == 8) return load(word);
    const __m256i packed = load(word % 4), low = _mm256_set1_epi8(15);
    __m256i numbers = _mm256_and_si256(word < 4 ? packed : _mm256_srli_epi16(packed, 4), low);
    for (int plane = 0; plane < format.planes(); plane++) {
      const uint8_t *bits = unit + format.number_bytes() + ((plane * 8 + word) * 2 + quarter / 2) * 8 + quarter % 2 * 4;
      numbers = _mm256_or_si256(numbers, _mm256_and_si256(spread(*reinterpret_cast<const int32_t *>(bits)), _mm256_set1_epi8(static_cast<char>(16 << plane))));
    }
    return format.table == 0 ? numbers : _mm256_shuffle_epi8(table, numbers);
  }

  /* Bit i of the mask to byte i: all ones or zero. */
  PD_INLINE __m256i spread(int32_t mask) {
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(mask), _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2,
                                                                                      2, 3, 3, 3, 3, 3, 3, 3, 3));
    const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
  }

  PD_INLINE __m256i dot(__m256i sum, __m256i numbers, __m256i x) {
    __m256i pairs;
    if (is_byte) {
      const __m256i around_zero = _mm256_xor_si256(numbers, _mm256_set1_epi8(static_cast<char>(0x80)));
      pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(around_zero), _mm256_sign_epi8(x, around_zero));
    } else {
      pairs = _mm256_maddubs_epi16(numbers, x);
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }

  /* Bytes are taken as they are around 128: that much of the sum is there already, or is missing where there is a minimum. */
  PD_INLINE __m256i start(uint32_t minus_sum) {
    const __m256i sum = _mm256_set1_epi32(static_cast<int>(minus_sum));
    if (is_byte) return format.has_minimum ? _mm256_slli_epi32(_mm256_sub_epi32(_mm256_setzero_si256(), sum), 7) : _mm256_setzero_si256();
    return format.has_minimum ? _mm256_setzero_si256() : _mm256_slli_epi32(sum, format.zero_shift());
  }
};

PD_INLINE __m256 halves_at(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
PD_INLINE __m256 splat(uint32_t bits) { return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits))); }

template <int32_t F, int rows>
void tile_rows(const uint32_t *words, const uint8_t *units, int64_t unit_count, float *acc, const float *start) {
  constexpr GroupedFormat format = grouped_format(F);
  const __m256i table = Numbers<F>::table();
  for (int quarter = 0; quarter < kPanelRows / kQuarterRows; quarter++) {
    const uint32_t *x = words;
    const uint8_t *panel = units;
    __m256 sums[rows];
    for (int r = 0; r < rows; r++) sums[r] = _mm256_loadu_ps((start != nullptr ? start : acc + r * kPanelRows) + quarter * kQuarterRows);
    for (int64_t u = 0; u < unit_count; u++, x += kGroupedWords * rows, panel += format.unit_bytes()) {
#pragma GCC unroll 2
      for (int g = 0; g < format.groups; g++) {
        constexpr int words_of_group = 8 / format.groups;
        const int sum_word = format.groups == 1 ? 0 : 1 + g;
        __m256i dots[rows];
        for (int r = 0; r < rows; r++) dots[r] = Numbers<F>::start(x[(kWordSums + sum_word) * rows + r]);
#pragma GCC unroll 8
        for (int w = 0; w < words_of_group; w++) {
          const int word = g * words_of_group + w;
          const __m256i numbers = Numbers<F>::at(panel, quarter, word, table);
          for (int r = 0; r < rows; r++) dots[r] = Numbers<F>::dot(dots[r], numbers, _mm256_set1_epi32(static_cast<int>(x[word * rows + r])));
        }
        const __m256 scale = halves_at(panel + format.scale_offset() + g * 64 + quarter * 16);
        for (int r = 0; r < rows; r++)
          sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), _mm256_mul_ps(scale, splat(x[kWordScale * rows + r])), sums[r]);
        if (!format.has_minimum) continue;
        const __m256 minimum = halves_at(panel + format.minimum_offset() + g * 64 + quarter * 16);
        for (int r = 0; r < rows; r++) sums[r] = _mm256_fmadd_ps(minimum, splat(x[(kWordScaledSums + sum_word) * rows + r]), sums[r]);
      }
    }
    for (int r = 0; r < rows; r++) _mm256_storeu_ps(acc + r * kPanelRows + quarter * kQuarterRows, sums[r]);
  }
}

template <int32_t F>
void tile(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  typedef void (*Rows)(const uint32_t *, const uint8_t *, int64_t, float *, const float *);
  static const Rows by_rows[kTileRows] = {tile_rows<F, 1>, tile_rows<F, 2>, tile_rows<F, 3>, tile_rows<F, 4>};
  by_rows[rows - 1](x, panel, unit_count, static_cast<float *>(acc), static_cast<const float *>(start));
}

}  // namespace
}  // namespace pd

#pragma GCC pop_options

namespace pd {

const GemmKernel *gemm_kernel_grouped_avx2(const IsaLevel &isa, int32_t format) {
  if (isa.isa < PD_ISA_AVX2) return nullptr;
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
const GemmKernel *gemm_kernel_grouped_avx2(const IsaLevel &, int32_t) { return nullptr; }
}  // namespace pd
#endif
