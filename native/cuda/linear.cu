/* pd_linear: picks who multiplies. A few rows: our streaming product (Hopper, 16 bits) or GEMV.
   More rows in 16 bits: cuBLASLt. Float32 and mixed dtypes: our plain GEMM, without TF32. Twin: ../cpu/linear.cc */
#include <cstdlib>
#include <cstring>
#include "blas.h"
#include "gemm.h"

namespace pd {
namespace {

// ---- kernels

template <typename T>
__global__ void add_bias_kernel(T *out, const float *bias, int n, uint64_t count) {
  grid_release();
  grid_wait();
  const uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x;
  if (i < count) out[i] = from_float<T>(to_float(out[i]) + bias[i % n]);
}

/* PD_LINEAR=blas gives every 16-bit product to cuBLASLt: the benchmark's floor. */
bool prefers_blas() {
  static const char *const chosen = std::getenv("PD_LINEAR");
  return chosen != nullptr && std::strcmp(chosen, "blas") == 0;
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_linear(PdStream *stream, int32_t dtype, void *out, int32_t out_dtype, const void *x, PdWeight *weight, const float *bias,
                         int32_t row_count) {
  if (int status = enter(stream->device)) return status;
  if (weight->count != 1) return fail(PD_INVALID, "linear: the weight is a stack of %d; moe_linear takes those", weight->count);
  const int n = weight->n, k = weight->k;
  const Product product{out, x, weight->data, bias, row_count, n, k, dtype, out_dtype, weight->format, RowGroups{nullptr, nullptr, 1, 1}};
  const int vector_count = 16 / (int)dtype_bytes(weight->format);
  const bool is_half = dtype == weight->format && dtype != PD_F32 && (out_dtype == dtype || out_dtype == PD_F32);
  const bool is_blas = is_half && n % 8 == 0 && k % 8 == 0;
  const bool is_few = !(is_blas && prefers_blas());
  if (is_few && is_half && row_count <= kStreamRowsMax && k % 16 == 0 && stream->device->has_wgmma) return gemm_stream(stream, product);
  if (is_few && row_count <= kGemvRowsMax && k % vector_count == 0 && k % (16 / dtype_bytes(dtype)) == 0) return gemv(stream, product);
  if (!is_blas) return gemm_plain(stream, product);
  if (int status = blas_matmul(stream, BlasProblem{row_count, n, k, dtype, out_dtype}, out, x, weight->data)) return status;
  if (bias == nullptr) return PD_OK;
  return with_dtype("linear", out_dtype, [&](auto zero) {
    using T = decltype(zero);
    const uint64_t count = (uint64_t)row_count * n;
    return launch(stream, "linear (bias)", add_bias_kernel<T>, (unsigned)ceil_div<uint64_t>(count, 256), 256, 0, (T *)out, bias, n, count);
  });
}
