/* Matrix product on mma.sync tensor cores with a fixed order of additions: the experts' products, all experts in one launch, and every product
   when results may not depend on the batch (pd_set_batch_invariant).

   Tiles of rows x columns by 128 bytes of k, several in flight. The order is gemm_stream's, so that both give the same bits: of every 8 x 256 bytes of
   k, the first 256 belong to slice 0, the next to slice 1, …; a slice is added up ascending, then the slices in order:

     k        | 0 | 1 | 2 | 3 | … | 7 | 8 | 9 | …        pieces of 256 bytes
     visited    0   8   16 … then 1   9   17 … then 2 …  */
#include "gemm.h"
#include "mma.cuh"

namespace pd {
namespace {

constexpr int kPanelBytes = 128, kPitch = kPanelBytes + 16; /* odd in units of 16 bytes: no bank conflicts */
constexpr int kChunks = kPanelBytes / 16;

/* A block's tile of kRows x kCols, in warps of kWarpRows x kWarpCols. */
template <int kRowCount, int kColCount, int kWarpRowCount, int kWarpColCount, int kStageCount>
struct Tile {
  static constexpr int kRows = kRowCount, kCols = kColCount, kWarpRows = kWarpRowCount, kWarpCols = kWarpColCount, kStages = kStageCount;
  static constexpr int kWarpsAcross = kCols / kWarpCols, kThreads = 32 * kWarpsAcross * (kRows / kWarpRows);
  static constexpr int kStageBytes = (kRows + kCols) * kPitch, kSharedBytes = kStages * kStageBytes;
  static_assert(kRows * (kCols + 4) * 4 <= kSharedBytes, "the sums take the stages' place");
};
using FewRows = Tile<16, 64, 16, 16, 8>;
using SomeRows = Tile<64, 64, 32, 32, 6>;
using ManyRows = Tile<128, 128, 32, 64, 4>;

/* Which panel comes next. */
struct Walk {
  static constexpr int kPiece = kSliceBytes / kPanelBytes, kRound = kSlices * kPiece; /* panels */
  int panels, panel = 0;
  __device__ explicit Walk(int panels) : panels(panels) {}
  __device__ int next_of_slice() const { return panel % kPiece < kPiece - 1 ? panel + 1 : panel + kRound - kPiece + 1; }
  __device__ bool is_slice_end() const { return next_of_slice() >= panels; }
  __device__ void advance() { panel = is_slice_end() ? (panel % kRound / kPiece + 1) * kPiece : next_of_slice(); }
};

// ---- kernels

template <typename T, typename S>
__global__ void __launch_bounds__(S::kThreads) gemm_tensor_kernel(const Product p) {
  constexpr int kRowTiles = S::kWarpRows / 16, kColTiles = S::kWarpCols / 8;
  extern __shared__ __align__(16) char shared[];
  __shared__ int rows[S::kRows];
  grid_release();
  grid_wait();
  const RowTile tile = row_tile_at(p.groups, p.row_count, blockIdx.x, S::kRows);
  if (tile.group < 0) return;
  if (threadIdx.x < S::kRows) rows[threadIdx.x] = (int)threadIdx.x < tile.count ? row_at(p.groups, tile.first + threadIdx.x) : -1;
  __syncthreads();
  const int64_t row_bytes = (int64_t)p.k * sizeof(T);
  const char *matrix = (const char *)p.weight + (int64_t)tile.group * p.n * row_bytes;
  const int col_first = blockIdx.y * S::kCols, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int panels = (int)((row_bytes + kPanelBytes - 1) / kPanelBytes);
  constexpr int kCopies = (S::kRows + S::kCols) * kChunks / S::kThreads; /* of a thread and panel: the same rows every time */
  const char *sources[kCopies];
#pragma unroll
  for (int i = 0; i < kCopies; i++) {
    const int row = (i * S::kThreads + threadIdx.x) / kChunks, col = col_first + row - S::kRows;
    if (row < S::kRows) sources[i] = rows[row] < 0 ? nullptr : (const char *)p.x + rows[row] / p.groups.divisor * row_bytes;
    else sources[i] = col < p.n ? matrix + col * row_bytes : nullptr;
  }
  Walk ahead(panels);
  int copied = 0;
  const auto copy_panel = [&]() {
    if (copied < panels) {
      const uint32_t target = shared_address(shared) + copied % S::kStages * S::kStageBytes + threadIdx.x / kChunks * kPitch + threadIdx.x % kChunks * 16;
      const int at = ahead.panel * kPanelBytes + threadIdx.x % kChunks * 16;
#pragma unroll
      for (int i = 0; i < kCopies; i++) {
        const bool is_valid = sources[i] != nullptr && at < row_bytes;
        copy_async16(target + i * (S::kThreads / kChunks) * kPitch, is_valid ? sources[i] + at : (const char *)p.weight, is_valid);
      }
      copied++;
      ahead.advance();
    }
    copy_async_commit();
  };
  const int warp_row = warp / S::kWarpsAcross * S::kWarpRows, warp_col = warp % S::kWarpsAcross * S::kWarpCols;
  float sums[kRowTiles][kColTiles][4] = {}, slice[kRowTiles][kColTiles][4] = {};
#pragma unroll
  for (int i = 0; i < S::kStages - 1; i++) copy_panel();
  Walk walk(panels);
  for (int done = 0; done < panels; done++, walk.advance()) {
    copy_async_wait<S::kStages - 2>();
    __syncthreads();
    const uint32_t stage = shared_address(shared) + done % S::kStages * S::kStageBytes;
    copy_panel();
#pragma unroll
    for (int step = 0; step < kPanelBytes / 32; step++) {
      uint32_t inputs[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; m++) ldmatrix4(inputs[m], stage + (warp_row + m * 16 + lane % 16) * kPitch + step * 32 + lane / 16 * 16);
#pragma unroll
      for (int c = 0; c < kColTiles / 2; c++) {
        uint32_t weights[4];
        ldmatrix4(weights, stage + (S::kRows + warp_col + c * 16 + lane / 16 * 8 + lane % 8) * kPitch + step * 32 + lane / 8 % 2 * 16);
#pragma unroll
        for (int m = 0; m < kRowTiles; m++) {
          mma16816<T>(slice[m][2 * c], inputs[m], weights[0], weights[1]);
          mma16816<T>(slice[m][2 * c + 1], inputs[m], weights[2], weights[3]);
        }
      }
    }
    if (!walk.is_slice_end()) continue;
#pragma unroll
    for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
      for (int c = 0; c < kColTiles; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          sums[m][c][i] += slice[m][c][i];
          slice[m][c][i] = 0.0f;
        }
      }
    }
  }
  copy_async_wait<0>();
  __syncthreads(); /* the stages become the tile's sums, [kRows][kCols + 4] */
  constexpr int kSumPitch = S::kCols + 4;
  float *const tile_sums = (float *)shared;
#pragma unroll
  for (int m = 0; m < kRowTiles; m++) {
#pragma unroll
    for (int c = 0; c < kColTiles; c++) {
      float *at = tile_sums + (warp_row + m * 16 + lane / 4) * kSumPitch + warp_col + c * 8 + lane % 4 * 2;
      *(float2 *)at = make_float2(sums[m][c][0], sums[m][c][1]);
      *(float2 *)(at + 8 * kSumPitch) = make_float2(sums[m][c][2], sums[m][c][3]);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < S::kRows * S::kCols / 2; i += S::kThreads) {
    const int row = i / (S::kCols / 2), at = i % (S::kCols / 2) * 2, col = col_first + at;
    if (rows[row] < 0 || col >= p.n) continue;
    const Epilogue<T> finish(p, tile.group, rows[row]);
    const float2 pair = *(const float2 *)(tile_sums + row * kSumPitch + at);
    if (p.n % 2 == 0) {
      finish.store2(col, pair.x, pair.y);
    } else {
      finish.store(col, pair.x);
      if (col + 1 < p.n) finish.store(col + 1, pair.y);
    }
  }
}

// ---- launchers

template <typename T, typename S>
int launch_tile(PdStream *stream, const Product &p) {
  const dim3 grid(row_tile_bound(p, S::kRows), (unsigned)ceil_div(p.n, S::kCols)); /* neighbours share a stretch of the matrix */
  return launch(stream, "linear (tensor)", gemm_tensor_kernel<T, S>, grid, S::kThreads, S::kSharedBytes, p);
}

template <typename T>
int launch_rows(PdStream *stream, const Product &p) {
  const int rows_per_group = p.row_count / (p.groups.starts == nullptr ? 1 : p.groups.group_count);
  if (rows_per_group <= 16) return launch_tile<T, FewRows>(stream, p);
  return rows_per_group <= 64 ? launch_tile<T, SomeRows>(stream, p) : launch_tile<T, ManyRows>(stream, p);
}

}  // namespace

int gemm_tensor(PdStream *stream, const Product &p) {
  if (p.format == PD_FP8_E4M3) return launch_rows<fp8>(stream, p);
  return p.dtype == PD_BF16 ? launch_rows<bf16>(stream, p) : launch_rows<f16>(stream, p);
}

}  // namespace pd
