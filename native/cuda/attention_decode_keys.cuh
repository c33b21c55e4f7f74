/* What a warp of the decode kernel does with 16 keys: scores of 16 query heads, softmax, weighted values. Used by attention_decode.cu alone. */
#pragma once
#include "attention_line.cuh"

namespace pd {
namespace decode {

/* What a warp, a block or a merge has gathered for 16 query heads. Rows g and g + 8 of the lane's quad. */
template <int kDim>
struct Gathered {
  float out[kDim / 8][4];
  float best[2], sum[2];
};

/* How the two products run. 16-bit caches: as they lie. fp8: e4m3 becomes f16, which holds it exactly; the scale of a key goes to its score, and that
   of a value to the weight, by way of the exponent, so that the largest weight is 1 whatever the scales are. The two bytes that become a register are
   neighbours along head_dim, so head_dim is taken in another order: element 16 c + 4 t + j of K sits at 2 t + j % 2 + j / 2 * 8 of a step. */
template <typename T, typename Kv>
using Operand = std::conditional_t<sizeof(Kv) == 1, f16, T>;

/* The 16 query heads as left operands. q: rows of kDim, `rows` of them real */
template <typename T, typename Kv, int kDim>
__device__ __forceinline__ void load_query(uint32_t (&query)[kDim / 16][4], const T *q, int rows) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int k = 0; k < kDim / 16; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int r = g + i % 2 * 8;
      if constexpr (sizeof(Kv) == 1) {
        const T *pair = q + r * kDim + k * 16 + 4 * t + i / 2 * 2;
        query[k][i] = r < rows ? pack<f16>(to_float(pair[0]), to_float(pair[1])) : 0u;
      } else {
        query[k][i] = r < rows ? *(const uint32_t *)(q + r * kDim + k * 16 + i / 2 * 8 + 2 * t) : 0u;
      }
    }
  }
}

/* scores[j]: of keys 8 j .. 8 j + 7 */
template <typename S, typename T, typename Kv, int kDim>
__device__ __forceinline__ void multiply_keys(float (&scores)[2][4], const uint32_t (&query)[kDim / 16][4], uint32_t stage) {
  const int lane = threadIdx.x % 32;
  const uint32_t address = S::row_address(stage, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < S::kRowBytes / 32; k++) {
    uint32_t keys[4];
    ldmatrix4(keys, S::step(address, k));
    if constexpr (sizeof(Kv) == 1) {
#pragma unroll
      for (int i = 0; i < 4; i++) mma16816<f16>(scores[i / 2], query[2 * k + i % 2], halves_of(keys[i]), halves_of(keys[i] >> 16));
    } else {
      mma16816<T>(scores[0], query[k], keys[0], keys[1]);
      mma16816<T>(scores[1], query[k], keys[2], keys[3]);
    }
  }
}

/* out[2 c], out[2 c + 1]: with fp8 the even and the odd elements of 16 c .. 16 c + 15, else the lower and the upper eight */
template <typename S, typename T, typename Kv, int kDim>
__device__ __forceinline__ void multiply_values(float (&out)[kDim / 8][4], const uint32_t (&weights)[4], uint32_t stage) {
  const int lane = threadIdx.x % 32;
  const uint32_t address = S::row_address(stage + S::kHalfBytes, lane % 16, lane / 16);
#pragma unroll
  for (int n = 0; n < S::kRowBytes / 32; n++) {
    uint32_t values[4];
    ldmatrix4_transposed(values, S::step(address, n));
    if constexpr (sizeof(Kv) == 1) {
#pragma unroll
      for (int i = 0; i < 4; i++) values[i] = __byte_perm(values[i], 0, 0x3120); /* both keys' even element, both keys' odd one */
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        mma16816<f16>(out[4 * n + i], weights, halves_of(values[i]), halves_of(values[i + 1]));
        mma16816<f16>(out[4 * n + i + 1], weights, halves_of(values[i] >> 16), halves_of(values[i + 1] >> 16));
      }
    } else {
      mma16816<T>(out[2 * n], weights, values[0], values[1]);
      mma16816<T>(out[2 * n + 1], weights, values[2], values[3]);
    }
  }
}

/* Values of the warp's keys from first_row on become zeros: they lie past the last key and may hold anything, and zero weight times anything must be zero. */
template <typename S>
__device__ __forceinline__ void clear_values(uint32_t stage, int first_row) {
  const int lane = threadIdx.x % 32, rows = kWarpKeys - first_row;
  for (int i = lane; i < rows * S::kRowBytes / 16; i += 32)
    store_shared16(stage + S::kHalfBytes + first_row * S::kRowBytes + i * 16, make_uint2(0, 0), make_uint2(0, 0));
#if __CUDA_ARCH__ >= 900
  proxy_fence(); /* the next copy into this place comes after */
#endif
  __syncwarp();
}

template <typename S, typename T, typename Kv, int kDim, bool kIsBulk>
__device__ __forceinline__ void attend_keys(const Attention &a, const uint32_t (&query)[kDim / 16][4], const char *shared, uint32_t stage_offset, int key,
                                            int kv_count, int window_first, Gathered<kDim> &gathered) {
  const uint32_t stage = shared_address(shared) + stage_offset;
  const int t = threadIdx.x % 4;
  const ScoreScale to_exponent{a.scale, a.softcap};
  float scores[2][4] = {};
  if constexpr (kIsBulk)
    if (key + kWarpKeys > kv_count) clear_values<S>(stage, max(0, kv_count - key));
  multiply_keys<S, T, Kv, kDim>(scores, query, stage);
  bool is_seen[4];
  float key_scale[4], lift[4], inverse[4]; /* lift: log2 of the value's scale; inverse: 1 / that scale */
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int within = (i / 2) * 8 + 2 * t + i % 2, at = key + within;
    is_seen[i] = at < kv_count && at >= window_first;
    if constexpr (S::kHasScales) {
      const float *scales = (const float *)(shared + stage_offset + S::kDataBytes);
      key_scale[i] = scales[within];
      const float value_scale = is_seen[i] ? scales[S::kHalfBytes / 4 + within] : 1.0f;
      lift[i] = isnan(value_scale) ? NAN : (float)((int)(__float_as_uint(value_scale) >> 23) - 127); /* a vector that was moved here may have no scale */
      inverse[i] = inverse_scale(value_scale);
    }
  }
  uint32_t weights[4];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float s[4];
    float best = gathered.best[half];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float score = scores[i / 2][half * 2 + i % 2];
      if constexpr (S::kHasScales) s[i] = is_seen[i] ? to_exponent(score * key_scale[i]) + lift[i] : -INFINITY;
      else s[i] = is_seen[i] ? to_exponent(score) : -INFINITY;
      best = fmaxf(best, s[i]);
    }
    best = fmaxf(best, __shfl_xor_sync(~0u, best, 1));
    best = fmaxf(best, __shfl_xor_sync(~0u, best, 2));
    const float base = best == -INFINITY ? 0.0f : best; /* nothing visible yet */
    const float rescale = exp2_fast(gathered.best[half] - base);
    gathered.best[half] = best;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      s[i] = exp2_fast(s[i] - base);
      if constexpr (S::kHasScales) sum = fmaf(s[i], inverse[i], sum);
      else sum += s[i];
    }
    gathered.sum[half] = gathered.sum[half] * rescale + sum; /* over this lane's columns; lanes are added up at the end */
    weights[half] = pack<Operand<T, Kv>>(s[0], s[1]);
    weights[half + 2] = pack<Operand<T, Kv>>(s[2], s[3]);
#pragma unroll
    for (int n = 0; n < kDim / 8; n++) {
      gathered.out[n][half * 2] *= rescale;
      gathered.out[n][half * 2 + 1] *= rescale;
    }
  }
  multiply_values<S, T, Kv, kDim>(gathered.out, weights, stage);
}

}  // namespace decode
}  // namespace pd
