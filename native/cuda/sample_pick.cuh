/* Block-wide tools of sample.cu: sums in float64 with a fixed tree, a sort in shared memory, thresholds over a row. Every thread of a block of
   kSampleThreads calls them together. The tokens that top-k, top-p and min-p keep are always a prefix of the order (value descending, id
   ascending), so a kept set is a threshold and a number of ties. */
#pragma once
#include "sample.h"

namespace pd {

constexpr int kSampleThreads = 1024;
constexpr int kCandidatesMax = 4096;
constexpr int kWantedMax = 1024;

/* Keys above `threshold` and the first `tie_count` (by id) that equal it. */
struct Kept {
  uint32_t threshold = kLowestKey - 1;
  int tie_count = 0;
};

struct PickShared {
  uint64_t candidates[kCandidatesMax];
  double sums[32];
  int count, found;
};

__device__ inline double block_sum_double(double x, PickShared &shared) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.sums[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared.sums[threadIdx.x % 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

/* Sum of the x of all threads before this one. total: of all. */
__device__ inline double block_scan_double(double x, double *total, PickShared &shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double inclusive = x;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double other = __shfl_up_sync(~0u, inclusive, step);
    if (lane >= step) inclusive += other;
  }
  __syncthreads();
  if (lane == 31) shared.sums[warp] = inclusive;
  __syncthreads();
  double before = 0.0, all = 0.0;
  for (int w = 0; w < 32; w++) {
    if (w < warp) before += shared.sums[w];
    all += shared.sums[w];
  }
  *total = all;
  return before + inclusive - x;
}

/* Ascending, over shared.candidates[0 .. count); what lies behind is overwritten with the highest key. */
__device__ inline void sort_candidates(int count, PickShared &shared) {
  int padded = 32;
  while (padded < count) padded *= 2;
  __syncthreads();
  for (int i = count + threadIdx.x; i < padded; i += kSampleThreads) shared.candidates[i] = ~0ull;
  __syncthreads();
  for (int run = 2; run <= padded; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < padded / 2; i += kSampleThreads) {
        const int low = i / step * 2 * step + i % step, high = low + step;
        const bool ascends = (low & run) == 0;
        const uint64_t a = shared.candidates[low], b = shared.candidates[high];
        if ((a > b) == ascends) {
          shared.candidates[low] = b;
          shared.candidates[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

/* At least the best `wanted` (<= kWantedMax) values above -infinity, best first, as (~key, id) in shared.candidates. Returns how many there
   are, or -1 when they do not fit. The wanted-th largest of the threads' own maxima bounds the wanted-th largest value from below. */
__device__ inline int best_candidates(const float *x, int vocab, int wanted, PickShared &shared) {
  uint32_t mine = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) {
    const uint32_t key = order_key(x[i]);
    mine = key > mine ? key : mine;
  }
  uint32_t threshold = 0;
  for (int bit = 31; bit >= 0; bit--) {
    const uint32_t higher = threshold | 1u << bit;
    if (__syncthreads_count(mine >= higher) >= wanted) threshold = higher;
  }
  if (threshold < kLowestKey) threshold = kLowestKey;
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
#pragma unroll 8
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) {
    const uint32_t key = order_key(x[i]);
    if (key < threshold) continue;
    const int at = atomicAdd(&shared.count, 1);
    if (at < kCandidatesMax) shared.candidates[at] = (uint64_t)~key << 32 | (uint32_t)i;
  }
  __syncthreads();
  const int count = shared.count;
  if (count > kCandidatesMax) return -1;
  sort_candidates(count, shared);
  return count;
}

__device__ __forceinline__ float candidate_value(uint64_t candidate) { return key_value(~(uint32_t)(candidate >> 32)); }

/* A row to draw from: the logits themselves, or changed. */
struct DrawRow {
  const float *x;
  int vocab;
  float best, scale; /* scale = 1 / temperature */
  __device__ __forceinline__ float weight(float value) const { return value == best ? 1.0f : expf((value - best) * scale); }
};

/* Number (kIsMass false) or weight of the kept values with key >= threshold. */
template <bool kIsMass>
__device__ inline double measure(const DrawRow &row, uint32_t threshold, const Kept &kept, PickShared &shared) {
  double sum = 0.0;
#pragma unroll 4
  for (int i = threadIdx.x; i < row.vocab; i += kSampleThreads) {
    const float value = row.x[i];
    const uint32_t key = order_key(value);
    if (key >= threshold && key > kept.threshold) sum += kIsMass ? (double)row.weight(value) : 1.0;
  }
  sum = block_sum_double(sum, shared);
  if (threshold <= kept.threshold) sum += kept.tie_count * (kIsMass ? (double)row.weight(key_value(kept.threshold)) : 1.0);
  return sum;
}

/* The shortest prefix of `kept` that measures at least `goal`; all of it when that is less. 33 passes over the row: for the rare rows whose
   prefix is long. */
template <bool kIsMass>
__device__ inline Kept shortest_prefix(const DrawRow &row, double goal, const Kept &kept, PickShared &shared) {
  if (measure<kIsMass>(row, kept.threshold, kept, shared) <= goal) return kept;
  uint32_t threshold = 0;
  for (int bit = 31; bit >= 0; bit--) {
    const uint32_t higher = threshold | 1u << bit;
    if (measure<kIsMass>(row, higher, kept, shared) >= goal) threshold = higher;
  }
  const double above = measure<kIsMass>(row, threshold + 1, kept, shared);
  const double each = kIsMass ? (double)row.weight(key_value(threshold)) : 1.0;
  Kept shorter;
  shorter.threshold = threshold;
  shorter.tie_count = max(1, (int)ceil(fmin((goal - above) / each, 1e9)));
  if (threshold == kept.threshold) shorter.tie_count = min(shorter.tie_count, kept.tie_count);
  return shorter;
}

}  // namespace pd
