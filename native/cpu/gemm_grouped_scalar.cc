/* Grouped weights in plain loops: the oracle for the other instruction sets. Used through gemm_kernel(). */
#include <cmath>
#include <cstring>
#include "gemm.h"
#include "grouped.h"
#include "half.h"

namespace pd {
namespace {

template <int32_t F>
int number_at(const uint8_t *unit, int word, int row, int i) {
  constexpr GroupedFormat format = grouped_format(F);
  if (format.bits == 8) return unit[(word * kPanelRows + row) * 4 + i];
  const uint8_t packed = unit[(word % 4 * kPanelRows + row) * 4 + i];
  int number = word < 4 ? packed & 15 : packed >> 4;
  for (int plane = 0; plane < format.planes(); plane++) {
    uint64_t bits;
    std::memcpy(&bits, unit + format.number_bytes() + ((plane * 8 + word) * 2 + row / 16) * 8, 8);
    number |= static_cast<int>(bits >> (row % 16 * 4 + i) & 1) << (4 + plane);
  }
  return format.table != 0 ? table_byte(format.table, number) : number;
}

float half_of(const uint8_t *p) { return f16_to_float(static_cast<uint16_t>(p[0] | p[1] << 8)); }

template <int32_t F>
void tile(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  constexpr GroupedFormat format = grouped_format(F);
  float *sums = static_cast<float *>(acc);
  for (int r = 0; r < rows && start != nullptr; r++) std::memcpy(sums + r * kPanelRows, start, kPanelRows * sizeof(float));
  for (int64_t u = 0; u < unit_count; u++, x += kGroupedWords * rows, panel += format.unit_bytes()) {
    for (int r = 0; r < rows; r++) {
      for (int c = 0; c < kPanelRows; c++) {
        for (int g = 0; g < format.groups; g++) {
          const int sum_word = format.groups == 1 ? 0 : 1 + g, words = 8 / format.groups;
          int32_t dot = format.has_minimum ? 0 : static_cast<int32_t>(x[(kWordSums + sum_word) * rows + r]) * (1 << format.zero_shift());
          for (int word = g * words; word < (g + 1) * words; word++) {
            int8_t values[4];
            std::memcpy(values, &x[word * rows + r], 4);
            for (int i = 0; i < 4; i++) dot += values[i] * number_at<F>(panel, word, c, i);
          }
          float &sum = sums[r * kPanelRows + c];
          const float scale = half_of(panel + format.scale_offset() + (g * kPanelRows + c) * 2) * bits_to_float(x[kWordScale * rows + r]);
          sum = std::fma(static_cast<float>(dot), scale, sum);
          if (!format.has_minimum) continue;
          const float minimum = half_of(panel + format.minimum_offset() + (g * kPanelRows + c) * 2);
          sum = std::fma(minimum, bits_to_float(x[(kWordScaledSums + sum_word) * rows + r]), sum);
        }
      }
    }
  }
}

}  // namespace

const GemmKernel *gemm_kernel_grouped_scalar(int32_t format) {
  switch (format) {
#define PD_CASE(F)                                                               \
  case F: {                                                                      \
    static const GemmKernel kernel = {XFormat::Grouped, kMaxTileRows, tile<F>, false}; \
    return &kernel;                                                              \
  }
    PD_GROUPED_FORMATS(PD_CASE)
#undef PD_CASE
    default: return nullptr;
  }
}

}  // namespace pd
