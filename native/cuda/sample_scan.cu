/* One pass over the logits of all rows: best, its id and the sums of exponentials of every chunk. Used by sample.cu, which then needs no
   pass of its own for greedy rows and reads one more chunk for plain temperature rows. */
#include <cfloat>
#include "sample.h"

namespace pd {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = kSampleChunk / kThreads;

// ---- kernels

/* grid: (chunks, rows) */
__global__ void __launch_bounds__(kThreads) sample_scan_kernel(const SampleArguments a) {
  __shared__ float parts[32];
  __shared__ uint64_t best_parts[kThreads / 32];
  grid_wait();
  const int row = blockIdx.y, first = blockIdx.x * kSampleChunk;
  const float *x = a.logits + (size_t)row * a.vocab;
  float values[kEach];
  uint64_t best = 0; /* (order key, ~id): the larger value, then the lower id */
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int id = first + i * kThreads + threadIdx.x;
    values[i] = id < a.vocab ? x[id] : -INFINITY;
  }
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const uint64_t candidate = (uint64_t)order_key(values[i]) << 32 | (uint32_t)~(first + i * kThreads + threadIdx.x);
    best = candidate > best ? candidate : best;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(~0u, best, step);
    best = other > best ? other : best;
  }
  if (threadIdx.x % 32 == 0) best_parts[threadIdx.x / 32] = best;
  __syncthreads();
  for (int w = 0; w < kThreads / 32; w++) best = best_parts[w] > best ? best_parts[w] : best;
  const uint32_t key = (uint32_t)(best >> 32);
  const float top = key < kLowestKey ? -INFINITY : key_value(key);
  bool is_number = true;
#pragma unroll
  for (int i = 0; i < kEach; i++) is_number &= values[i] <= FLT_MAX;
  const bool has_numbers = __syncthreads_and(is_number);
  const float temperature = a.rows[row].temperature, scale = temperature > 0.0f ? 1.0f / temperature : 0.0f;
  float sum = 0.0f, tempered = 0.0f;
  if (top != -INFINITY) {
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const float depth = isnan(values[i]) ? -INFINITY : values[i] == top ? 0.0f : values[i] - top;
      sum += __expf(depth);
      if (scale > 0.0f) tempered += __expf(depth * scale);
    }
  }
  sum = block_sum(sum, parts);
  tempered = block_sum(tempered, parts);
  if (threadIdx.x == 0) a.statistics[(size_t)row * a.chunk_count + blockIdx.x] = ChunkStatistics{top, (int)~(uint32_t)best, has_numbers ? sum : NAN, tempered};
}

}  // namespace

// ---- launchers

int sample_scan(PdStream *stream, const SampleArguments &arguments) {
  return launch(stream, "sample", sample_scan_kernel, dim3(arguments.chunk_count, arguments.row_count), kThreads, 0, arguments);
}

}  // namespace pd
