/* What an op on CUDA needs from its stream: the device it runs on, a launch with programmatic overlap, scratch memory, typed failures.
   Used by every file in this folder; implemented in runtime.cc, device.cc and memory.cc.

   Scratch: one piece per purpose and stream, zeroed when made, grown by replacement; a piece that was replaced lives until its stream
   is destroyed, because graphs captured earlier still point into it. */
#pragma once
#include <cuda_runtime.h>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
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

namespace pd {

/* What a launch must know of a kernel. */
struct KernelFacts {
  bool overlaps;       /* its code for this device has grid_wait: it may start before its predecessor has ended */
  size_t shared_bytes; /* of dynamic shared memory it has been allowed */
};

}  // namespace pd

struct PdDevice {
  int32_t index;
  int multiprocessor_count;
  int compute_capability; /* 80, 90 … */
  bool has_wgmma;         /* sm_90a kernels may run; PD_NO_WGMMA=1 turns them off so that their twins are tested */
  bool prefers_blas;      /* PD_LINEAR=blas: every product to cuBLASLt, the benchmark's floor */
  bool is_batch_invariant; /* a row's result may not depend on the other rows of the step */
  size_t l2_bytes;
  size_t shared_bytes_max; /* per block, opted in */
  pd::Blas *blas;
  cudaStream_t side_stream; /* set-up work that must not enter a capture; held under side_mutex */
  std::mutex side_mutex;
  std::mutex kernels_mutex;
  std::unordered_map<const void *, pd::KernelFacts> kernels; /* launched on this device before; held under kernels_mutex */
};

struct PdStream {
  PdDevice *device;
  cudaStream_t cuda;
  bool is_recording;
  bool has_moved_keys; /* copy_slices or move_kv may be writing keys that are not the newest: the next attention waits for all work before it */
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

/* Asks the driver about a kernel once per device, and raises its limit of dynamic shared memory when it wants more than ever before. */
int kernel_facts(PdDevice *device, const char *op, const void *kernel, size_t shared_bytes, bool *overlaps);

/* Launches with programmatic dependent launch where the kernel's code has it: the kernel may start while its predecessor drains, so EVERY kernel
   calls grid_wait() (kernel.cuh) before it touches memory that other work reads or writes. */
template <typename... Parameters, typename... Arguments>
int launch(PdStream *stream, const char *op, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return PD_OK;
  bool overlaps = false;
  if (int status = kernel_facts(stream->device, op, reinterpret_cast<const void *>(kernel), shared_bytes, &overlaps)) return status;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream->cuda;
  config.attrs = &overlap;
  config.numAttrs = overlaps ? 1 : 0;
  return check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), op);
}

template <typename T>
T ceil_div(T a, T b) { return (a + b - 1) / b; }

}  // namespace pd
