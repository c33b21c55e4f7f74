/* The inner steps of paged attention, one set per instruction set: attention_scalar.cc (oracle), attention_vector.cc and attention_few.cc
   (AVX2, AVX-512). Driven by attention_piece.cc. All sets compute, for each query row, the same arithmetic in the same order, so their
   results are equal bit for bit, and a row's result does not depend on which rows it is blocked with:

     s[j] = sum over d ascending of q[d] * k[j][d]                  one fma per d, from 0; q carries the scale already
     p[j] = exp(s[j] - m), m the running maximum; masked keys: p = 0
     l    = l * alpha + sum(p), the sum in the tree of tile_sum     alpha = exp(old m - m)
     o[d] = o[d] * alpha, then + p[j] * v[j][d] for j ascending     one fma per j  */
#pragma once
#include <cstdint>
#include "runtime.h"

namespace pd {

constexpr int kKeyTile = PD_KEY_TILE;
constexpr int kMaxHeadDim = 256;

/* Row stride of q, values and out in a workspace: whole 16-lane groups; what lies past head_dim is computed and ignored. */
constexpr int padded_dim(int head_dim) { return (head_dim + 15) / 16 * 16; }

/* What a row keeps between key tiles. */
struct SoftmaxState { float maximum, sum; };

/* For up to kFewRows rows, as in decode: straight from the cache's rows, without a converted tile in between, while the same rows of the
   next tile are prefetched between the arithmetic. row_count: 1, 2, 4 or 8 (rows beyond the real ones are computed and ignored). */
constexpr int kFewRows = 8;
struct AttentionFew {
  void (*score)(float *scores, const float *q, const void *const *keys, const void *const *next_keys, int32_t dtype, int row_count,
                int head_dim);
  void (*accumulate)(float *out, const float *alpha, const float *p, const void *const *values, const void *const *next_values, int32_t dtype,
                     int row_count, int head_dim, int key_count);
};
const AttentionFew *attention_few_avx2();
const AttentionFew *attention_few_avx512();

struct AttentionKernel {
  /* keys_t[d][j] = float32 of rows[j][d]; rows: [64] pointers to head_dim elements of dtype */
  void (*load_keys)(float *keys_t, const void *const *rows, int32_t dtype, int head_dim);
  /* values: [64][padded_dim], values[j][d] = float32 of rows[j][d] for j < key_count */
  void (*load_values)(float *values, const void *const *rows, int32_t dtype, int head_dim, int key_count);
  /* scores: [row_count][64], at least the first key_count of each row; q: [row_count][padded_dim] */
  void (*score)(float *scores, const float *q, const float *keys_t, int row_count, int head_dim, int key_count);
  /* out: [row_count][padded_dim] = out * alpha[row] + p . values over j < key_count */
  void (*accumulate)(float *out, const float *alpha, const float *p, const float *values, int row_count, int head_dim, int key_count);
  /* One row: scores [64] become probabilities; only keys first <= j < end are seen (first < end). Returns alpha. */
  float (*soften)(float *scores, int first, int end, float softcap, SoftmaxState *state);
  const AttentionFew *few; /* NULL: use the steps above for any number of rows */
};

const AttentionKernel *attention_kernel_vector(const IsaLevel &isa); /* NULL: not for this instruction set */
const AttentionKernel *attention_kernel_scalar();

}  // namespace pd
