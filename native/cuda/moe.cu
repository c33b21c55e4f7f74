/* Mixture of experts around the expert products: which experts a row takes, and the weighted sum of what they gave. Twin: ../cpu/moe.cc
   The products are in moe_linear.cu. */
#include <cfloat>
#include "kernel.cuh"

namespace pd {
namespace {

// ---- kernels

/* One warp per row; a lane holds experts lane, lane + 32, … in shared memory. */
__global__ void moe_route_kernel(int *expert_ids, float *expert_weights,  // [rows, top_k]
                                 const float *logits,                     // [rows, experts]
                                 int expert_count, int top_k, int normalise) {
  extern __shared__ float probabilities[];
  grid_release();
  grid_wait();
  const int lane = threadIdx.x;
  const float *row = logits + (size_t)blockIdx.x * expert_count;
  float *weights = expert_weights + (size_t)blockIdx.x * top_k;
  float best = -INFINITY;
  bool is_number = true;
  for (int e = lane; e < expert_count; e += 32) {
    best = fmaxf(best, row[e]);
    is_number &= row[e] <= FLT_MAX;
  }
  best = warp_max(best);
  if (!__all_sync(~0u, is_number) || best == -INFINITY) { /* nothing to choose by: which experts run does not matter, what they give becomes NaN */
    for (int j = lane; j < top_k; j += 32) {
      expert_ids[(size_t)blockIdx.x * top_k + j] = j;
      weights[j] = NAN;
    }
    return;
  }
  float total = 0.0f;
  for (int e = lane; e < expert_count; e += 32) total += probabilities[e] = expf(row[e] - best);
  total = warp_sum(total);
  float chosen = 0.0f;
  for (int j = 0; j < top_k; j++) {
    float top = -2.0f;
    int top_id = expert_count;
    for (int e = lane; e < expert_count; e += 32) {
      if (probabilities[e] > top) {
        top = probabilities[e];
        top_id = e;
      }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(~0u, top, step);
      const int other_id = __shfl_xor_sync(~0u, top_id, step);
      if (other > top || (other == top && other_id < top_id)) {
        top = other;
        top_id = other_id;
      }
    }
    if (lane == 0) {
      expert_ids[(size_t)blockIdx.x * top_k + j] = top_id;
      weights[j] = top / total;
    }
    chosen += top / total;
    if (top_id % 32 == lane) probabilities[top_id] = -1.0f;  // taken
    __syncwarp();
  }
  if (normalise != 0)
    for (int j = lane; j < top_k; j += 32) weights[j] /= chosen;
}

template <typename T>
__global__ void moe_combine_kernel(T *out,      // [rows, hidden]
                                   const T *x,  // [rows * top_k, hidden]
                                   const float *expert_weights, int top_k, int hidden) {
  grid_release();
  grid_wait();
  const size_t row = blockIdx.x;
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
    float sum = 0.0f;
    for (int j = 0; j < top_k; j++) sum = fmaf(expert_weights[row * top_k + j], to_float(x[(row * top_k + j) * hidden + i]), sum);
    out[row * hidden + i] = from_float<T>(sum);
  }
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_moe_route(PdStream *stream, int32_t *expert_ids, float *expert_weights, const float *logits, int32_t row_count,
                            int32_t expert_count, int32_t top_k, int32_t normalise) {
  if (int status = enter(stream->device)) return status;
  if (top_k < 1 || top_k > expert_count) return fail(PD_INVALID, "moe_route: top %d of %d experts", top_k, expert_count);
  return launch(stream, "moe_route", moe_route_kernel, row_count, 32, (size_t)expert_count * sizeof(float), expert_ids, expert_weights, logits,
                (int)expert_count, (int)top_k, (int)normalise);
}

extern "C" int pd_moe_combine(PdStream *stream, int32_t dtype, void *out, const void *x, const float *expert_weights, int32_t row_count,
                              int32_t top_k, int32_t hidden) {
  if (int status = enter(stream->device)) return status;
  return with_dtype("moe_combine", dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(stream, "moe_combine", moe_combine_kernel<T>, row_count, 256, 0, (T *)out, (const T *)x, expert_weights, (int)top_k, (int)hidden);
  });
}
