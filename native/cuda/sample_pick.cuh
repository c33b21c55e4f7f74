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

constexpr int kBuckets = 2047; /* of width 1/64 in the exponent; one more for everything below */
constexpr int kChunksMax = 256;

struct PickShared {
  union {
    uint64_t candidates[kCandidatesMax];
    struct { uint32_t low[kBuckets + 1], high[kBuckets + 1]; } buckets; /* weights in units of 2^-40 */
    struct { double sums[kChunksMax]; int ties[kChunksMax]; } chunks;
  };
  double sums[32];
  int count, found;
};

/* body(id, value) for every value of the row, eight loads in flight. */
template <typename Body>
__device__ __forceinline__ void for_each_value(const float *x, int vocab, Body body) {
  constexpr int kFlight = 8;
  for (int base = threadIdx.x; base < vocab; base += kFlight * kSampleThreads) {
    float values[kFlight];
#pragma unroll
    for (int i = 0; i < kFlight; i++) values[i] = base + i * kSampleThreads < vocab ? x[base + i * kSampleThreads] : NAN;
#pragma unroll
    for (int i = 0; i < kFlight; i++)
      if (base + i * kSampleThreads < vocab) body(base + i * kSampleThreads, values[i]);
  }
}

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

__device__ __forceinline__ void add_candidate(bool is_wanted, int id, float value, PickShared &shared) {
  if (!is_wanted) return;
  const int at = atomicAdd(&shared.count, 1);
  if (at < kCandidatesMax) shared.candidates[at] = (uint64_t)~order_key(value) << 32 | (uint32_t)id;
}

/* Sorts what add_candidate gathered, best first. Returns how many, or -1 when they did not fit. */
__device__ inline int finish_candidates(PickShared &shared) {
  __syncthreads();
  const int count = shared.count;
  if (count > kCandidatesMax) return -1;
  sort_candidates(count, shared);
  return count;
}

/* At least the best `wanted` (<= kWantedMax) values above -infinity, best first, as (~key, id) in shared.candidates. Returns how many there
   are, or -1 when they do not fit. The wanted-th largest of the threads' own maxima bounds the wanted-th largest value from below. */
__device__ inline int best_candidates(const float *x, int vocab, int wanted, PickShared &shared) {
  uint32_t mine = 0;
  for_each_value(x, vocab, [&](int, float value) {
    const uint32_t key = order_key(value);
    mine = key > mine ? key : mine;
  });
  uint32_t threshold = 0;
  for (int bit = 31; bit >= 0; bit--) {
    const uint32_t higher = threshold | 1u << bit;
    if (__syncthreads_count(mine >= higher) >= wanted) threshold = higher;
  }
  if (threshold < kLowestKey) threshold = kLowestKey;
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for_each_value(x, vocab, [&](int id, float value) { add_candidate(order_key(value) >= threshold, id, value, shared); });
  return finish_candidates(shared);
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
  for_each_value(row.x, row.vocab, [&](int, float value) {
    const uint32_t key = order_key(value);
    if (key >= threshold && key > kept.threshold) sum += kIsMass ? (double)row.weight(value) : 1.0;
  });
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

/* The shortest prefix of the whole row that weighs at least `goal`, by buckets of the exponent: integers, so the order of the additions does not
   matter. Sorts only the bucket in which the goal is passed. False when that bucket is the lowest or too full: use shortest_prefix. */
__device__ inline bool bucket_prefix(const DrawRow &row, double goal, Kept *kept, PickShared &shared) {
  const auto bucket_of = [&](float value) {
    const float depth = (row.best - value) * row.scale * 64.0f; /* falls as the value grows: buckets are ordered as values are */
    return depth < kBuckets ? (int)depth : kBuckets;
  };
  __syncthreads();
  for (int i = threadIdx.x; i <= kBuckets; i += kSampleThreads) shared.buckets.low[i] = shared.buckets.high[i] = 0;
  __syncthreads();
  for_each_value(row.x, row.vocab, [&](int, float value) {
    if (order_key(value) < kLowestKey) return;
    const int bucket = bucket_of(value);
    const uint64_t units = (uint64_t)((double)row.weight(value) * 0x1p40);
    const uint32_t low = (uint32_t)units, before = atomicAdd(&shared.buckets.low[bucket], low);
    const uint32_t high = (uint32_t)(units >> 32) + (before + low < before ? 1 : 0);
    if (high != 0) atomicAdd(&shared.buckets.high[bucket], high);
  });
  __syncthreads();
  const auto weight_of = [&](int bucket) { return (double)((uint64_t)shared.buckets.high[bucket] << 32 | shared.buckets.low[bucket]) * 0x1p-40; };
  const int first = 2 * threadIdx.x;
  double total, before = block_scan_double(weight_of(first) + weight_of(first + 1), &total, shared);
  if (threadIdx.x == 0) shared.found = kBuckets;
  __syncthreads();
  for (int bucket = first; bucket < first + 2; bucket++) {
    before += weight_of(bucket);
    if (before >= goal) {
      atomicMin(&shared.found, bucket);
      break;
    }
  }
  __syncthreads();
  const int edge_bucket = shared.found;
  double passed = 0.0;
  for (int bucket = first; bucket < first + 2; bucket++)
    if (bucket < edge_bucket) passed += weight_of(bucket);
  passed = block_sum_double(passed, shared);
  if (edge_bucket == kBuckets) return false;
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for_each_value(row.x, row.vocab, [&](int id, float value) {
    add_candidate(order_key(value) >= kLowestKey && bucket_of(value) == edge_bucket, id, value, shared);
  });
  const int count = finish_candidates(shared);
  if (count < 1) return false;
  constexpr int kEach = kCandidatesMax / kSampleThreads;
  double mine = 0.0;
  for (int i = threadIdx.x * kEach; i < (int)(threadIdx.x + 1) * kEach && i < count; i++) mine += (double)row.weight(candidate_value(shared.candidates[i]));
  before = passed + block_scan_double(mine, &total, shared);
  if (threadIdx.x == 0) shared.found = count - 1;
  __syncthreads();
  for (int i = threadIdx.x * kEach; i < (int)(threadIdx.x + 1) * kEach && i < count; i++) {
    before += (double)row.weight(candidate_value(shared.candidates[i]));
    if (before >= goal) {
      atomicMin(&shared.found, i);
      break;
    }
  }
  __syncthreads();
  const int edge = shared.found;
  kept->threshold = ~(uint32_t)(shared.candidates[edge] >> 32);
  int ties = 0;
  for (int i = threadIdx.x; i <= edge; i += kSampleThreads) ties += ~(uint32_t)(shared.candidates[i] >> 32) == kept->threshold;
  kept->tie_count = (int)block_sum_double(ties, shared);
  __syncthreads();
  return true;
}

}  // namespace pd
