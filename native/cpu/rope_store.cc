/* QK norm, rotary embedding and the store of k and v into the paged cache, in one pass over qkv. Twin: ../cuda/rope_store.cu
   A row with slot -1 is padding: nothing of it is read or written. */
#include <algorithm>
#include "fp8.h"
#define PD_KERNELS "rope_store.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

/* x *= weight / sqrt(mean(x^2) + eps); the sum runs in 16 lanes. */
PD_INLINE void normalise_head(float *x, const float *weight, int64_t dim, float eps) {
  F16 sums = splat(0);
  for (int64_t i = 0; i < dim; i += 16) {
    const F16 v = load_row(x, i, dim);
    sums = fma(v, v, sums);
  }
  const F16 scale = splat(1.0f / std::sqrt(sum_lanes(sums) / (float)dim + eps));
  for (int64_t i = 0; i < dim; i += 16) store_row(x, i, dim, mul(mul(load_row(x, i, dim), scale), load_row(weight, i, dim)));
}

/* Pairs (i, i + half) turn by the angle whose cosine and sine are given. cosine, sine: [half] */
PD_INLINE void rotate_head(float *x, const float *cosine, const float *sine, int64_t half) {
  for (int64_t i = 0; i < half; i += 16) {
    const F16 a = load_row(x, i, half), b = load_row(x + half, i, half), c = load_row(cosine, i, half), s = load_row(sine, i, half);
    store_row(x, i, half, sub(mul(a, c), mul(b, s)));
    store_row(x + half, i, half, add(mul(b, c), mul(a, s)));
  }
}

/* One head's keys or values into an fp8 half of a block: codes and, behind all codes, a scale per (head, slot). vector: which of them */
static void store_fp8(char *half, const float *x, int64_t vector, int64_t vector_count, int64_t dim) {
  float largest = 0;
  for (int64_t i = 0; i < dim; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
  const float scale = fp8_scale(largest), inverse = 1.0f / scale;
  ((float *)(half + vector_count * dim))[vector] = scale;
  for (int64_t i = 0; i < dim; i++) ((uint8_t *)half)[vector * dim + i] = float_to_e4m3(x[i] * inverse);
}

/* qkv: one row [(heads + 2 * kvHeads) * headDim], slot: its place in the cache, rope: one position's [rotary] */
static void rope_store_row(float *qkv, const PdKvLayer *layer, int64_t slot, int32_t head_count, const float *q_norm, const float *k_norm,
                           float eps, const float *rope, int32_t rotary) {
  const int64_t dim = layer->head_dim, half = rotary / 2, kv_heads = layer->kv_head_count;
  for (int64_t head = 0; head < head_count + kv_heads; head++) {
    float *x = qkv + head * dim;
    const float *norm = head < head_count ? q_norm : k_norm;
    if (norm != nullptr) normalise_head(x, norm, dim, eps);
    rotate_head(x, rope, rope + half, half);
  }
  const int64_t element_bytes = layer->dtype == PD_F32 ? 4 : 2, in_block = slot % layer->block_token_count;
  char *block = (char *)layer->base + slot / layer->block_token_count * layer->block_bytes;
  const float *keys = qkv + head_count * dim, *values = keys + kv_heads * dim;
  for (int64_t head = 0; head < kv_heads; head++) {
    const int64_t vector = head * layer->block_token_count + in_block, place = vector * dim * element_bytes;
    if (layer->dtype == PD_FP8_E4M3) {
      const int64_t vector_count = kv_heads * layer->block_token_count;
      store_fp8(block + layer->key_offset, keys + head * dim, vector, vector_count, dim);
      store_fp8(block + layer->value_offset, values + head * dim, vector, vector_count, dim);
      continue;
    }
    narrow(block + layer->key_offset + place, keys + head * dim, layer->dtype, dim);
    narrow(block + layer->value_offset + place, values + head * dim, layer->dtype, dim);
  }
}

#else
// ---- launchers
using namespace pd;

extern "C" int pd_rope_store(PdStream *stream, int32_t dtype, void *qkv, const PdKvLayer *layer, const PdBatch *batch, int32_t head_count,
                             const float *q_norm, const float *k_norm, float eps, const float *rope, int32_t position_count,
                             int32_t rotary) {
  if (const int status = check_activations("rope_store", dtype)) return status;
  if (layer->dtype != PD_F32 && layer->dtype != PD_BF16 && layer->dtype != PD_F16 && layer->dtype != PD_FP8_E4M3)
    return fail(PD_UNSUPPORTED, "rope_store: cache of dtype %s", dtype_name(layer->dtype));
  if (rotary < 0 || rotary % 2 != 0 || rotary > layer->head_dim)
    return fail(PD_INVALID, "rope_store: %d rotary dimensions of %d", rotary, layer->head_dim);
  if (position_count < 1) return fail(PD_INVALID, "rope_store: a table of %d positions", position_count);
  const auto kernel = PD_PICK(isa_of(stream), rope_store_row);
  return enqueue(stream, [=, layer = *layer, batch = *batch](Pool &pool) {
    const int64_t row_floats = (int64_t)(head_count + 2 * layer.kv_head_count) * layer.head_dim;
    pool.parallel_for(batch.row_count, 1 + 8192 / (row_floats + 1), [&](int64_t begin, int64_t end, int) {
      const int64_t slot_count = (int64_t)layer.block_count * layer.block_token_count;
      for (int64_t r = begin; r < end; r++) {
        if (batch.slots[r] < 0 || batch.slots[r] >= slot_count) continue;
        const int64_t position = std::clamp(batch.positions[r], 0, position_count - 1);
        kernel((float *)qkv + r * row_floats, &layer, batch.slots[r], head_count, q_norm, k_norm, eps, rope + position * rotary, rotary);
      }
    });
  });
}
#endif
