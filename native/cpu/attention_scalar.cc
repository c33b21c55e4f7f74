/* Plain loops: the oracle of paged attention. Order of operations: attention.h. */
#include <cmath>
#include "attention.h"
#include "half.h"
#include "vmath.h"

namespace pd {
namespace {

float element(const void *row, int32_t dtype, int d) {
  if (dtype == PD_F32) return static_cast<const float *>(row)[d];
  uint16_t half = static_cast<const uint16_t *>(row)[d];
  return dtype == PD_BF16 ? bf16_to_float(half) : f16_to_float(half);
}

void load_keys(float *keys_t, const void *const *rows, int32_t dtype, int head_dim) {
  for (int j = 0; j < kKeyTile; j++)
    for (int d = 0; d < head_dim; d++) keys_t[d * kKeyTile + j] = element(rows[j], dtype, d);
}

void load_values(float *values, const void *const *rows, int32_t dtype, int head_dim, int key_count) {
  for (int j = 0; j < key_count; j++)
    for (int d = 0; d < head_dim; d++) values[j * padded_dim(head_dim) + d] = element(rows[j], dtype, d);
}

void score(float *scores, const float *q, const float *keys_t, int row_count, int head_dim, int key_count) {
  for (int r = 0; r < row_count; r++) {
    for (int j = 0; j < key_count; j++) {
      float sum = 0.0f;
      for (int d = 0; d < head_dim; d++) sum = std::fma(q[r * padded_dim(head_dim) + d], keys_t[d * kKeyTile + j], sum);
      scores[r * kKeyTile + j] = sum;
    }
  }
}

/* 64 values: four groups of 16 added pairwise, then halves added down to one. */
float tile_sum(const float *p) {
  float lanes[16];
  for (int i = 0; i < 16; i++) lanes[i] = (p[i] + p[16 + i]) + (p[32 + i] + p[48 + i]);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

float soften(float *scores, int first, int end, float softcap, SoftmaxState *state) {
  float maximum = state->maximum;
  for (int j = 0; j < kKeyTile; j++) {
    if (softcap > 0.0f) scores[j] = softcap * tanh_scalar(scores[j] / softcap);
    if (j < first || j >= end) scores[j] = -INFINITY;
    maximum = scores[j] > maximum ? scores[j] : maximum;
  }
  float alpha = exp_scalar(state->maximum - maximum);
  for (int j = 0; j < kKeyTile; j++) scores[j] = exp_scalar(scores[j] - maximum);
  state->maximum = maximum;
  state->sum = std::fma(state->sum, alpha, tile_sum(scores));
  return alpha;
}

void accumulate(float *out, const float *alpha, const float *p, const float *values, int row_count, int head_dim, int key_count) {
  const int stride = padded_dim(head_dim);
  for (int r = 0; r < row_count; r++) {
    for (int d = 0; d < head_dim; d++) {
      float sum = out[r * stride + d] * alpha[r];
      for (int j = 0; j < key_count; j++) sum = std::fma(p[r * kKeyTile + j], values[j * stride + d], sum);
      out[r * stride + d] = sum;
    }
  }
}

}  // namespace

const AttentionKernel *attention_kernel_scalar() {
  static const AttentionKernel kernel = {load_keys, load_values, score, accumulate, soften, nullptr};
  return &kernel;
}

}  // namespace pd
