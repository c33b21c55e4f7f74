/* out[r, n] = x[r] . weight[n] for 1 to 4 rows: one pass over the matrix at memory speed, float32 accumulation.
   A warp takes kRows rows of the matrix, a lane 16 bytes of each at a time, kDepth such loads in flight before the first is used. The first
   loads do not depend on x, so they start before the previous kernel has ended. K ascends per lane; lanes are added in a fixed tree. */
#include "gemm.h"

namespace pd {
namespace {

constexpr int kWarps = 4;

// ---- kernels

template <typename W>
__device__ __forceinline__ Vector<W> stream_vector(const W *source) {
  const uint4 bits = __ldcs((const uint4 *)source); /* read once: leave the L1 to x */
  return *reinterpret_cast<const Vector<W> *>(&bits);
}

/* x[at .. at + 16 bytes of W) as float */
template <typename T, int kCount>
__device__ __forceinline__ void load_floats(float (&values)[kCount], const T *source) {
#pragma unroll
  for (int i = 0; i < kCount; i += Vector<T>::kCount) {
    if constexpr (kCount >= Vector<T>::kCount) {
      const Vector<T> part = load_vector(source + i);
#pragma unroll
      for (int j = 0; j < Vector<T>::kCount; j++) values[i + j] = to_float(part.at[j]);
    } else {
#pragma unroll
      for (int j = 0; j < kCount; j++) values[j] = to_float(source[j]);
    }
  }
}

template <typename T, typename W, typename Out, int kInputs, int kRows, int kDepth>
__global__ void __launch_bounds__(32 * kWarps) gemv_kernel(Out *out, const T *x, const W *weight, const float *bias, int row_count, int n, int k) {
  constexpr int kCount = Vector<W>::kCount;
  const int lane = threadIdx.x % 32, first = (blockIdx.x * kWarps + threadIdx.x / 32) * kRows;
  float sums[kInputs][kRows] = {};
  Vector<W> loaded[kDepth][kRows];
  const auto load = [&](int start) {
#pragma unroll
    for (int d = 0; d < kDepth; d++) {
      const int at = start + (d * 32 + lane) * kCount;
#pragma unroll
      for (int r = 0; r < kRows; r++)
        if (at < k && first + r < n) loaded[d][r] = stream_vector(weight + (size_t)(first + r) * k + at);
    }
  };
  load(0);
  grid_release();
  grid_wait();
  for (int start = 0; start < k; start += kDepth * 32 * kCount) {
    if (start > 0) load(start);
#pragma unroll
    for (int d = 0; d < kDepth; d++) {
      const int at = start + (d * 32 + lane) * kCount;
      if (at >= k) continue;
#pragma unroll
      for (int m = 0; m < kInputs; m++) {
        float input[kCount];
        load_floats<T, kCount>(input, x + (size_t)min(m, row_count - 1) * k + at);
#pragma unroll
        for (int r = 0; r < kRows; r++) {
#pragma unroll
          for (int j = 0; j < kCount; j++) sums[m][r] = fmaf(input[j], to_float(loaded[d][r].at[j]), sums[m][r]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kInputs; m++) {
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      const float sum = warp_sum(sums[m][r]);
      if (lane == 0 && m < row_count && first + r < n) out[(size_t)m * n + first + r] = from_float<Out>(sum + (bias != nullptr ? bias[first + r] : 0.0f));
    }
  }
}

// ---- launchers

template <typename T, typename W, typename Out, int kInputs>
int launch_gemv(PdStream *stream, const Product &p) {
  constexpr int kRows = 2, kDepth = 4;
  return launch(stream, "linear (gemv)", gemv_kernel<T, W, Out, kInputs, kRows, kDepth>, (unsigned)ceil_div(p.n, kWarps * kRows), 32 * kWarps, 0,
                (Out *)p.out, (const T *)p.x, (const W *)p.weight, p.bias, p.row_count, p.n, p.k);
}

template <typename T, typename W, typename Out>
int launch_rows(PdStream *stream, const Product &p) {
  if (p.row_count == 1) return launch_gemv<T, W, Out, 1>(stream, p);
  return p.row_count == 2 ? launch_gemv<T, W, Out, 2>(stream, p) : launch_gemv<T, W, Out, 4>(stream, p);
}

}  // namespace

int gemv(PdStream *stream, const Product &p) {
  return with_dtype("linear", p.dtype, [&](auto zero) {
    return with_dtype("linear", p.format, [&](auto weight_zero) {
      using T = decltype(zero);
      using W = decltype(weight_zero);
      if (p.out_dtype == PD_F32) return launch_rows<T, W, float>(stream, p);
      if constexpr (!std::is_same_v<T, float>)
        if (p.out_dtype == p.dtype) return launch_rows<T, W, T>(stream, p);
      return fail(PD_UNSUPPORTED, "linear: %s activations to %s output", dtype_name(p.dtype), dtype_name(p.out_dtype));
    });
  });
}

}  // namespace pd
