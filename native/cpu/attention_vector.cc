/* The inner steps of paged attention on AVX2 and AVX-512. Equal to attention_scalar.cc bit for bit (order: attention.h).
   Scores and outputs are both small matrix products over a float32 tile, so one register-blocked product serves both:

     score       [rows, 64]       = q [rows, head_dim] . keys_t [head_dim, 64]
     accumulate  [rows, head_dim] = p [rows, 64]       . values [64, head_dim]   */
#include "attention.h"
#define PD_KERNELS "attention_vector.cc"
#include "each_isa.h"

#ifdef PD_PASS
#if PD_PASS != PD_PASS_SCALAR

#include "attention_lanes.h"

/* Rows and 16-lane groups that accumulate in registers: 24 of 32 zmm, 12 of 16 ymm. */
constexpr int kRows = 6, kGroups = PD_PASS == PD_PASS_AVX512 ? 4 : 1;

template <int32_t dtype>
static void load_keys_of(float *keys_t, const void *const *rows, int head_dim) {
  for (int first_key = 0; first_key < kKeyTile; first_key += 16) {
    for (int first = 0; first < head_dim; first += 16) {
      F16 block[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) block[i] = widen_row(rows[first_key + i], dtype, first, head_dim);
      transpose(block);
      const int count = head_dim - first < 16 ? head_dim - first : 16;
      float *target = keys_t + first * kKeyTile + first_key;
      if (count == 16) {
#pragma GCC unroll 16
        for (int d = 0; d < 16; d++) store(target + d * kKeyTile, block[d]);
      } else {
#pragma GCC unroll 8
        for (int d = 0; d < 8; d++) store(target + d * kKeyTile, block[d]);
      }
    }
  }
}

static void load_keys(float *keys_t, const void *const *rows, int32_t dtype, int head_dim) {
  if (dtype == PD_F32) load_keys_of<PD_F32>(keys_t, rows, head_dim);
  else if (dtype == PD_BF16) load_keys_of<PD_BF16>(keys_t, rows, head_dim);
  else load_keys_of<PD_F16>(keys_t, rows, head_dim);
}

template <int32_t dtype>
static void load_values_of(float *values, const void *const *rows, int head_dim, int key_count) {
  const int stride = padded_dim(head_dim);
  for (int j = 0; j < key_count; j++)
    for (int first = 0; first < head_dim; first += 16) store(values + j * stride + first, widen_row(rows[j], dtype, first, head_dim));
}

static void load_values(float *values, const void *const *rows, int32_t dtype, int head_dim, int key_count) {
  if (dtype == PD_F32) load_values_of<PD_F32>(values, rows, head_dim, key_count);
  else if (dtype == PD_BF16) load_values_of<PD_BF16>(values, rows, head_dim, key_count);
  else load_values_of<PD_F16>(values, rows, head_dim, key_count);
}

/* c[r][columns] = (alpha ? c[r] * alpha[r] : 0) + sum over t ascending of a[r][t] * b[t][columns] */
struct Product {
  float *c;
  const float *a, *b, *alpha;
  int c_stride, a_stride, b_stride, steps;
};

template <int rows, int groups>
static void multiply(const Product &product) {
  F16 sums[rows][groups];
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++)
      sums[r][g] = product.alpha == nullptr ? splat(0.0f) : mul(load(product.c + r * product.c_stride + g * 16), splat(product.alpha[r]));
  const float *a = product.a, *b = product.b;
  const int a_stride = product.a_stride, b_stride = product.b_stride;
  for (int t = 0; t < product.steps; t++, b += b_stride) {
    F16 columns[groups];
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) columns[g] = load(b + g * 16);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
      const F16 value = splat(a[r * a_stride + t]);
#pragma GCC unroll 4
      for (int g = 0; g < groups; g++) sums[r][g] = fma(value, columns[g], sums[r][g]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) store(product.c + r * product.c_stride + g * 16, sums[r][g]);
}

template <int groups>
static void multiply_rows(Product product, int rows) {
  switch (rows) {
    case 1: return multiply<1, groups>(product);
    case 2: return multiply<2, groups>(product);
    case 3: return multiply<3, groups>(product);
    case 4: return multiply<4, groups>(product);
    case 5: return multiply<5, groups>(product);
    default: return multiply<6, groups>(product);
  }
}

/* all rows, all `columns` (a multiple of 16) */
static void multiply_all(const Product &whole, int row_count, int columns) {
  for (int row = 0; row < row_count; row += kRows) {
    Product product = whole;
    product.a += row * whole.a_stride;
    if (whole.alpha != nullptr) product.alpha += row;
    const int rows = row_count - row < kRows ? row_count - row : kRows;
    for (int column = 0; column < columns;) {
      const bool is_wide = columns - column >= kGroups * 16;
      product.b = whole.b + column;
      product.c = whole.c + row * whole.c_stride + column;
      if (is_wide) multiply_rows<kGroups>(product, rows);
      else multiply_rows<1>(product, rows);
      column += is_wide ? kGroups * 16 : 16;
    }
  }
}

static void score(float *scores, const float *q, const float *keys_t, int row_count, int head_dim, int key_count) {
  multiply_all({scores, q, keys_t, nullptr, kKeyTile, padded_dim(head_dim), kKeyTile, head_dim}, row_count, (key_count + 15) / 16 * 16);
}

static void accumulate(float *out, const float *alpha, const float *p, const float *values, int row_count, int head_dim, int key_count) {
  const int stride = padded_dim(head_dim);
  multiply_all({out, p, values, alpha, stride, kKeyTile, stride, key_count}, row_count, stride);
}

static float soften(float *scores, int first, int end, float softcap, SoftmaxState *state) {
  if (softcap > 0.0f)
    for (int j = 0; j < kKeyTile; j += 16) store(scores + j, mul(splat(softcap), tanh(div(load(scores + j), splat(softcap)))));
  for (int j = 0; j < first; j++) scores[j] = -INFINITY;
  for (int j = end; j < kKeyTile; j++) scores[j] = -INFINITY;
  F16 s[4];
  for (int g = 0; g < 4; g++) s[g] = load(scores + g * 16);
  const float tile_maximum = tree_max(max(max(s[0], s[1]), max(s[2], s[3])));
  const float maximum = tile_maximum > state->maximum ? tile_maximum : state->maximum;
  const float alpha = first_lane(exp(splat(state->maximum - maximum)));
  for (int g = 0; g < 4; g++) {
    s[g] = exp(sub(s[g], splat(maximum)));
    store(scores + g * 16, s[g]);
  }
  state->maximum = maximum;
  state->sum = __builtin_fmaf(state->sum, alpha, tree_sum(add(add(s[0], s[1]), add(s[2], s[3]))));
  return alpha;
}

#endif
#else

namespace pd {

const AttentionKernel *attention_kernel_vector(const IsaLevel &isa) {
#if defined(__x86_64__)
  static const AttentionKernel on_avx2 = {avx2::load_keys,  avx2::load_values, avx2::score,
                                          avx2::accumulate, avx2::soften,      attention_few_avx2()};
  static const AttentionKernel on_avx512 = {avx512::load_keys,  avx512::load_values, avx512::score,
                                            avx512::accumulate, avx512::soften,      attention_few_avx512()};
  if (isa.isa == PD_ISA_AVX512) return &on_avx512;
  if (isa.isa == PD_ISA_AVX2) return &on_avx2;
#endif
  (void)isa;
  return nullptr;
}

}  // namespace pd
#endif
