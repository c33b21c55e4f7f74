/* pd_move_kv: K and V between places of different dtype, block size or heads: packed into staging (pinned host memory too) and back, or straight
   into a peer's cache. One warp a vector; the block lists travel as kernel parameters. Twin: ../cpu/move_kv.cc */
#include <algorithm>
#include "fp8.cuh"
#include "../move_kv.h"

namespace pd {
namespace {

constexpr int kBlocksPerLaunch = 224; /* per side: lists and structs stay below the 4 KiB of parameters */
constexpr int kThreads = 256;
constexpr int kPerLane = kMovedHeadDimMax / 32;

struct MoveList {
  PdKvPlace target, source;
  PdKvRange range;
  int32_t target_blocks[kBlocksPerLaunch], source_blocks[kBlocksPerLaunch];
};

struct Vector1 {
  char *elements;
  float *scale;
};

__host__ __device__ bool has_scales(int32_t dtype) { return dtype == PD_FP8_E4M3 || dtype == PD_I8; }
__host__ __device__ int bytes_of(int32_t dtype) { return dtype == PD_F32 ? 4 : has_scales(dtype) ? 1 : 2; }

__device__ Vector1 locate(const PdKvPlace &place, const int32_t *blocks, int position, int layer, int which, int head, int head_dim) {
  const int slot = position % place.block_token_count;
  char *half = (char *)place.base + (uint64_t)blocks[position / place.block_token_count] * place.block_bytes + layer * place.layer_bytes + which * place.value_offset;
  const uint64_t index = (uint64_t)(head - place.first_head) * place.block_token_count + slot;
  return {half + index * head_dim * bytes_of(place.dtype), (float *)(half + place.scale_offset) + index};
}

__device__ float load_element(const char *elements, int i, int32_t dtype, float scale) {
  switch (dtype) {
    case PD_F32: return ((const float *)elements)[i];
    case PD_BF16: return to_float(((const bf16 *)elements)[i]);
    case PD_F16: return to_float(((const f16 *)elements)[i]);
    case PD_I8: return (float)((const int8_t *)elements)[i] * scale;
    default: return (float)((const __nv_fp8_e4m3 *)elements)[i] * scale;
  }
}

__device__ void store_element(char *elements, int i, int32_t dtype, float value, float inverse) {
  switch (dtype) {
    case PD_F32: ((float *)elements)[i] = value; break;
    case PD_BF16: ((bf16 *)elements)[i] = from_float<bf16>(value); break;
    case PD_F16: ((f16 *)elements)[i] = from_float<f16>(value); break;
    case PD_I8: ((int8_t *)elements)[i] = (int8_t)min(127, max(-127, __float2int_rn(value * inverse))); break;
    default: ((__nv_fp8_storage_t *)elements)[i] = __nv_cvt_float_to_fp8(value * inverse, __NV_SATFINITE, __NV_E4M3);
  }
}

// ---- kernels

/* A vector's warp: tokens are neighbours, then heads, K and V, layers. */
__global__ void __launch_bounds__(kThreads) move_kv_kernel(const __grid_constant__ MoveList list) {
  grid_wait();
  const PdKvRange &range = list.range;
  const int64_t index = blockIdx.x * (int64_t)(kThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int token = index % range.token_count, head = index / range.token_count % range.head_count;
  const int which = index / range.token_count / range.head_count % 2, layer = index / range.token_count / range.head_count / 2;
  if (layer >= range.layer_count) return;
  const Vector1 from = locate(list.source, list.source_blocks, range.source_start + token, range.source_layer + layer, which, range.first_head + head, range.head_dim);
  const Vector1 to = locate(list.target, list.target_blocks, range.target_start + token, range.target_layer + layer, which, range.first_head + head, range.head_dim);
  const float source_scale = has_scales(list.source.dtype) ? *from.scale : 1.0f;
  float values[kPerLane];
  float largest = 0, sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; i++) {
    const int at = i * 32 + lane;
    values[i] = at < range.head_dim ? load_element(from.elements, at, list.source.dtype, source_scale) : 0.0f;
    largest = fmaxf(largest, fabsf(values[i]));
    sum += fabsf(values[i]) * 0.0f; /* NaN when one is not finite */
  }
  float inverse = 1.0f;
  if (has_scales(list.target.dtype)) {
    largest = warp_max(largest);
    const float extra = warp_sum(sum); /* NaN when a value is not finite */
    const float scale = list.target.dtype == PD_I8 ? (largest + extra) / 127.0f : fp8_scale(largest) + extra;
    inverse = largest > 0 ? 1.0f / scale : 0.0f;
    if (lane == 0) *to.scale = scale;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; i++) {
    const int at = i * 32 + lane;
    if (at < range.head_dim) store_element(to.elements, at, list.target.dtype, values[i], inverse);
  }
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_move_kv(PdStream *stream, const PdKvPlace *target, const int32_t *target_blocks, const PdKvPlace *source, const int32_t *source_blocks,
                          const PdKvRange *range) {
  if (int status = enter(stream->device)) return status;
  if (int status = check_move(target, target_blocks, source, source_blocks, *range)) return status;
  stream->has_moved_keys = true;
  MoveList list{*target, *source, *range, {}, {}};
  const int smaller = std::min(target->block_token_count, source->block_token_count);
  const int tokens_per_launch = (kBlocksPerLaunch - 1) * smaller;
  for (int first = 0; first < range->token_count; first += tokens_per_launch) {
    list.range.token_count = std::min(tokens_per_launch, range->token_count - first);
    const int target_block = (range->target_start + first) / target->block_token_count, source_block = (range->source_start + first) / source->block_token_count;
    list.range.target_start = (range->target_start + first) % target->block_token_count;
    list.range.source_start = (range->source_start + first) % source->block_token_count;
    const int target_count = ceil_div(list.range.target_start + list.range.token_count, target->block_token_count);
    const int source_count = ceil_div(list.range.source_start + list.range.token_count, source->block_token_count);
    std::copy_n(target_blocks + target_block, target_count, list.target_blocks);
    std::copy_n(source_blocks + source_block, source_count, list.source_blocks);
    const int64_t vectors = (int64_t)list.range.token_count * range->head_count * 2 * range->layer_count;
    const dim3 grid((unsigned)ceil_div<int64_t>(vectors, kThreads / 32));
    if (int status = launch(stream, "move_kv", move_kv_kernel, grid, kThreads, 0, list)) return status;
  }
  return PD_OK;
}
