/* QK norm, rotary embedding and the store of k and v into the paged cache, in one pass over qkv. Twin: ../cpu/rope_store.cc
   One warp per (row, head). A row with slot -1 is padding: nothing of it is read or written. */
#include "paged.cuh"

namespace pd {
namespace {

constexpr int kWarps = 4;

// ---- kernels

template <typename T, typename Kv>
__global__ void rope_store_kernel(T *qkv,  // [rows, (heads + 2 * kvHeads) * headDim]
                                  PagedLayer layer, const int *positions, const int *slots, int row_count, int head_count,
                                  const float *q_norm, const float *k_norm, float eps,
                                  const float *rope,  // [maxPosition, rotary]
                                  int rotary) {
  __shared__ float head_values[kWarps][256];
  grid_release();
  grid_wait();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int all_heads = head_count + 2 * layer.kv_head_count, dim = layer.head_dim;
  const int64_t item = (int64_t)blockIdx.x * kWarps + warp;
  const int row = (int)(item / all_heads), head = (int)(item % all_heads);
  if (row >= row_count) return;
  const int slot = slots[row];
  if (slot < 0) return;
  T *x = qkv + ((size_t)row * all_heads + head) * dim;
  float *values = head_values[warp];
  float sum = 0.0f;
  for (int i = 2 * lane; i < dim; i += 64) {
    const float a = to_float(x[i]), b = to_float(x[i + 1]);
    values[i] = a;
    values[i + 1] = b;
    sum += a * a + b * b;
  }
  const bool is_query = head < head_count, is_value = head >= head_count + layer.kv_head_count;
  const float *norm = is_value ? nullptr : is_query ? q_norm : k_norm;
  float scale = 1.0f;
  if (norm != nullptr) scale = rsqrtf(warp_sum(sum) / dim + eps);
  __syncwarp();
  const int half = is_value ? 0 : rotary / 2;
  const float *cosine = rope + (size_t)positions[row] * rotary, *sine = cosine + half;
  const int kv_head = is_value ? head - head_count - layer.kv_head_count : head - head_count;
  const size_t block_offset = (size_t)(slot >> layer.block_shift) * layer.block_bytes;
  Kv *stored = is_query ? nullptr
                        : (Kv *)((is_value ? layer.values : layer.keys) + block_offset) +
                              layer.within(kv_head, slot & ((1 << layer.block_shift) - 1));
  for (int i = 2 * lane; i < dim; i += 64) {
#pragma unroll
    for (int j = i; j < i + 2; j++) {
      float value = values[j] * scale * (norm != nullptr ? norm[j] : 1.0f);
      if (j < 2 * half) {
        const int pair = j < half ? j : j - half, other = j < half ? j + half : j - half;
        const float partner = values[other] * scale * (norm != nullptr ? norm[other] : 1.0f);
        value = j < half ? value * cosine[pair] - partner * sine[pair] : value * cosine[pair] + partner * sine[pair];
      }
      if (is_query) x[j] = from_float<T>(value);
      else stored[j] = from_float<Kv>(value);
    }
  }
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_rope_store(PdStream *stream, int32_t dtype, void *qkv, const PdKvLayer *layer, const PdBatch *batch, int32_t head_count,
                             const float *q_norm, const float *k_norm, float eps, const float *rope, int32_t rotary) {
  if (int status = enter(stream->device)) return status;
  PagedLayer paged;
  if (int status = make_paged("rope_store", layer, &paged)) return status;
  if (rotary < 0 || rotary % 2 != 0 || rotary > layer->head_dim)
    return fail(PD_INVALID, "rope_store: %d rotary dimensions of %d", rotary, layer->head_dim);
  const int64_t items = (int64_t)batch->row_count * (head_count + 2 * layer->kv_head_count);
  return with_dtype("rope_store", dtype, [&](auto zero) {
    return with_dtype("rope_store", layer->dtype, [&](auto kv_zero) {
      using T = decltype(zero);
      using Kv = decltype(kv_zero);
      return launch(stream, "rope_store", rope_store_kernel<T, Kv>, (unsigned)ceil_div<int64_t>(items, kWarps), 32 * kWarps, 0, (T *)qkv, paged,
                    batch->positions, batch->slots, (int)batch->row_count, (int)head_count, q_norm, k_norm, eps, rope, (int)rotary);
    });
  });
}
