/* Tiled matrix product in float32 for any mix of dtypes: correctness, not speed. K ascends with one accumulator per output, so a row's result
   does not depend on the other rows. */
#include "gemm.h"

namespace pd {
namespace {

constexpr int kTile = 64, kPanel = 16, kThreads = 256, kEach = 4; /* 16 x 16 threads, 4 x 4 outputs each */

// ---- kernels

template <typename T, typename W, typename Out>
__global__ void __launch_bounds__(kThreads) gemm_plain_kernel(Out *out, const T *x, const W *weight, const float *bias, int row_count, int n, int k,
                                                              RowGroups groups) {
  __shared__ float inputs[kPanel][kTile + 4], weights[kPanel][kTile + 4];
  __shared__ int rows[kTile];
  grid_release();
  grid_wait();
  const RowTile tile = row_tile_at(groups, row_count, blockIdx.y, kTile);
  if (tile.group < 0) return;
  if (threadIdx.x < kTile) rows[threadIdx.x] = threadIdx.x < tile.count ? row_at(groups, tile.first + threadIdx.x) : -1;
  const W *matrix = weight + (size_t)tile.group * n * k;
  const int col_first = blockIdx.x * kTile, ty = threadIdx.x / 16 * kEach, tx = threadIdx.x % 16 * kEach;
  float sums[kEach][kEach] = {};
  for (int start = 0; start < k; start += kPanel) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * kPanel; i += kThreads) {
      const int r = i / kPanel, c = i % kPanel, at = start + c;
      inputs[c][r] = rows[r] >= 0 && at < k ? to_float(x[(size_t)(rows[r] / groups.divisor) * k + at]) : 0.0f;
      weights[c][r] = col_first + r < n && at < k ? to_float(matrix[(size_t)(col_first + r) * k + at]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kPanel; c++) {
      const float4 a = *(const float4 *)&inputs[c][ty], b = *(const float4 *)&weights[c][tx];
      const float as[kEach] = {a.x, a.y, a.z, a.w}, bs[kEach] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < kEach; i++) {
#pragma unroll
        for (int j = 0; j < kEach; j++) sums[i][j] = fmaf(as[i], bs[j], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    if (rows[ty + i] < 0) continue;
#pragma unroll
    for (int j = 0; j < kEach; j++) {
      const int col = col_first + tx + j;
      if (col < n) out[(size_t)rows[ty + i] * n + col] = from_float<Out>(sums[i][j] + (bias != nullptr ? bias[col] : 0.0f));
    }
  }
}

}  // namespace

// ---- launchers

int gemm_plain(PdStream *stream, const Product &p) {
  const dim3 grid((unsigned)ceil_div(p.n, kTile), row_tile_bound(p, kTile));
  return with_dtype("linear", p.dtype, [&](auto zero) {
    return with_dtype("linear", p.format, [&](auto weight_zero) {
      using T = decltype(zero);
      using W = decltype(weight_zero);
      const auto run = [&](auto out_zero) {
        using Out = decltype(out_zero);
        return launch(stream, "linear", gemm_plain_kernel<T, W, Out>, grid, kThreads, 0, (Out *)p.out, (const T *)p.x, (const W *)p.weight, p.bias,
                      p.row_count, p.n, p.k, p.groups);
      };
      if (p.out_dtype == PD_F32) return run(float{});
      if constexpr (!std::is_same_v<T, float>)
        if (p.out_dtype == p.dtype) return run(T{});
      return fail(PD_UNSUPPORTED, "linear: %s activations to %s output", dtype_name(p.dtype), dtype_name(p.out_dtype));
    });
  });
}

}  // namespace pd
