/* RMSNorm, alone or fused with the residual addition before it: out = x / sqrt(mean(x^2) + eps) * weight. One block per row, the row kept
   in shared memory as float32 between the two passes. Also pd_add. Twin: ../cpu/rmsnorm.cc
   The residual is rounded to its dtype first and the rounded value is normalised, as in the models' reference code. */
#include "kernel.cuh"

namespace pd {
namespace {

// ---- kernels

template <typename T, bool kHasResidual>
__global__ void rmsnorm_kernel(T *out, const T *x, T *residual,  // [rows, cols]
                               const float *weight,              // [cols]
                               int cols, float eps) {
  extern __shared__ float row_values[];  // [cols]
  __shared__ float parts[32];
  constexpr int kCount = Vector<T>::kCount;
  grid_release();
  grid_wait();
  const size_t start = (size_t)blockIdx.x * cols;
  const bool is_aligned = cols % kCount == 0;
  float sum = 0.0f;
  if (is_aligned) {
    for (int i = threadIdx.x * kCount; i < cols; i += blockDim.x * kCount) {
      Vector<T> values = load_vector(x + start + i);
      if constexpr (kHasResidual) {
        const Vector<T> before = load_vector(residual + start + i);
#pragma unroll
        for (int j = 0; j < kCount; j++) values.at[j] = from_float<T>(to_float(values.at[j]) + to_float(before.at[j]));
        store_vector(residual + start + i, values);
      }
#pragma unroll
      for (int j = 0; j < kCount; j++) {
        const float value = to_float(values.at[j]);
        row_values[i + j] = value;
        sum += value * value;
      }
    }
  } else {
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
      T value = x[start + i];
      if constexpr (kHasResidual) residual[start + i] = value = from_float<T>(to_float(value) + to_float(residual[start + i]));
      row_values[i] = to_float(value);
      sum += row_values[i] * row_values[i];
    }
  }
  const float scale = rsqrtf(block_sum(sum, parts) / cols + eps);
  if (is_aligned) {
    for (int i = threadIdx.x * kCount; i < cols; i += blockDim.x * kCount) {
      Vector<T> result;
#pragma unroll
      for (int j = 0; j < kCount; j++) result.at[j] = from_float<T>(row_values[i + j] * scale * weight[i + j]);
      store_vector(out + start + i, result);
    }
  } else {
    for (int i = threadIdx.x; i < cols; i += blockDim.x) out[start + i] = from_float<T>(row_values[i] * scale * weight[i]);
  }
}

template <typename T>
__global__ void add_kernel(T *residual, const T *x, uint64_t count) {
  constexpr int kCount = Vector<T>::kCount;
  grid_release();
  grid_wait();
  const uint64_t i = (blockIdx.x * (uint64_t)blockDim.x + threadIdx.x) * kCount;
  if (i + kCount <= count) {
    Vector<T> sum = load_vector(residual + i);
    const Vector<T> more = load_vector(x + i);
#pragma unroll
    for (int j = 0; j < kCount; j++) sum.at[j] = from_float<T>(to_float(sum.at[j]) + to_float(more.at[j]));
    store_vector(residual + i, sum);
  } else {
    for (uint64_t j = i; j < count; j++) residual[j] = from_float<T>(to_float(residual[j]) + to_float(x[j]));
  }
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_rmsnorm(PdStream *stream, int32_t dtype, void *out, const void *x, void *residual, const float *weight, int32_t row_count,
                          int32_t cols, float eps) {
  if (int status = enter(stream->device)) return status;
  const size_t shared_bytes = (size_t)cols * sizeof(float);
  if (shared_bytes + 1024 > stream->device->shared_bytes_max) return fail(PD_UNSUPPORTED, "rmsnorm: rows of %d do not fit shared memory", cols);
  return with_dtype("rmsnorm", dtype, [&](auto zero) {
    using T = decltype(zero);
    int threads = (cols / Vector<T>::kCount + 31) / 32 * 32;
    threads = threads < 32 ? 32 : threads > 1024 ? 1024 : threads;
    auto kernel = residual != nullptr ? rmsnorm_kernel<T, true> : rmsnorm_kernel<T, false>;
    return launch(stream, "rmsnorm", kernel, row_count, threads, shared_bytes, (T *)out, (const T *)x, (T *)residual, weight, (int)cols, eps);
  });
}

extern "C" int pd_add(PdStream *stream, int32_t dtype, void *residual, const void *x, uint64_t count) {
  if (int status = enter(stream->device)) return status;
  return with_dtype("add", dtype, [&](auto zero) {
    using T = decltype(zero);
    const uint64_t threads = ceil_div<uint64_t>(count, Vector<T>::kCount);
    return launch(stream, "add", add_kernel<T>, (unsigned)ceil_div<uint64_t>(threads, 256), 256, 0, (T *)residual, (const T *)x, count);
  });
}
