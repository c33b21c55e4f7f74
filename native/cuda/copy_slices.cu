/* pd_copy_slices: moves slices of KV blocks, within a cache (copy-on-write) or into a mapped cache of another worker (transfer).
   Whole blocks in one long run, as a fresh cache hands them out, are one plain copy: the copy engines need no SM and are a little faster.
   One kernel for many slices: the lists travel as kernel parameters, so nothing is allocated and the call may be captured.
   Writes to a peer go over NVLink or PCIe as 16-byte stores. Twin: ../cpu/cache.cc */
#include "kernel.cuh"

namespace pd {
namespace {

constexpr int kPairsPerLaunch = 256;
constexpr int kSlicesPerLaunch = 64;
constexpr int kThreads = 256;
constexpr int kVectorsPerThread = 8;
constexpr uint64_t kPieceBytes = 16 * kThreads * kVectorsPerThread; /* one block of threads moves this much */

struct CopyList {
  char *target;
  const char *source;
  uint64_t target_block_bytes, source_block_bytes;
  int slice_count;
  PdBlockPair pairs[kPairsPerLaunch];
  PdSlice slices[kSlicesPerLaunch];
};

// ---- kernels

/* grid: (pieces of the longest slice, slices, pairs) */
__global__ void __launch_bounds__(kThreads) copy_slices_kernel(const __grid_constant__ CopyList list) {
  grid_wait();
  const PdSlice slice = list.slices[blockIdx.y];
  const PdBlockPair pair = list.pairs[blockIdx.z];
  const uint64_t start = blockIdx.x * kPieceBytes;
  if (start >= slice.bytes) return;
  const uint64_t bytes = slice.bytes - start < kPieceBytes ? slice.bytes - start : kPieceBytes;
  char *target = list.target + (uint64_t)pair.target_block * list.target_block_bytes + slice.target_offset + start;
  const char *source = list.source + (uint64_t)pair.source_block * list.source_block_bytes + slice.source_offset + start;
  if ((((uintptr_t)target | (uintptr_t)source | bytes) & 15) != 0) {
    for (uint64_t i = threadIdx.x; i < bytes; i += kThreads) target[i] = source[i];
    return;
  }
  uint4 values[kVectorsPerThread];
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; i++) {
    const uint64_t at = (uint64_t)(i * kThreads + threadIdx.x) * 16;
    if (at < bytes) values[i] = *(const uint4 *)(source + at);
  }
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; i++) {
    const uint64_t at = (uint64_t)(i * kThreads + threadIdx.x) * 16;
    if (at < bytes) *(uint4 *)(target + at) = values[i];
  }
}

constexpr uint64_t kRunBytesMin = 8 << 20;

/* Whole blocks that follow each other on both sides, enough of them to be worth a copy engine. */
bool is_long_run(uint64_t target_block_bytes, uint64_t source_block_bytes, const PdBlockPair *pairs, int32_t pair_count, const PdSlice &slice) {
  if (slice.bytes != target_block_bytes || slice.bytes != source_block_bytes || slice.bytes * pair_count < kRunBytesMin) return false;
  for (int32_t i = 1; i < pair_count; i++)
    if (pairs[i].target_block != pairs[0].target_block + i || pairs[i].source_block != pairs[0].source_block + i) return false;
  return true;
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_copy_slices(PdStream *stream, void *target_base, const void *source_base, uint64_t target_block_bytes,
                              uint64_t source_block_bytes, const PdBlockPair *pairs, int32_t pair_count, const PdSlice *slices,
                              int32_t slice_count) {
  if (int status = enter(stream->device)) return status;
  stream->has_moved_keys = true;
  if (slice_count == 1 && pair_count > 0 && is_long_run(target_block_bytes, source_block_bytes, pairs, pair_count, slices[0])) {
    char *target = (char *)target_base + (uint64_t)pairs[0].target_block * target_block_bytes;
    const char *source = (const char *)source_base + (uint64_t)pairs[0].source_block * source_block_bytes;
    return check(cudaMemcpyAsync(target, source, slices[0].bytes * pair_count, cudaMemcpyDefault, stream->cuda), "copy_slices");
  }
  for (int32_t first_slice = 0; first_slice < slice_count; first_slice += kSlicesPerLaunch) {
    CopyList list{(char *)target_base, (const char *)source_base, target_block_bytes, source_block_bytes, 0, {}, {}};
    uint64_t bytes_max = 0;
    for (int32_t i = first_slice; i < slice_count && list.slice_count < kSlicesPerLaunch; i++) {
      list.slices[list.slice_count++] = slices[i];
      bytes_max = slices[i].bytes > bytes_max ? slices[i].bytes : bytes_max;
    }
    for (int32_t first_pair = 0; first_pair < pair_count; first_pair += kPairsPerLaunch) {
      int count = 0;
      for (int32_t i = first_pair; i < pair_count && count < kPairsPerLaunch; i++) list.pairs[count++] = pairs[i];
      const dim3 grid((unsigned)ceil_div(bytes_max, kPieceBytes), list.slice_count, count);
      if (int status = launch(stream, "copy_slices", copy_slices_kernel, grid, kThreads, 0, list)) return status;
    }
  }
  return PD_OK;
}
