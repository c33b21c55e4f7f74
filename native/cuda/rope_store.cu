/* QK norm, rotary embedding and the store of k and v into the paged cache, in one pass over qkv. Twin: ../cpu/rope_store.cc
   One warp per (row, head). A row with slot -1 is padding: nothing of it is read or written. */
#include "paged.cuh"

namespace pd {
namespace {

constexpr int kWarps = 4;

// ---- kernels

/* Two neighbouring elements. */
template <typename T>
__device__ __forceinline__ float2 load_pair(const T *source) {
  if constexpr (std::is_same_v<T, float>) return *(const float2 *)source;
  struct alignas(4) Pair { T at[2]; };
  const Pair pair = *(const Pair *)source;
  return make_float2(to_float(pair.at[0]), to_float(pair.at[1]));
}

template <typename T>
__device__ __forceinline__ void store_pair(T *target, float2 value) {
  if constexpr (std::is_same_v<T, float>) {
    *(float2 *)target = value;
  } else {
    struct alignas(4) Pair { T at[2]; };
    *(Pair *)target = Pair{{from_float<T>(value.x), from_float<T>(value.y)}};
  }
}

/* grid: (rows, heads / kWarps). A head passes through shared memory, so that any lane finds the partner half a rotation away; elements move in
   pairs. An odd half (rotary 2, 6, …) takes the slow way. */
template <typename T, typename Kv>
__global__ void __launch_bounds__(32 * kWarps) rope_store_kernel(T *qkv,  // [rows, (heads + 2 * kvHeads) * headDim]
                                                                 PagedLayer layer, const int *positions, const int *slots, int head_count,
                                                                 const float *q_norm, const float *k_norm, float eps,
                                                                 const float *rope,  // [position_count, rotary]
                                                                 int position_count, int rotary) {
  constexpr bool kIsFp8 = std::is_same_v<Kv, fp8>;
  __shared__ float head_values[kWarps][256], rotated[kIsFp8 ? kWarps : 1][256];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x, head = blockIdx.y * kWarps + warp;
  const int all_heads = head_count + 2 * layer.kv_head_count, dim = layer.head_dim;
  grid_release();
  grid_wait();
  if (head >= all_heads) return;
  const int slot = slots[row], position = min(max(positions[row], 0), position_count - 1);
  if (!layer.has_slot(slot)) return;
  const bool is_query = head < head_count, is_value = head >= head_count + layer.kv_head_count;
  const int half = is_value ? 0 : rotary / 2;
  const float *cosine = rope + (size_t)position * rotary, *sine = cosine + half;
  const float *norm = is_value ? nullptr : is_query ? q_norm : k_norm;
  T *x = qkv + ((size_t)row * all_heads + head) * dim;
  float *values = head_values[warp];
  float sum = 0.0f;
  for (int i = 2 * lane; i < dim; i += 64) {
    const float2 pair = load_pair(x + i);
    *(float2 *)(values + i) = pair;
    sum += pair.x * pair.x + pair.y * pair.y;
  }
  const float scale = norm != nullptr ? rsqrtf(warp_sum(sum) / dim + eps) : 1.0f;
  __syncwarp();
  const int kv_head = is_value ? head - head_count - layer.kv_head_count : head - head_count, in_block = slot & ((1 << layer.block_shift) - 1);
  char *const block = (is_value ? layer.values : layer.keys) + (size_t)(slot >> layer.block_shift) * layer.block_bytes;
  Kv *const stored = (Kv *)block + layer.within(kv_head, in_block); /* not for queries */
  const auto scaled = [&](int i) {
    float2 pair = *(const float2 *)(values + i);
    const float2 weight = norm != nullptr ? *(const float2 *)(norm + i) : make_float2(1.0f, 1.0f);
    return make_float2(pair.x * scale * weight.x, pair.y * scale * weight.y);
  };
  const auto keep = [&](int i, float2 pair) {
    if (is_query) store_pair(x + i, pair);
    else if constexpr (kIsFp8) *(float2 *)(rotated[warp] + i) = pair;
    else store_pair(stored + i, pair);
  };
  if (half % 2 == 0) {
    for (int i = 2 * lane; i < half; i += 64) {
      const float2 a = scaled(i), b = scaled(i + half), c = *(const float2 *)(cosine + i), s = *(const float2 *)(sine + i);
      keep(i, make_float2(a.x * c.x - b.x * s.x, a.y * c.y - b.y * s.y));
      keep(i + half, make_float2(b.x * c.x + a.x * s.x, b.y * c.y + a.y * s.y));
    }
    for (int i = 2 * half + 2 * lane; i < dim; i += 64) keep(i, scaled(i));
  } else {
    for (int i = 2 * lane; i < dim; i += 64) {
      float out[2];
      for (int j = i; j < i + 2; j++) {
        const auto at = [&](int e) { return values[e] * scale * (norm != nullptr ? norm[e] : 1.0f); };
        out[j - i] = j < half ? at(j) * cosine[j] - at(j + half) * sine[j]
                     : j < 2 * half ? at(j) * cosine[j - half] + at(j - half) * sine[j - half] : at(j);
      }
      keep(i, make_float2(out[0], out[1]));
    }
  }
  if constexpr (kIsFp8) {
    if (is_query) return;
    float largest = 0.0f;
    __syncwarp();
    for (int i = lane; i < dim; i += 32) largest = fmaxf(largest, fabsf(rotated[warp][i]));
    const float stored_scale = fp8_scale(warp_max(largest)), inverse = inverse_scale(stored_scale);
    if (lane == 0) *layer.scale(block, kv_head, in_block) = stored_scale;
    for (int i = 2 * lane; i < dim; i += 64) *(uint16_t *)(stored + i) = (uint16_t)pack_fp8(rotated[warp][i] * inverse, rotated[warp][i + 1] * inverse);
  }
}

constexpr int kHeadsPerWarp = 4;

/* The same for heads of 128 that rotate whole, the common case: four heads of a row per warp, all loads before the first use, and a lane holds both
   elements of its pairs (2 * lane and 64 + 2 * lane). grid: (rows, heads / 16) */
template <typename T, typename Kv>
__global__ void __launch_bounds__(32 * kWarps) rope_store_128_kernel(T *qkv, PagedLayer layer, const int *positions, const int *slots, int head_count,
                                                                     const float *q_norm, const float *k_norm, float eps, const float *rope,
                                                                     int position_count) {
  constexpr int kDim = 128;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x, head_first = (blockIdx.y * kWarps + warp) * kHeadsPerWarp;
  const int all_heads = head_count + 2 * layer.kv_head_count;
  grid_release();
  grid_wait();
  const int slot = slots[row], position = min(max(positions[row], 0), position_count - 1);
  if (head_first >= all_heads || !layer.has_slot(slot)) return;
  const float *angles = rope + (size_t)position * kDim + 2 * lane;
  T *x = qkv + ((size_t)row * all_heads + head_first) * kDim + 2 * lane;
  float2 low[kHeadsPerWarp], high[kHeadsPerWarp];
#pragma unroll
  for (int i = 0; i < kHeadsPerWarp; i++) {
    if (head_first + i >= all_heads) continue;
    low[i] = load_pair(x + i * kDim);
    high[i] = load_pair(x + i * kDim + 64);
  }
  const float2 cosine = *(const float2 *)angles, sine = *(const float2 *)(angles + 64);
#pragma unroll
  for (int i = 0; i < kHeadsPerWarp; i++) {
    const int head = head_first + i;
    if (head >= all_heads) continue;
    const bool is_query = head < head_count, is_value = head >= head_count + layer.kv_head_count;
    float2 a = low[i], b = high[i];
    const float *norm = is_value ? nullptr : is_query ? q_norm : k_norm;
    if (norm != nullptr) {
      const float scale = rsqrtf(warp_sum(a.x * a.x + a.y * a.y + b.x * b.x + b.y * b.y) / kDim + eps);
      const float2 c = *(const float2 *)(norm + 2 * lane), d = *(const float2 *)(norm + 64 + 2 * lane);
      a = make_float2(a.x * scale * c.x, a.y * scale * c.y);
      b = make_float2(b.x * scale * d.x, b.y * scale * d.y);
    }
    if (!is_value) {
      const float2 before = a;
      a = make_float2(a.x * cosine.x - b.x * sine.x, a.y * cosine.y - b.y * sine.y);
      b = make_float2(b.x * cosine.x + before.x * sine.x, b.y * cosine.y + before.y * sine.y);
    }
    if (is_query) {
      store_pair(x + i * kDim, a);
      store_pair(x + i * kDim + 64, b);
    } else {
      const int kv_head = is_value ? head - head_count - layer.kv_head_count : head - head_count, in_block = slot & ((1 << layer.block_shift) - 1);
      char *const block = (is_value ? layer.values : layer.keys) + (size_t)(slot >> layer.block_shift) * layer.block_bytes;
      Kv *const stored = (Kv *)block + layer.within(kv_head, in_block) + 2 * lane;
      if constexpr (std::is_same_v<Kv, fp8>) {
        const float scale = fp8_scale(warp_max(fmaxf(fmaxf(fabsf(a.x), fabsf(a.y)), fmaxf(fabsf(b.x), fabsf(b.y))))), inverse = inverse_scale(scale);
        if (lane == 0) *layer.scale(block, kv_head, in_block) = scale;
        *(uint16_t *)stored = (uint16_t)pack_fp8(a.x * inverse, a.y * inverse);
        *(uint16_t *)(stored + 64) = (uint16_t)pack_fp8(b.x * inverse, b.y * inverse);
      } else {
        store_pair(stored, a);
        store_pair(stored + 64, b);
      }
    }
  }
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_rope_store(PdStream *stream, int32_t dtype, void *qkv, const PdKvLayer *layer, const PdBatch *batch, int32_t head_count,
                             const float *q_norm, const float *k_norm, float eps, const float *rope, int32_t position_count,
                             int32_t rotary) {
  if (int status = enter(stream->device)) return status;
  PagedLayer paged;
  if (int status = make_paged("rope_store", layer, &paged)) return status;
  if (rotary < 0 || rotary % 2 != 0 || rotary > layer->head_dim)
    return fail(PD_INVALID, "rope_store: %d rotary dimensions of %d", rotary, layer->head_dim);
  if (position_count < 1) return fail(PD_INVALID, "rope_store: a table of %d positions", position_count);
  const int all_heads = head_count + 2 * layer->kv_head_count;
  const bool is_common = layer->head_dim == 128 && rotary == 128;
  const dim3 grid(batch->row_count, ceil_div(all_heads, is_common ? kWarps * kHeadsPerWarp : kWarps));
  return with_dtype("rope_store", dtype, [&](auto zero) {
    return with_cache_dtype("rope_store", layer->dtype, [&](auto kv_zero) {
      using T = decltype(zero);
      using Kv = decltype(kv_zero);
      if (is_common)
        return launch(stream, "rope_store", rope_store_128_kernel<T, Kv>, grid, 32 * kWarps, 0, (T *)qkv, paged, batch->positions, batch->slots,
                      (int)head_count, q_norm, k_norm, eps, rope, (int)position_count);
      return launch(stream, "rope_store", rope_store_kernel<T, Kv>, grid, 32 * kWarps, 0, (T *)qkv, paged,
                    batch->positions, batch->slots, (int)head_count, q_norm, k_norm, eps, rope, (int)position_count,
                    (int)rotary);
    });
  });
}
