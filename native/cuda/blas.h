/* cuBLASLt, opened at run time: the toolkit need not be installed where this library is built, and its place differs between the CUDA
   toolkit and pip's wheels. Used by linear.cu; the few types and numbers it needs are declared here after NVIDIA's public cublasLt.h. */
#pragma once
#include <cuda_runtime.h>
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>
#include "runtime.h"
#include "weight.h"

namespace pd {

/* One product out[rows, n] = x[rows, k] . weight[n, k]^T and the algorithm chosen for it. */
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

/* Enqueues the product. bf16 or f16 operands, float32 accumulation, out in the operands' dtype or float32. The first use of a
   bucket of row counts tries the best-looking algorithms on the device's side stream (milliseconds, at most some tens) and keeps the fastest. */
int blas_matmul(PdStream *stream, const BlasProblem &problem, void *out, const void *x, const void *weight);

}  // namespace pd
