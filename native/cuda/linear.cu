/* pd_linear: picks who multiplies. 16 bits: our streaming product (up to 8 rows on Hopper) or cuBLASLt, whichever is faster for the shape.
   fp8: streaming up to 8 rows, which quantises x itself; else quantise.cu, then cuBLASLt or gemm_tensor. Float32 and mixed dtypes: GEMV or our plain GEMM, without TF32.
   When results may not depend on the batch, one order of additions for every row count: the streaming product and gemm_tensor, or the plain
   GEMM. Twin: ../cpu/linear.cc */
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

// ---- launchers

BlasProblem problem_of(const Product &p) { return BlasProblem{p.row_count, p.n, p.k, p.format, p.out_dtype}; }
BlasOperands operands_of(const Product &p) { return BlasOperands{p.out, p.x, p.weight, p.x_scales, p.weight_scales}; }

bool can_stream(const PdDevice *device, const Product &p) {
  constexpr int64_t kQuantisedBytes = 128 * 1024; /* of x that a block keeps; the ring needs the rest of shared memory */
  if (p.format == PD_FP8_E4M3 && (int64_t)p.row_count * p.k > kQuantisedBytes) return false;
  return device->has_wgmma && p.row_count <= kStreamRowsMax && p.dtype != PD_F32 && p.k * dtype_bytes(p.format) % 32 == 0;
}

int multiply_by_blas(PdStream *stream, const Product &p) {
  if (int status = blas_matmul(stream, problem_of(p), operands_of(p))) return status;
  if (p.bias == nullptr) return PD_OK;
  return with_dtype("linear", p.out_dtype, [&](auto zero) {
    using T = decltype(zero);
    const uint64_t count = (uint64_t)p.row_count * p.n;
    return launch(stream, "linear (bias)", add_bias_kernel<T>, (unsigned)ceil_div<uint64_t>(count, 256), 256, 0, (T *)p.out, p.bias, p.n, count);
  });
}

/* 16-bit x and weight of one dtype. */
int multiply_halves(PdStream *stream, const Product &p) {
  const bool is_fixed = stream->device->is_batch_invariant, is_blas = !is_fixed && p.n % 8 == 0 && p.k % 8 == 0;
  const auto enqueue = [p](PdStream *side, void *out, const void *x) {
    Product trial = p;
    trial.out = out;
    trial.x = x;
    return gemm_stream(side, trial);
  };
  if (can_stream(stream->device, p) && (!is_blas || (!stream->device->prefers_blas && blas_is_slower(stream, problem_of(p), operands_of(p), enqueue))))
    return gemm_stream(stream, p);
  const bool is_few = p.row_count <= kGemvRowsMax && !stream->device->has_wgmma && p.k % 8 == 0;
  if (is_few && !is_fixed && !(is_blas && stream->device->prefers_blas)) return gemv(stream, p);
  if (is_blas) return multiply_by_blas(stream, p);
  return p.k % 8 == 0 ? gemm_tensor(stream, p) : gemm_plain(stream, p);
}

int multiply_fp8(PdStream *stream, Product p) {
  const bool is_fixed = stream->device->is_batch_invariant;
  if (can_stream(stream->device, p) && !stream->device->prefers_blas) return gemm_stream(stream, p);
  if (int status = quantise_to_scratch(stream, &p, p.row_count)) return status;
  if (!is_fixed && stream->device->compute_capability >= 89 && p.n % 16 == 0) {
    const int status = multiply_by_blas(stream, p);
    if (status != PD_UNSUPPORTED) return status;
  }
  return gemm_tensor(stream, p);
}

}  // namespace

int quantise_to_scratch(PdStream *stream, Product *product, int x_row_count) {
  const size_t data_bytes = ((size_t)x_row_count * product->k + 255) / 256 * 256;
  void *memory = nullptr;
  if (int status = scratch(stream, Scratch::kQuantised, data_bytes + x_row_count * sizeof(float), &memory)) return status;
  float *scales = (float *)((char *)memory + data_bytes);
  if (int status = quantise(stream, product->dtype, (fp8 *)memory, scales, product->x, x_row_count, product->k)) return status;
  product->x = memory;
  product->x_scales = scales;
  return PD_OK;
}

}  // namespace pd

using namespace pd;

extern "C" int pd_linear(PdStream *stream, int32_t dtype, void *out, int32_t out_dtype, const void *x, PdWeight *weight, const float *bias,
                         int32_t row_count) {
  if (int status = enter(stream->device)) return status;
  if (weight->count != 1) return fail(PD_INVALID, "linear: the weight is a stack of %d; moe_linear takes those", weight->count);
  if (out_dtype != dtype && out_dtype != PD_F32)
    return fail(PD_UNSUPPORTED, "linear: %s activations to %s output", dtype_name(dtype), dtype_name(out_dtype));
  if (row_count == 0) return PD_OK;
  const Product product{out, x, weight->data, bias, row_count, weight->n, weight->k, dtype, out_dtype, weight->format,
                        RowGroups{nullptr, nullptr, 1, 1}, nullptr, weight->scales};
  if (weight->format == PD_FP8_E4M3) return multiply_fp8(stream, product);
  if (dtype == weight->format && dtype != PD_F32) return multiply_halves(stream, product);
  const bool is_vector = weight->k % (16 / dtype_bytes(weight->format)) == 0 && weight->k % (16 / dtype_bytes(dtype)) == 0;
  const bool is_few = row_count <= kGemvRowsMax && is_vector && !stream->device->is_batch_invariant;
  return is_few ? gemv(stream, product) : gemm_plain(stream, product);
}
