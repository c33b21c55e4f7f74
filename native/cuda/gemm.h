/* The four ways to multiply by a weight matrix that are our own. Used by linear.cu and moe_linear.cu; big 16-bit products go to cuBLASLt.

   gemv        (gemv.cu)        a few rows: reads the matrix once at memory speed
   gemm_stream (gemm_stream.cu) up to 8 rows in 16 bits on Hopper: bulk copies feed tensor cores at memory speed
   gemm_tensor (gemm_tensor.cu) 16-bit operands on mma.sync, rows picked by a list (experts)
   gemm_plain  (gemm_plain.cu)  any mix of dtypes in float32 without TF32, rows picked by a list or not */
#pragma once
#include "kernel.cuh"
#include "weight.h"

namespace pd {

/* Rows grouped by the matrix they go to, made by moe_linear.cu. NULL starts: all rows go to the only matrix, in order. */
struct RowGroups {
  const int *starts; /* [group_count + 1] */
  const int *rows;   /* rows of the output, group after group */
  int group_count;
  int divisor;       /* row j of the output reads row j / divisor of x */
};

struct Product {
  void *out;         /* [row_count, n] of out_dtype */
  const void *x;     /* [row_count / divisor, k] of dtype */
  const void *weight; /* [group_count, n, k] of format */
  const float *bias; /* [n] or NULL */
  int row_count, n, k;
  int32_t dtype, out_dtype, format;
  RowGroups groups;
};

constexpr int kGemvRowsMax = 4;
constexpr int kStreamRowsMax = 8;

/* Dtypes of x and weight any of f32, bf16, f16; k a multiple of 16 bytes of weight. No groups. row_count <= kGemvRowsMax */
int gemv(PdStream *stream, const Product &product);
/* sm_90; dtype == format, 16-bit; out that or float32; k a multiple of 16. No groups. row_count <= kStreamRowsMax */
int gemm_stream(PdStream *stream, const Product &product);
int gemm_plain(PdStream *stream, const Product &product);
/* dtype == format == out_dtype, 16-bit; k a multiple of 8 */
int gemm_tensor(PdStream *stream, const Product &product);

/* The tile of rows a block works on: which matrix, and how many of its rows come before. */
struct RowTile {
  int group; /* -1: nothing to do */
  int first, count;
};

/* Tile `index` counted over the groups in order. Called by whole warps. */
__device__ __forceinline__ RowTile row_tile_at(const RowGroups &groups, int row_count, int index, int tile_rows) {
  if (groups.starts == nullptr) {
    const int first = index * tile_rows;
    return RowTile{first < row_count ? 0 : -1, first, min(tile_rows, row_count - first)};
  }
  const int lane = threadIdx.x % 32;
  int before = 0;
  for (int base = 0; base < groups.group_count; base += 32) {
    const int group = base + lane;
    int start = 0, rows = 0;
    if (group < groups.group_count) {
      start = groups.starts[group];
      rows = groups.starts[group + 1] - start;
    }
    const int tiles = (rows + tile_rows - 1) / tile_rows;
    int inclusive = tiles;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, inclusive, step);
      if (lane >= step) inclusive += other;
    }
    const unsigned reached = __ballot_sync(~0u, before + inclusive > index);
    if (reached != 0) {
      const int owner = __ffs(reached) - 1;
      const int skipped = (index - before - __shfl_sync(~0u, inclusive - tiles, owner)) * tile_rows;
      const int owner_rows = __shfl_sync(~0u, rows, owner);
      return RowTile{base + owner, __shfl_sync(~0u, start, owner) + skipped, min(tile_rows, owner_rows - skipped)};
    }
    before += __shfl_sync(~0u, inclusive, 31);
  }
  return RowTile{-1, 0, 0};
}

/* Most tiles there can be, for the launch. */
inline unsigned row_tile_bound(const Product &p, int tile_rows) {
  if (p.groups.starts == nullptr) return (unsigned)ceil_div(p.row_count, tile_rows);
  return (unsigned)(p.row_count / tile_rows + (p.groups.group_count < p.row_count ? p.groups.group_count : p.row_count));
}

__device__ __forceinline__ int row_at(const RowGroups &groups, int index) { return groups.rows == nullptr ? index : groups.rows[index]; }

}  // namespace pd
