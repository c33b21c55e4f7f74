/* 8-bit floats (e4m3) and their scales: weights per matrix row, activations per token, the KV cache per token and head. Used by weight.cu,
   quantise.cu, the products (mma.cuh) and what reads or writes the cache.
   A scale is a power of two: scaling never rounds, and every value that was stored is exact in bf16. A floating-point format loses nothing by it
   but half an octave at its lower end. */
#pragma once
#include <cuda_fp8.h>
#include "kernel.cuh"

namespace pd {

using fp8 = __nv_fp8_e4m3;

constexpr float kFp8Max = 448.0f;

/* The smallest power of two s with largest <= 448 s; 1 for zeros. Twin: cpu/fp8.h */
__device__ __forceinline__ float fp8_scale(float largest) {
  const uint32_t bits = __float_as_uint(largest);
  const int exponent = (int)(bits >> 23) - 8 + ((bits & 0x7fffff) > 0x600000); /* 448 = 1.75 * 2^8 */
  return largest == 0.0f ? 1.0f : __uint_as_float((uint32_t)max(exponent, 1) << 23);
}

/* The scale of a row that is to be multiplied. A row with an infinity has none: NaN makes all its products NaN, where the saturated 448 beside
   zeros would pass for numbers. (A NaN needs no help: it stays one as an element.) */
__device__ __forceinline__ float product_scale(float largest) { return isinf(largest) ? NAN : fp8_scale(largest); }

/* 1 / scale, exact. */
__device__ __forceinline__ float inverse_scale(float scale) { return __uint_as_float((254u << 23) - __float_as_uint(scale)); }

/* Two floats, `low` in the lower byte; larger than 448 saturates, NaN stays. */
__device__ __forceinline__ uint32_t pack_fp8(float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}
__device__ __forceinline__ uint32_t pack_fp8(float a, float b, float c, float d) { return pack_fp8(a, b) | pack_fp8(c, d) << 16; }

/* The two fp8 in the lower half of `pair` as two f16, exact. */
__device__ __forceinline__ uint32_t halves_of(uint32_t pair) {
  const __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)pair, __NV_E4M3);
  return (uint32_t)halves.x | (uint32_t)halves.y << 16;
}

__device__ __forceinline__ float to_float(fp8 x) { return (float)x; }

__device__ __forceinline__ float2 floats_of(uint32_t pair) {
  const uint32_t halves = halves_of(pair);
  return __half22float2(*reinterpret_cast<const __half2 *>(&halves));
}

}  // namespace pd
