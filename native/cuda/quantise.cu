/* Activations to fp8, one scale per row, for products with fp8 weights. Used by linear.cu and moe_linear.cu. */
#include "gemm.h"

namespace pd {
namespace {

constexpr int kThreads = 256;

// ---- kernels

/* One block per row, which stays in registers between finding the scale and using it. kVectors * kThreads vectors reach k, or it is read again. */
template <typename T, int kVectors>
__global__ void __launch_bounds__(kThreads) quantise_kernel(fp8 *out, float *scales, const T *x, int k) {
  __shared__ float parts[32];
  constexpr int kCount = Vector<T>::kCount, kStep = kThreads * kCount;
  grid_release();
  grid_wait();
  const T *row = x + (size_t)blockIdx.x * k;
  Vector<T> held[kVectors];
  float largest = 0.0f;
  for (int start = threadIdx.x * kCount; start < k; start += kVectors * kStep) {
#pragma unroll
    for (int v = 0; v < kVectors; v++)
      if (start + v * kStep < k) held[v] = load_vector(row + start + v * kStep);
#pragma unroll
    for (int v = 0; v < kVectors; v++) {
      if (start + v * kStep >= k) continue;
#pragma unroll
      for (int j = 0; j < kCount; j++) largest = fmaxf(largest, fabsf(to_float(held[v].at[j])));
    }
  }
  const float scale = product_scale(block_max(largest, parts)), inverse = inverse_scale(scale);
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  const bool is_held = k <= kVectors * kStep;
  for (int start = threadIdx.x * kCount; start < k; start += kVectors * kStep) {
#pragma unroll
    for (int v = 0; v < kVectors; v++) {
      const int at = start + v * kStep;
      if (at >= k) continue;
      if (!is_held) held[v] = load_vector(row + at);
      const auto word = [&](int j) {
        return pack_fp8(to_float(held[v].at[j]) * inverse, to_float(held[v].at[j + 1]) * inverse, to_float(held[v].at[j + 2]) * inverse,
                        to_float(held[v].at[j + 3]) * inverse);
      };
      fp8 *target = out + (size_t)blockIdx.x * k + at;
      if constexpr (kCount == 8) *(uint2 *)target = make_uint2(word(0), word(4));
      else *(uint32_t *)target = word(0);
    }
  }
}

}  // namespace

// ---- launchers

int quantise(PdStream *stream, int32_t dtype, fp8 *out, float *scales, const void *x, int row_count, int k) {
  if (k % 8 != 0) return fail(PD_UNSUPPORTED, "linear: rows of k %d in fp8; multiples of 8 are supported", k);
  return with_dtype("quantise", dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool is_short = k <= 2 * kThreads * Vector<T>::kCount;
    return launch(stream, "quantise", is_short ? quantise_kernel<T, 2> : quantise_kernel<T, 6>, (unsigned)row_count, kThreads, 0, out, scales, (const T *)x, k);
  });
}

}  // namespace pd
