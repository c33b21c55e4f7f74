/* What kernels share: element types, 16-byte vectors, reductions, and the wait that programmatic launches need.
   Included by the .cu files of this folder only. */
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <type_traits>
#include "runtime.h"

namespace pd {

using bf16 = __nv_bfloat16;
using f16 = __half;

// ---- programmatic dependent launch (see launch() in runtime.h)

/* Returns when all work before this kernel has finished and its writes are visible. */
__device__ __forceinline__ void grid_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Lets the next kernel of the stream start its preamble once all blocks of this one run, as SMs have room. Called before grid_wait: the chain
   stays in order, because a kernel ends only after its own wait. So weights of the next product are on their way while this one waits. */
__device__ __forceinline__ void grid_release() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- elements

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>) return __float2bfloat16_rn(x);
  else if constexpr (std::is_same_v<T, f16>) return __float2half_rn(x);
  else return x;
}

template <typename T>
struct alignas(16) Vector {
  static constexpr int kCount = 16 / sizeof(T);
  T at[kCount];
};

template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T *source) {
  return *reinterpret_cast<const Vector<T> *>(source);
}

template <typename T>
__device__ __forceinline__ void store_vector(T *target, const Vector<T> &value) {
  *reinterpret_cast<Vector<T> *>(target) = value;
}

// ---- reductions

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

/* Largest over the block, given to every thread; x >= 0. parts: as for block_sum. */
__device__ __forceinline__ float block_max(float x, float *parts) {
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  const int warps = (blockDim.x + 31) / 32;
  return warp_max(threadIdx.x % 32 < warps ? parts[threadIdx.x % 32] : 0.0f);
}

/* Sum over the block, given to every thread. parts: one float per warp; ends with a barrier behind it only on entry to the next call. */
__device__ __forceinline__ float block_sum(float x, float *parts) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  int warps = (blockDim.x + 31) / 32;
  x = threadIdx.x % 32 < warps ? parts[threadIdx.x % 32] : 0.0f;
  return warp_sum(x);
}

// ---- dispatch on the host

/* Calls body(T{}) with the element type of dtype, or fails naming the op. */
template <typename Body>
int with_dtype(const char *op, int32_t dtype, Body body) {
  switch (dtype) {
    case PD_F32: return body(float{});
    case PD_BF16: return body(bf16{});
    case PD_F16: return body(f16{});
    default: return fail(PD_UNSUPPORTED, "%s: dtype %s is not supported on cuda (f32, bf16 and f16 are)", op, dtype_name(dtype));
  }
}

}  // namespace pd
