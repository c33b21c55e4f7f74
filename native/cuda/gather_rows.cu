/* out[i] = x[indices[i]]: the rows whose logits are wanted. Twin: ../cpu/gather_rows.cc */
#include "kernel.cuh"

namespace pd {
namespace {

// ---- kernels

template <typename T>
__global__ void gather_rows_kernel(T *out, const T *x, const int *indices, int x_row_count, int cols) {
  grid_release();
  grid_wait();
  const int index = indices[blockIdx.x];
  T *target = out + (size_t)blockIdx.x * cols;
  if (index < 0 || index >= x_row_count) {
    for (int i = threadIdx.x; i < cols; i += blockDim.x) target[i] = from_float<T>(NAN);
    return;
  }
  const T *source = x + (size_t)index * cols;
  for (int i = threadIdx.x; i < cols; i += blockDim.x) target[i] = source[i];
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_gather_rows(PdStream *stream, int32_t dtype, void *out, const void *x, const int32_t *indices, int32_t count,
                              int32_t x_row_count, int32_t cols) {
  if (int status = enter(stream->device)) return status;
  return with_dtype("gather_rows", dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(stream, "gather_rows", gather_rows_kernel<T>, count, 512, 0, (T *)out, (const T *)x, indices, (int)x_row_count,
                  (int)cols);
  });
}
