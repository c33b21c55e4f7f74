/* What happens to a row before and after the tile kernels: staging (rounding to the kernel's number format) and finishing (scales, bias).
   Plain loops that the compiler vectorises for each instruction set; the bits are the same for all. Used by gemm.cc. */
#include "gemm.h"
#include "grouped.h"
#define PD_KERNELS "gemm_edges.cc"
#include "each_isa.h"

#ifdef PD_PASS

constexpr int kChunk = 1024; /* elements of k that all rows of a tile are staged for in turn: their words stay in L1 meanwhile */

/* Largest magnitude, over bit patterns: a NaN is the largest, so its row becomes NaN. */
static float largest_of(const float *x, int64_t k) {
  int32_t largest = 0;
  for (int64_t i = 0; i < k; i++) {
    const int32_t bits = (int32_t)(float_to_bits(x[i]) & 0x7FFFFFFFu);
    largest = bits > largest ? bits : largest;
  }
  return bits_to_float((uint32_t)largest);
}

PD_INLINE void round_bf16(uint32_t *words, const float *x, int count) {
  words[(count - 1) / 2] = 0;
  narrow(words, x, PD_BF16, count);
}

/* Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low byte. */
PD_INLINE void round_i8(uint32_t *words, const float *x, int count, float inverse, uint8_t flip) {
  uint8_t *bytes = (uint8_t *)words;
  words[(count - 1) / 4] = flip * 0x01010101u;
  for (int i = 0; i < count; i++) bytes[i] = (uint8_t)(float_to_bits(x[i] * inverse + 12582912.0f) ^ flip);
}

/* 32 columns: 8 words, scale, minus sums, minus sums times the scale (grouped.h). */
PD_INLINE void round_group(uint32_t *words, const float *x, int count) {
  float values[kGroupedUnit] = {};
  memcpy(values, x, (size_t)count * 4);
  const float largest = largest_of(values, kGroupedUnit), scale = largest / 127.0f, inverse = largest == 0.0f ? 0.0f : 127.0f / largest;
  int8_t *bytes = (int8_t *)words;
  for (int i = 0; i < kGroupedUnit; i++) bytes[i] = (int8_t)(uint8_t)float_to_bits(values[i] * inverse + 12582912.0f);
  int32_t sums[3] = {};
  for (int i = 0; i < 16; i++) sums[1] -= bytes[i];
  for (int i = 16; i < 32; i++) sums[2] -= bytes[i];
  sums[0] = sums[1] + sums[2];
  words[kWordScale] = float_to_bits(scale);
  for (int i = 0; i < 3; i++) {
    words[kWordSums + i] = (uint32_t)sums[i];
    words[kWordScaledSums + i] = float_to_bits(scale * (float)sums[i]);
  }
}

static void stage_groups(const StageJob &job) {
  uint32_t words[kGroupedWords];
  for (int64_t unit = 0; unit * kGroupedUnit < job.k; unit++) {
    const int64_t left = job.k - unit * kGroupedUnit;
    for (int r = 0; r < job.row_count; r++) {
      round_group(words, job.rows[r] + unit * kGroupedUnit, left < kGroupedUnit ? (int)left : kGroupedUnit);
      uint32_t *target = job.words + unit * kGroupedWords * job.row_count + r;
      for (int w = 0; w < kGroupedWords; w++) target[w * job.row_count] = words[w];
    }
  }
}

static void stage_tile(const StageJob &job) {
  if (job.format == XFormat::Grouped) return stage_groups(job);
  const int elements = job.format == XFormat::F32 ? 1 : job.format == XFormat::BF16 ? 2 : 4;
  float inverses[kMaxTileRows];
  for (int r = 0; r < job.row_count && job.format == XFormat::I8; r++) {
    const float largest = largest_of(job.rows[r], job.k);
    job.scales[r] = largest / 127.0f;
    inverses[r] = largest == 0.0f ? 0.0f : 127.0f / largest;
  }
  uint32_t words[kChunk];
  for (int64_t first = 0; first < job.k; first += kChunk) {
    const int count = job.k - first < kChunk ? (int)(job.k - first) : kChunk;
    const int word_count = (count + elements - 1) / elements;
    for (int r = 0; r < job.row_count; r++) {
      const float *x = job.rows[r] + first;
      const uint32_t *from = words;
      if (job.format == XFormat::F32) from = (const uint32_t *)x;
      else if (job.format == XFormat::BF16) round_bf16(words, x, count);
      else round_i8(words, x, count, inverses[r], job.flip);
      uint32_t *target = job.words + first / elements * job.row_count + r;
      for (int w = 0; w < word_count; w++) target[w * job.row_count] = from[w];
    }
  }
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

static void finish_grouped_row(float *out, const void *acc, int columns, const float *bias, const float *scales, float) {
  float values[kPanelRows];
  for (int c = 0; c < kPanelRows; c++) values[c] = ((const float *)acc)[c] * scales[c];
  copy_out(out, values, columns, bias);
}

#else

namespace pd {

GemmEdges gemm_edges(const IsaLevel &isa) { return {PD_PICK(isa, stage_tile), PD_PICK(isa, finish_row), PD_PICK(isa, finish_grouped_row)}; }

}  // namespace pd
#endif
