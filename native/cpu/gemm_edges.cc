/* What happens to a row before and after the tile kernels: staging (rounding to the kernel's number format) and finishing (scales, bias).
   Plain loops that the compiler vectorises for each instruction set; the bits are the same for all. Used by gemm.cc. */
#include "gemm.h"
#define PD_KERNELS "gemm_edges.cc"
#include "each_isa.h"

#ifdef PD_PASS

constexpr int kChunk = 256; /* elements rounded at a time, before their words are spread out */

static void stage_f32(uint32_t *words, int stride, const float *x, int64_t k) {
  for (int64_t i = 0; i < k; i++) words[i * stride] = float_to_bits(x[i]);
}

static void stage_bf16(uint32_t *words, int stride, const float *x, int64_t k) {
  uint16_t halves[kChunk];
  for (int64_t first = 0; first < k; first += kChunk) {
    const int count = k - first < kChunk ? (int)(k - first) : kChunk;
    for (int i = 0; i < count; i++) halves[i] = float_to_bf16(x[first + i]);
    if (count % 2 != 0) halves[count] = 0;
    for (int i = 0; i < count; i += 2, words += stride) memcpy(words, halves + i, 4);
  }
}

/* x = int8 * scale, scale = max |x| / 127. The maximum is taken over bit patterns: a NaN is the largest, so its row becomes NaN.
   Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low byte. */
static float stage_i8(uint32_t *words, int stride, const float *x, int64_t k, uint8_t flip) {
  int32_t largest_bits = 0;
  for (int64_t i = 0; i < k; i++) {
    const int32_t bits = (int32_t)(float_to_bits(x[i]) & 0x7FFFFFFFu);
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  const float largest = bits_to_float((uint32_t)largest_bits);
  const float inverse = largest_bits == 0 ? 0.0f : 127.0f / largest;
  uint8_t bytes[kChunk];
  for (int64_t first = 0; first < k; first += kChunk) {
    const int count = k - first < kChunk ? (int)(k - first) : kChunk;
    for (int i = 0; i < count; i++) bytes[i] = (uint8_t)(float_to_bits(x[first + i] * inverse + 12582912.0f) ^ flip);
    for (int i = count; i % 4 != 0; i++) bytes[i] = flip;
    for (int i = 0; i < count; i += 4, words += stride) memcpy(words, bytes + i, 4);
  }
  return largest / 127.0f;
}

static float stage_row(uint32_t *words, int stride, const float *x, int64_t k, XFormat format, uint8_t flip) {
  if (format == XFormat::I8) return stage_i8(words, stride, x, k, flip);
  if (format == XFormat::F32) stage_f32(words, stride, x, k);
  else stage_bf16(words, stride, x, k);
  return 1.0f;
}

PD_INLINE void copy_out(float *out, const float *values, int columns, const float *bias) {
  if (columns == kPanelRows && bias == nullptr) memcpy(out, values, kPanelRows * sizeof(float));
  else if (columns == kPanelRows) for (int c = 0; c < kPanelRows; c++) out[c] = values[c] + bias[c];
  else for (int c = 0; c < columns; c++) out[c] = bias == nullptr ? values[c] : values[c] + bias[c];
}

static void finish_row(float *out, const void *acc, int columns, const float *bias, const float *scales, float x_scale) {
  if (scales == nullptr) return copy_out(out, (const float *)acc, columns, bias);
  float values[kPanelRows];
  for (int c = 0; c < kPanelRows; c++) values[c] = (float)((const int32_t *)acc)[c] * (x_scale * scales[c]);
  copy_out(out, values, columns, bias);
}

#else

namespace pd {

GemmEdges gemm_edges(const IsaLevel &isa) { return {PD_PICK(isa, stage_row), PD_PICK(isa, finish_row)}; }

}  // namespace pd
#endif
