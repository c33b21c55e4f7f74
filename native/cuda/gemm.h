/* The four ways to multiply by a weight matrix that are our own. Used by linear.cu and moe_linear.cu; big 16-bit products go to cuBLASLt.

   gemv        (gemv.cu)        a few rows: reads the matrix once at memory speed
   gemm_stream (gemm_stream.cu) up to 8 rows in 16 bits or fp8 on Hopper: bulk copies feed tensor cores at memory speed
   gemm_tensor (gemm_tensor.cu) 16-bit or fp8 operands on mma.sync, rows picked by a list (experts) or not
   gemm_plain  (gemm_plain.cu)  any mix of dtypes in float32 without TF32, rows picked by a list or not

   gemm_stream and gemm_tensor add in the same order and give the same bits. */
#pragma once
#include "fp8.cuh"
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
  const void *x;     /* [row_count / divisor, k] of dtype; for gemm_tensor with an fp8 weight: of fp8, see quantise() */
  const void *weight; /* [group_count, n, k] of format */
  const float *bias; /* [n] or NULL */
  int row_count, n, k;
  int32_t dtype, out_dtype, format;
  RowGroups groups;
  const float *x_scales;      /* [row_count / divisor], with x in fp8 */
  const float *weight_scales; /* [group_count, n], with an fp8 weight */
};

constexpr int kGemvRowsMax = 4;
constexpr int kStreamRowsMax = 8;
constexpr int kSlices = 8, kSliceBytes = 256; /* of k, see gemm_tensor.cu */

/* Dtypes of x and weight any of f32, bf16, f16; k a multiple of 16 bytes of weight. No groups. row_count <= kGemvRowsMax */
int gemv(PdStream *stream, const Product &product);
/* sm_90; 16-bit activations, format the same or fp8; out the same or float32; rows of k in steps of 32 bytes of weight. No groups.
   row_count <= kStreamRowsMax. fp8: quantises x on its way, to the values that quantise() gives. */
int gemm_stream(PdStream *stream, const Product &product);
int gemm_plain(PdStream *stream, const Product &product);
/* 16-bit x, format the same; or both fp8; out any; rows of k in steps of 16 bytes of weight */
int gemm_tensor(PdStream *stream, const Product &product);

/* x in e4m3 with a scale per row. x: [row_count, k] of dtype */
int quantise(PdStream *stream, int32_t dtype, fp8 *out, float *scales, const void *x, int row_count, int k);

/* Replaces x of a product by x in fp8, in the stream's scratch. */
int quantise_to_scratch(PdStream *stream, Product *product, int x_row_count);

/* What becomes of a finished sum: the scales of fp8 operands, the bias, rounding to the output's dtype. T: of the operands */
template <typename T>
struct Epilogue {
  const Product &p;
  const float *weight_scales;
  int64_t start; /* of the row in out */
  float x_scale;

  __device__ __forceinline__ Epilogue(const Product &p, int group, int row) : p(p), start((int64_t)row * p.n) {
    if constexpr (std::is_same_v<T, fp8>) {
      weight_scales = p.weight_scales + (int64_t)group * p.n;
      x_scale = p.x_scales[row / p.groups.divisor];
    }
  }
  __device__ __forceinline__ float value(int col, float sum) const {
    if constexpr (std::is_same_v<T, fp8>) sum *= x_scale * weight_scales[col];
    return p.bias != nullptr ? sum + p.bias[col] : sum;
  }
  __device__ __forceinline__ void store(int col, float sum) const {
    const float result = value(col, sum);
    if (p.out_dtype == PD_F32) ((float *)p.out)[start + col] = result;
    else if (p.out_dtype == PD_BF16) ((bf16 *)p.out)[start + col] = from_float<bf16>(result);
    else ((f16 *)p.out)[start + col] = from_float<f16>(result);
  }
  /* col and n even */
  __device__ __forceinline__ void store2(int col, float first, float second) const {
    const float2 result = make_float2(value(col, first), value(col + 1, second));
    if (p.out_dtype == PD_F32) *(float2 *)((float *)p.out + start + col) = result;
    else if (p.out_dtype == PD_BF16) *(__nv_bfloat162 *)((bf16 *)p.out + start + col) = __float22bfloat162_rn(result);
    else *(__half2 *)((f16 *)p.out + start + col) = __float22half2_rn(result);
  }
};

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
