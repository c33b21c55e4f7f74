/* Attention for what the tensor-core kernels do not take: float32, caches of another dtype than the activations, odd head_dim.
   One block per (row, head); its warps share out the keys, each with a softmax of its own, merged at the end. For correctness, not speed. */
#include "attention.h"

namespace pd {
namespace {

constexpr int kWarps = 4;
constexpr int kLaneDims = 8; /* head_dim 256 / 32 lanes */

// ---- kernels

/* The sequence that owns a row; -1 when none does. Sequences ascend, so the last start at or before the row. */
__device__ int sequence_of(const Attention &a, int row) {
  int low = 0, high = a.sequence_count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (a.query_start[middle + 1] <= row) low = middle + 1;
    else high = middle;
  }
  return low < a.sequence_count ? low : -1;
}

template <typename T, typename Kv>
__global__ void __launch_bounds__(32 * kWarps) attention_plain_kernel(const Attention a) {
  __shared__ float maxima[kWarps], sums[kWarps], outs[kWarps][32 * kLaneDims];
  grid_release();
  grid_wait();
  const int row = blockIdx.x / a.head_count, head = blockIdx.x % a.head_count;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = a.layer.head_dim;
  const int sequence = sequence_of(a, row);
  if (sequence < 0) return;
  T *out = (T *)a.out + ((size_t)row * a.head_count + head) * dim;
  const int kv_count = a.kv_count[sequence];
  if (kv_count == 0) {
    for (int i = threadIdx.x; i < dim; i += blockDim.x) out[i] = from_float<T>(0.0f);
    return;
  }
  const int position = kv_count - (a.query_start[sequence + 1] - row);
  const int first = a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
  const T *q = (const T *)a.q + (size_t)row * a.q_row_stride + (size_t)head * dim;
  const int *table = a.block_table + (size_t)sequence * a.block_table_stride;
  const ScoreScale to_exponent{a.scale, a.softcap};
  float query[kLaneDims], sum_out[kLaneDims], best = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kLaneDims; i++) {
    const int at = lane + 32 * i;
    query[i] = at < dim ? to_float(q[at]) : 0.0f;
    sum_out[i] = 0.0f;
  }
  for (int key = first + warp; key <= position; key += kWarps) {
    const int block_id = a.layer.block_of(table, key);
    if (block_id < 0) continue; /* the same for all lanes */
    const size_t block = (size_t)block_id * a.layer.block_bytes;
    const size_t within = a.layer.within(head / a.group, key & ((1 << a.layer.block_shift) - 1));
    const Kv *k = (const Kv *)(a.layer.keys + block) + within;
    const Kv *v = (const Kv *)(a.layer.values + block) + within;
    float key_scale = 1.0f, value_scale = 1.0f;
    if constexpr (std::is_same_v<Kv, fp8>) {
      const int slot = key & ((1 << a.layer.block_shift) - 1);
      key_scale = *a.layer.scale(a.layer.keys + block, head / a.group, slot);
      value_scale = *a.layer.scale(a.layer.values + block, head / a.group, slot);
    }
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < kLaneDims; i++)
      if (lane + 32 * i < dim) dot = fmaf(query[i], to_float(k[lane + 32 * i]), dot);
    const float score = to_exponent(warp_sum(dot) * key_scale);
    const float higher = fmaxf(best, score), rescale = exp2f(best - higher), weight = exp2f(score - higher);
    best = higher;
    sum = sum * rescale + weight;
#pragma unroll
    for (int i = 0; i < kLaneDims; i++)
      if (lane + 32 * i < dim) sum_out[i] = fmaf(weight * value_scale, to_float(v[lane + 32 * i]), sum_out[i] * rescale);
  }
  if (lane == 0) {
    maxima[warp] = best;
    sums[warp] = sum;
  }
#pragma unroll
  for (int i = 0; i < kLaneDims; i++) outs[warp][lane + 32 * i] = sum_out[i];
  __syncthreads();
  float total_best = -INFINITY, total = 0.0f;
  for (int w = 0; w < kWarps; w++) total_best = fmaxf(total_best, maxima[w]);
  for (int w = 0; w < kWarps; w++) total += sums[w] * exp2f(maxima[w] - total_best);
  for (int i = threadIdx.x; i < dim; i += blockDim.x) {
    float value = 0.0f;
    for (int w = 0; w < kWarps; w++) value += outs[w][i] * exp2f(maxima[w] - total_best);
    out[i] = from_float<T>(value / total);
  }
}

}  // namespace

// ---- launchers

int attention_plain(PdStream *stream, int32_t dtype, int32_t cache_dtype, const Attention &attention) {
  return with_dtype("paged_attention", dtype, [&](auto zero) {
    return with_cache_dtype("paged_attention", cache_dtype, [&](auto kv_zero) {
      return launch(stream, "paged_attention", attention_plain_kernel<decltype(zero), decltype(kv_zero)>,
                    (unsigned)(attention.row_count * attention.head_count), 32 * kWarps, 0, attention);
    });
  });
}

}  // namespace pd
