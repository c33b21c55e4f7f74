/* pd_move_kv: K and V between places of different dtype, block size or heads: packed into staging and back, or straight across.
   Runs on its stream's own thread, like plain copies: a transfer never takes the helpers from a running forward pass. Twin: ../cuda/move_kv.cu */
#include "fp8.h"
#define PD_KERNELS "move_kv.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

/* values: [count] -> codes and their scale. Not finite: the scale is not either, and so is every value that comes back. */
static void quantise_kernel(void *codes, float *scale, const float *values, int32_t dtype, int64_t count) {
  float largest = 0, sum = 0;
  for (int64_t i = 0; i < count; i++) {
    const float magnitude = fabsf(values[i]);
    largest = magnitude > largest ? magnitude : largest;
    sum += magnitude * 0.0f;  // NaN when one is not finite
  }
  *scale = dtype == PD_I8 ? (largest + sum) / 127.0f : fp8_scale(largest) + sum;
  const float inverse = largest > 0 ? 1.0f / *scale : 0.0f;
  if (dtype == PD_I8) {
    for (int64_t i = 0; i < count; i++) {
      float code = values[i] * inverse;
      code = code > 127.0f ? 127.0f : code >= -127.0f ? code : -127.0f;
      ((int8_t *)codes)[i] = (int8_t)(int32_t)(code + 12582912.0f - 12582912.0f);  // 1.5 * 2^23: rounds to nearest even
    }
  } else {
    for (int64_t i = 0; i < count; i++) ((uint8_t *)codes)[i] = float_to_e4m3(values[i] * inverse);
  }
}

static void dequantise_kernel(float *values, const void *codes, float scale, int32_t dtype, int64_t count) {
  if (dtype == PD_I8)
    for (int64_t i = 0; i < count; i++) values[i] = (float)((const int8_t *)codes)[i] * scale;
  else
    for (int64_t i = 0; i < count; i++) values[i] = e4m3_to_float(((const uint8_t *)codes)[i]) * scale;
}

static void load_kernel(float *values, const void *elements, const float *scale, int32_t dtype, int64_t count) {
  if (dtype == PD_F32) memcpy(values, elements, count * sizeof(float));
  else if (dtype == PD_BF16 || dtype == PD_F16) widen(values, elements, dtype, count);
  else dequantise_kernel(values, elements, *scale, dtype, count);
}

static void store_kernel(void *elements, float *scale, const float *values, int32_t dtype, int64_t count) {
  if (dtype == PD_F32 || dtype == PD_BF16 || dtype == PD_F16) narrow(elements, values, dtype, count);
  else quantise_kernel(elements, scale, values, dtype, count);
}

#else
#include <algorithm>
#include <vector>
#include "../move_kv.h"

using namespace pd;

namespace {

bool has_scales(int32_t dtype) { return dtype == PD_FP8_E4M3 || dtype == PD_I8; }

struct Side {
  PdKvPlace place;
  std::vector<int32_t> blocks;
  int32_t start, first_layer;

  /* The half of a layer (K or V) of the block that holds the range's token. */
  char *half(int32_t token, int32_t layer, int32_t which) const {
    const int32_t block = blocks[(start + token) / place.block_token_count];
    return (char *)place.base + block * place.block_bytes + (first_layer + layer) * place.layer_bytes + which * place.value_offset;
  }
  int64_t vector_index(int32_t token, int32_t head) const {
    return (int64_t)(head - place.first_head) * place.block_token_count + (start + token) % place.block_token_count;
  }
  /* Tokens from this one to the end of its block. */
  int32_t left(int32_t token) const { return place.block_token_count - (start + token) % place.block_token_count; }
};

Side side_of(const PdKvPlace *place, const int32_t *blocks, int32_t start, int32_t first_layer, int32_t token_count) {
  const int32_t block_count = (start + token_count + place->block_token_count - 1) / place->block_token_count;
  return Side{*place, std::vector<int32_t>(blocks, blocks + block_count), start, first_layer};
}

}  // namespace

extern "C" int pd_move_kv(PdStream *stream, const PdKvPlace *target, const int32_t *target_blocks, const PdKvPlace *source, const int32_t *source_blocks,
                          const PdKvRange *given) {
  const PdKvRange range = *given;
  if (const int status = check_move(target, target_blocks, source, source_blocks, range)) return status;
  Side to = side_of(target, target_blocks, range.target_start, range.target_layer, range.token_count);
  Side from = side_of(source, source_blocks, range.source_start, range.source_layer, range.token_count);
  const bool is_plain = target->dtype == source->dtype && !has_scales(target->dtype);
  const auto load = PD_PICK(isa_of(stream), load_kernel);
  const auto store = PD_PICK(isa_of(stream), store_kernel);
  return enqueue(stream, [=, to = std::move(to), from = std::move(from)](Pool &) {
    const size_t to_bytes = (size_t)range.head_dim * dtype_bytes(to.place.dtype), from_bytes = (size_t)range.head_dim * dtype_bytes(from.place.dtype);
    float values[kMovedHeadDimMax];
    for (int32_t token = 0, run; token < range.token_count; token += run) {
      run = std::min({to.left(token), from.left(token), range.token_count - token});
      for (int32_t part = 0; part < range.layer_count * 2 * range.head_count; part++) {
        const int32_t head = range.first_head + part % range.head_count, which = part / range.head_count % 2, layer = part / range.head_count / 2;
        char *target_half = to.half(token, layer, which);
        char *source_half = from.half(token, layer, which);
        const int64_t first_to = to.vector_index(token, head), first_from = from.vector_index(token, head);
        if (is_plain) {
          memcpy(target_half + first_to * to_bytes, source_half + first_from * from_bytes, run * to_bytes);
          continue;
        }
        float *target_scales = (float *)(target_half + to.place.scale_offset) + first_to;
        const float *source_scales = (const float *)(source_half + from.place.scale_offset) + first_from;
        for (int32_t i = 0; i < run; i++) {
          load(values, source_half + (first_from + i) * from_bytes, source_scales + i, from.place.dtype, range.head_dim);
          store(target_half + (first_to + i) * to_bytes, target_scales + i, values, to.place.dtype, range.head_dim);
        }
      }
    }
  });
}
#endif
