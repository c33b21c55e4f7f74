/* What an op on CUDA needs from its stream: the device it runs on, a launch with programmatic overlap, scratch memory, typed failures.
   Used by every file in this folder; implemented in runtime.cc, device.cc and memory.cc.

   Scratch: one piece per purpose and stream, zeroed when made, grown by replacement; a piece that was replaced lives until its stream
   is destroyed, because graphs captured earlier still point into it. */
#pragma once
#include <cuda_runtime.h>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>
#include "../pd.h"

namespace pd {

struct Blas; /* blas.h */

enum class Scratch { kBlasWorkspace = 0, kAttentionPartials, kAttentionCounters, kMoeGroups, kConvert, kQuantised, kSampleCounts, kSampleRows, kCount };

/* Records the message for pd_last_error and returns status. */
int fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* PD_OK, or a typed failure that names the call. */
int check(cudaError_t error, const char *what);
const char *dtype_name(int32_t dtype);
size_t dtype_bytes(int32_t dtype);

}  // namespace pd

struct PdDevice {
  int32_t index;
  int multiprocessor_count;
  int compute_capability; /* 80, 90 … */
  bool has_wgmma;         /* sm_90a kernels may run; PD_NO_WGMMA=1 turns them off so that their twins are tested */
  bool is_batch_invariant; /* a row's result may not depend on the other rows of the step */
  size_t l2_bytes;
  size_t shared_bytes_max; /* per block, opted in */
  pd::Blas *blas;
  cudaStream_t side_stream; /* set-up work that must not enter a capture; held under side_mutex */
  std::mutex side_mutex;
};

struct PdStream {
  PdDevice *device;
  cudaStream_t cuda;
  bool is_recording;
  struct { void *pointer; size_t bytes; } scratch[static_cast<int>(pd::Scratch::kCount)];
  std::vector<void *> retired;
};

namespace pd {

/* Makes the device current for the calling thread; every entry begins with it. */
inline int enter(const PdDevice *device) { return check(cudaSetDevice(device->index), "cudaSetDevice"); }

/* Zeroed device memory, 256-byte aligned, ready for any stream. Allowed while a graph is being captured. */
int allocate(PdDevice *device, size_t bytes, void **pointer);

/* At least `bytes` of this purpose. What one op leaves there the next op of the stream may overwrite; counters must be left zero. */
int scratch(PdStream *stream, Scratch purpose, size_t bytes, void **pointer);

/* Launches with programmatic dependent launch where the device has it: the kernel may start while its predecessor drains, so EVERY kernel
   calls grid_wait() (kernel.cuh) before it touches memory that other work reads or writes. Raises the dynamic shared-memory limit when asked. */
template <typename... Parameters, typename... Arguments>
int launch(PdStream *stream, const char *op, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return PD_OK;
  if (shared_bytes > 48 * 1024) {
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return check(error, op);
  }
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream->cuda;
  config.attrs = &overlap;
  config.numAttrs = stream->device->compute_capability >= 90 ? 1 : 0;
  return check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), op);
}

template <typename T>
T ceil_div(T a, T b) { return (a + b - 1) / b; }

}  // namespace pd
