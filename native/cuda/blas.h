/* cuBLASLt, opened at run time: the toolkit need not be installed where this library is built, and its place differs between the CUDA
   toolkit and pip's wheels. Used by linear.cu; the few types and numbers it needs are declared here after NVIDIA's public cublasLt.h. */
#pragma once
#include <cuda_runtime.h>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <tuple>
#include "runtime.h"
#include "weight.h"

namespace pd {

/* One product out[rows, n] = x[rows, k] . weight[n, k]^T and the algorithm chosen for it. dtype: of x and weight */
struct BlasProblem {
  int32_t row_count, n, k, dtype, out_dtype;
  bool operator<(const BlasProblem &other) const {
    return std::tie(row_count, n, k, dtype, out_dtype) <
           std::tie(other.row_count, other.n, other.k, other.dtype, other.out_dtype);
  }
};

/* Opens the library and a handle; PD_NO_DEVICE with the places that were searched when it is missing. */
int blas_open(PdDevice *device, Blas **blas);
void blas_close(Blas *blas);

struct BlasOperands {
  void *out;
  const void *x, *weight;
  const float *x_scales, *weight_scales; /* [rows] and [n], fp8 only */
};

/* Enqueues the product. bf16, f16 or fp8 operands, float32 accumulation (fp8: what the tensor cores keep). The first use of a bucket of row
   counts tries the best-looking algorithms on the device's side stream (milliseconds, at most some tens) and keeps the fastest.
   PD_UNSUPPORTED: the library has no algorithm for the problem. */
int blas_matmul(PdStream *stream, const BlasProblem &problem, const BlasOperands &operands);

/* Whether another way to the same product is faster. `enqueue` runs it on the stream it is given; both are timed alone, with a cold L2, once per
   problem (exact row count) and process. */
using BlasRival = std::function<int(PdStream *stream, void *out, const void *x)>;
bool blas_is_slower(PdStream *stream, const BlasProblem &problem, const BlasOperands &operands, const BlasRival &enqueue);

}  // namespace pd
