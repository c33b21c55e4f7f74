/* Tile kernels on the AVX-512 dot product instructions: VDPBF16PS (bfloat16 weights, activations rounded to bfloat16, two elements of k
   a step) and VPDPBUSD (int8 weights, activations stored as x + 128, four elements a step, exact in int32).
   Used through gemm_kernel(). VDPBF16PS flushes denormals and rounds its two products as the hardware likes, so the bfloat16 results are
   close to, not equal to, those of gemm_float.cc; int8 is equal to the oracle bit for bit. */
#include "gemm.h"
#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")

namespace pd {
namespace {

constexpr int kTileRows = 12; /* 12 x 2 accumulators, 2 columns of weights, broadcasts: 28 of 32 registers */

#define PD_INLINE static inline __attribute__((always_inline))

struct Bfloat16Dot {
  typedef __m512 Sum;
  PD_INLINE Sum load(const void *p) { return _mm512_loadu_ps(p); }
  PD_INLINE void store(void *p, Sum sum) { _mm512_storeu_ps(p, sum); }
  PD_INLINE Sum step(Sum sum, __m512i x, __m512i w) { return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x); }
};

struct Int8Dot {
  typedef __m512i Sum;
  PD_INLINE Sum load(const void *p) { return _mm512_loadu_si512(p); }
  PD_INLINE void store(void *p, Sum sum) { _mm512_storeu_si512(p, sum); }
  PD_INLINE Sum step(Sum sum, __m512i x, __m512i w) { return _mm512_dpbusd_epi32(sum, x, w); }
};

template <class Dot, int rows>
void tile_rows(const uint32_t *x, const uint8_t *panel, int64_t unit_count, uint8_t *acc, const uint8_t *start) {
  typename Dot::Sum low[rows], high[rows];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
    const uint8_t *from = start != nullptr ? start : acc + r * kPanelUnitBytes;
    low[r] = Dot::load(from);
    high[r] = Dot::load(from + 64);
  }
  for (int64_t u = 0; u < unit_count; u++, x += rows, panel += kPanelUnitBytes) {
    if (rows <= kPrefetchRows) {
      _mm_prefetch(reinterpret_cast<const char *>(panel + kPrefetchBytes), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char *>(panel + kPrefetchBytes + 64), _MM_HINT_T0);
    }
    const __m512i w_low = _mm512_loadu_si512(panel), w_high = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      const __m512i value = _mm512_set1_epi32(static_cast<int>(x[r]));
      low[r] = Dot::step(low[r], value, w_low);
      high[r] = Dot::step(high[r], value, w_high);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
    Dot::store(acc + r * kPanelUnitBytes, low[r]);
    Dot::store(acc + r * kPanelUnitBytes + 64, high[r]);
  }
}

template <class Dot>
void tile(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  typedef void (*Rows)(const uint32_t *, const uint8_t *, int64_t, uint8_t *, const uint8_t *);
  static const Rows by_rows[kTileRows] = {tile_rows<Dot, 1>, tile_rows<Dot, 2>, tile_rows<Dot, 3>,  tile_rows<Dot, 4>,
                                          tile_rows<Dot, 5>, tile_rows<Dot, 6>, tile_rows<Dot, 7>,  tile_rows<Dot, 8>,
                                          tile_rows<Dot, 9>, tile_rows<Dot, 10>, tile_rows<Dot, 11>, tile_rows<Dot, 12>};
  by_rows[rows - 1](x, panel, unit_count, static_cast<uint8_t *>(acc), static_cast<const uint8_t *>(start));
}

}  // namespace
}  // namespace pd

#pragma GCC pop_options

namespace pd {

const GemmKernel *gemm_kernel_dot(const IsaLevel &isa, int32_t weight_format) {
  static const GemmKernel bf16 = {XFormat::BF16, kTileRows, tile<Bfloat16Dot>, false};
  static const GemmKernel i8 = {XFormat::I8, kTileRows, tile<Int8Dot>, true};
  if (isa.isa != PD_ISA_AVX512) return nullptr;
  if (weight_format == PD_BF16 && isa.bf16) return &bf16;
  if (weight_format == PD_I8 && isa.vnni) return &i8;
  return nullptr;
}

}  // namespace pd

#else
namespace pd {
const GemmKernel *gemm_kernel_dot(const IsaLevel &, int32_t) { return nullptr; }
}  // namespace pd
#endif
