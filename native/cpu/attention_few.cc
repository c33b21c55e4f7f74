/* Attention of a few rows (decode) on AVX2 and AVX-512, at the speed of memory: keys are widened and transposed in registers, values are
   widened as they are used, and each step asks for a line of the next tile. Same arithmetic as attention_vector.cc, bit for bit. */
#include "attention.h"
#define PD_KERNELS "attention_few.cc"
#include "each_isa.h"

#ifdef PD_PASS
#if PD_PASS != PD_PASS_SCALAR
#include "attention_lanes.h"

PD_INLINE void prefetch(const void *row, int byte) { _mm_prefetch((const char *)row + byte, _MM_HINT_T0); }

/* scores[rows][16 * groups] of 16 * groups keys. Few rows take two groups, so that enough sums are in flight. */
template <int32_t dtype, int rows, int groups>
static void score_keys(float *scores, const float *q, const void *const *keys, const void *const *next_keys, int head_dim) {
  constexpr int bytes = dtype == PD_F32 ? 4 : 2;
  const int stride = padded_dim(head_dim);
  F16 sums[rows][groups];
  for (int r = 0; r < rows; r++)
    for (int g = 0; g < groups; g++) sums[r][g] = splat(0.0f);
  for (int first = 0; first < head_dim; first += 16) {
    const int count = head_dim - first < 16 ? 8 : 16;
    const bool asks = first * bytes % 64 == 0;
    for (int g = 0; g < groups; g++) {
      F16 block[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        block[i] = widen_row(keys[g * 16 + i], dtype, first, head_dim);
        if (asks) prefetch(next_keys[g * 16 + i], first * bytes);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int d = 0; d < 16; d++) {
        if (d == 8 && count == 8) break;
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sums[r][g] = fma(splat(q[r * stride + first + d]), block[d], sums[r][g]);
      }
    }
  }
  for (int r = 0; r < rows; r++)
    for (int g = 0; g < groups; g++) store(scores + r * kKeyTile + g * 16, sums[r][g]);
}

template <int32_t dtype, int rows>
static void score_rows(float *scores, const float *q, const void *const *keys, const void *const *next_keys, int head_dim) {
  constexpr int groups = rows <= 4 ? 2 : 1;
  for (int key = 0; key < kKeyTile; key += 16 * groups)
    score_keys<dtype, rows, groups>(scores + key, q, keys + key, next_keys + key, head_dim);
}

template <int32_t dtype>
static void score_of(float *scores, const float *q, const void *const *keys, const void *const *next_keys, int row_count, int head_dim) {
  if (row_count == 1) score_rows<dtype, 1>(scores, q, keys, next_keys, head_dim);
  else if (row_count == 2) score_rows<dtype, 2>(scores, q, keys, next_keys, head_dim);
  else if (row_count == 4) score_rows<dtype, 4>(scores, q, keys, next_keys, head_dim);
  else score_rows<dtype, 8>(scores, q, keys, next_keys, head_dim);
}

static void score(float *scores, const float *q, const void *const *keys, const void *const *next_keys, int32_t dtype, int row_count,
                  int head_dim) {
  if (dtype == PD_F32) score_of<PD_F32>(scores, q, keys, next_keys, row_count, head_dim);
  else if (dtype == PD_BF16) score_of<PD_BF16>(scores, q, keys, next_keys, row_count, head_dim);
  else score_of<PD_F16>(scores, q, keys, next_keys, row_count, head_dim);
}

struct Values {
  float *out;
  const float *alpha, *p;
  const void *const *rows, *const *next_rows;
  int head_dim, key_count;
};

/* out[rows][16 * groups] from column `first` on */
template <int32_t dtype, int rows, int groups>
static void accumulate_columns(const Values &values, int first) {
  constexpr int bytes = dtype == PD_F32 ? 4 : 2;
  const int stride = padded_dim(values.head_dim);
  F16 sums[rows][groups];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++) sums[r][g] = mul(load(values.out + r * stride + first + g * 16), splat(values.alpha[r]));
  for (int j = 0; j < values.key_count; j++) {
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++) {
      const F16 columns = widen_row(values.rows[j], dtype, first + g * 16, values.head_dim);
      if (g * 16 * bytes % 64 == 0) prefetch(values.next_rows[j], (first + g * 16) * bytes);
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) sums[r][g] = fma(splat(values.p[r * kKeyTile + j]), columns, sums[r][g]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++) store(values.out + r * stride + first + g * 16, sums[r][g]);
}

/* Columns in the widest steps whose sums fit the registers. */
template <int32_t dtype, int rows>
static void accumulate_rows(const Values &values) {
  constexpr int most = PD_PASS == PD_PASS_AVX512 ? (rows <= 2 ? 8 : 16 / rows) : (rows <= 2 ? 2 : 1);
  const int groups = padded_dim(values.head_dim) / 16;
  int group = 0;
  for (; groups - group >= most; group += most) accumulate_columns<dtype, rows, most>(values, group * 16);
  for (; group < groups; group++) accumulate_columns<dtype, rows, 1>(values, group * 16);
}

template <int32_t dtype>
static void accumulate_of(const Values &values, int row_count) {
  if (row_count == 1) accumulate_rows<dtype, 1>(values);
  else if (row_count == 2) accumulate_rows<dtype, 2>(values);
  else if (row_count == 4) accumulate_rows<dtype, 4>(values);
  else accumulate_rows<dtype, 8>(values);
}

static void accumulate(float *out, const float *alpha, const float *p, const void *const *rows, const void *const *next_rows, int32_t dtype,
                       int row_count, int head_dim, int key_count) {
  const Values values = {out, alpha, p, rows, next_rows, head_dim, key_count};
  if (dtype == PD_F32) accumulate_of<PD_F32>(values, row_count);
  else if (dtype == PD_BF16) accumulate_of<PD_BF16>(values, row_count);
  else accumulate_of<PD_F16>(values, row_count);
}

#endif
#else

namespace pd {

#if defined(__x86_64__)
const AttentionFew *attention_few_avx2() {
  static const AttentionFew few = {avx2::score, avx2::accumulate};
  return &few;
}
const AttentionFew *attention_few_avx512() {
  static const AttentionFew few = {avx512::score, avx512::accumulate};
  return &few;
}
#endif

}  // namespace pd
#endif
