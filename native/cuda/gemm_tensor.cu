/* Grouped matrix product on mma.sync tensor cores: the rows of each expert against its matrix, all experts in one launch, float32 accumulation.
   Tiles of 16 or 64 rows by 128 columns by 64 k, three tiles in flight. K ascends with one accumulator per output, so a row's result does
   not depend on the other rows. */
#include "gemm.h"
#include "mma.cuh"

namespace pd {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kCols = 128, kPanel = 64, kStages = 3;
constexpr int kPitch = kPanel * 2 + 16; /* bytes; odd in units of 16: no bank conflicts */

template <int kRows>
struct Shape {
  static constexpr int kWarpRows = kRows == 16 ? 16 : 32;             /* 4 warps beside each other, or 2 x 2 */
  static constexpr int kWarpCols = kRows == 16 ? kCols / 4 : kCols / 2;
  static constexpr int kStageBytes = (kRows + kCols) * kPitch;
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

// ---- kernels

template <typename T, int kRows>
__global__ void __launch_bounds__(kThreads) gemm_tensor_kernel(T *out, const T *x, const T *weight, int row_count, int n, int k, RowGroups groups) {
  using S = Shape<kRows>;
  extern __shared__ __align__(16) char shared[];
  __shared__ int rows[kRows];
  grid_release();
  grid_wait();
  const RowTile tile = row_tile_at(groups, row_count, blockIdx.y, kRows);
  if (tile.group < 0) return;
  if (threadIdx.x < kRows) rows[threadIdx.x] = threadIdx.x < tile.count ? row_at(groups, tile.first + threadIdx.x) : -1;
  __syncthreads();
  const T *matrix = weight + (size_t)tile.group * n * k;
  const int col_first = blockIdx.x * kCols, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int panels = (k + kPanel - 1) / kPanel;
  const auto copy_panel = [&](int panel) {
    if (panel < panels) {
      const uint32_t stage = shared_address(shared) + panel % kStages * S::kStageBytes;
      constexpr int kChunks = kPanel / 8;
#pragma unroll
      for (int i = 0; i < (kRows + kCols) * kChunks / kThreads; i++) {
        const int chunk = i * kThreads + threadIdx.x, row = chunk / kChunks, at = panel * kPanel + chunk % kChunks * 8;
        const bool is_input = row < kRows;
        const int col = col_first + row - kRows;
        const bool is_valid = at < k && (is_input ? rows[row] >= 0 : col < n);
        const T *source = is_input ? x + (size_t)(is_valid ? rows[row] / groups.divisor : 0) * k : matrix + (size_t)(is_valid ? col : 0) * k;
        copy_async16(stage + row * kPitch + chunk % kChunks * 16, source + (is_valid ? at : 0), is_valid);
      }
    }
    copy_async_commit();
  };
  const int warp_row = kRows == 16 ? 0 : warp / 2 * 32, warp_col = kRows == 16 ? warp * 32 : warp % 2 * 64;
  float sums[S::kWarpRows / 16][S::kWarpCols / 8][4] = {};
  copy_panel(0);
  copy_panel(1);
  for (int panel = 0; panel < panels; panel++) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    copy_panel(panel + kStages - 1);
    const uint32_t stage = shared_address(shared) + panel % kStages * S::kStageBytes;
#pragma unroll
    for (int step = 0; step < kPanel / 16; step++) {
      uint32_t inputs[S::kWarpRows / 16][4];
#pragma unroll
      for (int m = 0; m < S::kWarpRows / 16; m++) ldmatrix4(inputs[m], stage + (warp_row + m * 16 + lane % 16) * kPitch + step * 32 + lane / 16 * 16);
#pragma unroll
      for (int c = 0; c < S::kWarpCols / 16; c++) {
        uint32_t weights[4];
        ldmatrix4(weights, stage + (kRows + warp_col + c * 16 + lane / 16 * 8 + lane % 8) * kPitch + step * 32 + lane / 8 % 2 * 16);
#pragma unroll
        for (int m = 0; m < S::kWarpRows / 16; m++) {
          mma16816<T>(sums[m][2 * c], inputs[m], weights[0], weights[1]);
          mma16816<T>(sums[m][2 * c + 1], inputs[m], weights[2], weights[3]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < S::kWarpRows / 16; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = rows[warp_row + m * 16 + half * 8 + lane / 4];
      if (row < 0) continue;
#pragma unroll
      for (int c = 0; c < S::kWarpCols / 8; c++) {
        const int col = col_first + warp_col + c * 8 + lane % 4 * 2;
        if (col < n) out[(size_t)row * n + col] = from_float<T>(sums[m][c][half * 2]);
        if (col + 1 < n) out[(size_t)row * n + col + 1] = from_float<T>(sums[m][c][half * 2 + 1]);
      }
    }
  }
}

// ---- launchers

template <typename T, int kRows>
int launch_tensor(PdStream *stream, const Product &p) {
  const dim3 grid((unsigned)ceil_div(p.n, kCols), row_tile_bound(p, kRows));
  return launch(stream, "moe_linear", gemm_tensor_kernel<T, kRows>, grid, kThreads, Shape<kRows>::kSharedBytes, (T *)p.out, (const T *)p.x,
                (const T *)p.weight, p.row_count, p.n, p.k, p.groups);
}

template <typename T>
int launch_tensor_rows(PdStream *stream, const Product &p) {
  const int rows_per_group = p.row_count / (p.groups.starts == nullptr ? 1 : p.groups.group_count);
  return rows_per_group <= 16 ? launch_tensor<T, 16>(stream, p) : launch_tensor<T, 64>(stream, p);
}

}  // namespace

int gemm_tensor(PdStream *stream, const Product &p) {
  return p.dtype == PD_BF16 ? launch_tensor_rows<bf16>(stream, p) : launch_tensor_rows<f16>(stream, p);
}

}  // namespace pd
