/* x = cap * tanh(x / cap) on float32 logits; infinity becomes NaN. Twin: ../cpu/softcap.cc */
#include "kernel.cuh"

namespace pd {
namespace {

// ---- kernels

__global__ void softcap_kernel(float *x, uint64_t count, float cap) {
  grid_release();
  grid_wait();
  const uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x;
  if (i < count) x[i] = cap * tanhf(x[i] / cap) + 0.0f * x[i];
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_softcap(PdStream *stream, float *x, uint64_t count, float cap) {
  if (int status = enter(stream->device)) return status;
  return launch(stream, "softcap", softcap_kernel, (unsigned)ceil_div<uint64_t>(count, 256), 256, 0, x, count, cap);
}
