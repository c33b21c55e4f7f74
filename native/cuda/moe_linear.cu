/* pd_moe_linear: groups the (row, expert) pairs by expert on the GPU, then multiplies each group by its expert's matrix in one launch.
   Twin: ../cpu/moe_linear.cc */
#include "gemm.h"

namespace pd {
namespace {

constexpr int kThreads = 1024;

// ---- kernels

/* One block. starts: [experts + 1]; rows: pairs by expert. The order within an expert may differ between runs; no result depends on it. */
__global__ void __launch_bounds__(kThreads) moe_group_kernel(int *starts, int *rows, const int *expert_ids, int pair_count, int expert_count) {
  extern __shared__ int counts[]; /* [experts] */
  const auto expert_of = [=](int pair) { return min(max(expert_ids[pair], 0), expert_count - 1); };
  grid_wait();
  for (int e = threadIdx.x; e < expert_count; e += kThreads) counts[e] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < pair_count; i += kThreads) atomicAdd(&counts[expert_of(i)], 1);
  __syncthreads();
  if (threadIdx.x < 32) {
    int before = 0;
    for (int base = 0; base < expert_count; base += 32) {
      const int e = base + threadIdx.x, count = e < expert_count ? counts[e] : 0;
      int inclusive = count;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0u, inclusive, step);
        if ((int)threadIdx.x >= step) inclusive += other;
      }
      if (e < expert_count) starts[e] = counts[e] = before + inclusive - count;
      before += __shfl_sync(~0u, inclusive, 31);
    }
    if (threadIdx.x == 0) starts[expert_count] = before;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < pair_count; i += kThreads) rows[atomicAdd(&counts[expert_of(i)], 1)] = i;
  grid_release();
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_moe_linear(PdStream *stream, int32_t dtype, void *out, const void *x, PdWeight *weight, const int32_t *expert_ids,
                             int32_t pair_count, int32_t divisor) {
  if (int status = enter(stream->device)) return status;
  if (divisor < 1) return fail(PD_INVALID, "moe_linear: divisor %d", divisor);
  if (pair_count == 0) return PD_OK;
  void *memory = nullptr;
  if (int status = scratch(stream, Scratch::kMoeGroups, ((size_t)weight->count + 1 + pair_count) * sizeof(int), &memory)) return status;
  int *starts = (int *)memory, *rows = starts + weight->count + 1;
  if (int status = launch(stream, "moe_linear", moe_group_kernel, 1, kThreads, weight->count * sizeof(int), starts, rows, expert_ids,
                          (int)pair_count, (int)weight->count))
    return status;
  Product product{out, x, weight->data, nullptr, pair_count, weight->n, weight->k, dtype, dtype, weight->format,
                  RowGroups{starts, rows, weight->count, divisor}, nullptr, weight->scales};
  if (weight->format == PD_FP8_E4M3) {
    if (int status = quantise_to_scratch(stream, &product, ceil_div(pair_count, divisor))) return status;
    return gemm_tensor(stream, product);
  }
  const bool is_tensor_core = dtype == weight->format && dtype != PD_F32 && weight->k % 8 == 0;
  return is_tensor_core ? gemm_tensor(stream, product) : gemm_plain(stream, product);
}
