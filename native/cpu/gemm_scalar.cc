/* Plain loops: the oracle for the other instruction sets (and what runs where none of them is). Used through gemm_kernel(). */
#include <cmath>
#include <cstring>
#include "gemm.h"
#include "half.h"

namespace pd {
namespace {

float word_float(uint32_t word) { return bits_to_float(word); }

void tile_f32(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  float *sums = static_cast<float *>(acc);
  for (int r = 0; r < rows; r++) {
    if (start != nullptr) std::memcpy(sums + r * kPanelRows, start, kPanelRows * sizeof(float));
    for (int64_t u = 0; u < unit_count; u++) {
      const float *w = reinterpret_cast<const float *>(panel + u * kPanelUnitBytes);
      float value = word_float(x[u * rows + r]);
      for (int c = 0; c < kPanelRows; c++) sums[r * kPanelRows + c] = std::fma(value, w[c], sums[r * kPanelRows + c]);
    }
  }
}

void tile_bf16(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  float *sums = static_cast<float *>(acc);
  for (int r = 0; r < rows; r++) {
    if (start != nullptr) std::memcpy(sums + r * kPanelRows, start, kPanelRows * sizeof(float));
    for (int64_t u = 0; u < unit_count; u++) {
      const uint16_t *w = reinterpret_cast<const uint16_t *>(panel + u * kPanelUnitBytes);
      for (int half = 0; half < 2; half++) {
        float value = word_float(x[(2 * u + half) * rows + r]);
        for (int c = 0; c < kPanelRows; c++)
          sums[r * kPanelRows + c] = std::fma(value, bf16_to_float(w[2 * c + half]), sums[r * kPanelRows + c]);
      }
    }
  }
}

void tile_i8(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start) {
  int32_t *sums = static_cast<int32_t *>(acc);
  for (int r = 0; r < rows; r++) {
    if (start != nullptr) std::memcpy(sums + r * kPanelRows, start, kPanelRows * sizeof(int32_t));
    for (int64_t u = 0; u < unit_count; u++) {
      const int8_t *w = reinterpret_cast<const int8_t *>(panel + u * kPanelUnitBytes);
      int8_t value[4];
      std::memcpy(value, &x[u * rows + r], 4);
      for (int c = 0; c < kPanelRows; c++)
        for (int i = 0; i < 4; i++) sums[r * kPanelRows + c] += value[i] * w[4 * c + i];
    }
  }
}

}  // namespace

const GemmKernel *gemm_kernel_scalar(int32_t weight_format) {
  static const GemmKernel f32 = {XFormat::F32, kMaxTileRows, tile_f32, false};
  static const GemmKernel bf16 = {XFormat::F32, kMaxTileRows, tile_bf16, false};
  static const GemmKernel i8 = {XFormat::I8, kMaxTileRows, tile_i8, false};
  return weight_format == PD_F32 ? &f32 : weight_format == PD_BF16 ? &bf16 : &i8;
}

}  // namespace pd
