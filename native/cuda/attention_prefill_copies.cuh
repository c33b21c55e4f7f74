/* How keys and values of the paged cache reach shared memory for prefill attention on Hopper: the plan of a block's shared memory, and the two ways to
   fill it. Used by attention_prefill_wgmma.cu alone, where the picture is. */
#pragma once
#include <cuda.h>
#include "attention.h"
#include "mma.cuh"
#include "wgmma.cuh"

namespace pd {
namespace prefill {

constexpr int kKeys = 128, kQueries = 128, kStages = 2;
constexpr int kThreads = 3 * 128;
constexpr int kHalfColumns = 64; /* elements in a 128-byte row of shared memory */

template <int kDim>
struct Shape {
  static constexpr int kHalves = kDim / kHalfColumns;
  static constexpr int kHalfBytes = kKeys * 128, kTileBytes = kHalves * kHalfBytes;
  static constexpr int kQueryHalfBytes = 64 * 128, kQueryGroupBytes = kHalves * kQueryHalfBytes; /* of one warpgroup */
  static constexpr int kSharedBytes = 2 * kQueryGroupBytes + 2 * kStages * kTileBytes + 128 + 1024; /* barriers; room to align */
};

/* Addresses in shared memory. */
template <int kDim>
struct Plan {
  uint32_t query, keys, values, barriers;
  __device__ explicit Plan(const void *shared) {
    query = (shared_address(shared) + 1023) / 1024 * 1024;
    keys = query + 2 * Shape<kDim>::kQueryGroupBytes;
    values = keys + kStages * Shape<kDim>::kTileBytes;
    barriers = values + kStages * Shape<kDim>::kTileBytes;
  }
  __device__ uint32_t key_full(int stage) const { return barriers + stage * 8; }
  __device__ uint32_t value_full(int stage) const { return barriers + (kStages + stage) * 8; }
  __device__ uint32_t key_free(int stage) const { return barriers + (2 * kStages + stage) * 8; }
  __device__ uint32_t value_free(int stage) const { return barriers + (3 * kStages + stage) * 8; }
};

struct Maps { CUtensorMap keys, values; };

/* What both roles need to know of a block's work. */
struct Work {
  int sequence, kv_head, kv_count, row_count, position_first, tile_first, tile_end;
  int position_step;               /* from a row to the next: 1, or 0 when rows are heads */
  int64_t q_first, out_first;      /* elements: where the first row lies */
  int q_stride, out_stride;
};

#if __CUDA_ARCH__ >= 900

/* One warp's copies: the keys of all tiles (half 0) or their values (half 1). One warp for both would wait for room for values while there is room for keys. */
template <int kDim>
__device__ void copy_tiles(const Attention &a, const Maps &maps, const Work &work, const Plan<kDim> &plan, int half) {
  using S = Shape<kDim>;
  const int lane = threadIdx.x % 32;
  const int *table = a.block_table + (size_t)work.sequence * a.block_table_stride;
  const int piece_keys = min(1 << a.layer.block_shift, kKeys), pieces = kKeys / piece_keys;
  const CUtensorMap *map = half == 0 ? &maps.keys : &maps.values;
  for (int tile = work.tile_first; tile < work.tile_end; tile++) {
    const int count = tile - work.tile_first, stage = count % kStages;
    const int key = tile * kKeys + lane * piece_keys;
    int block = -1; /* outside the tensor: zeros */
    if (lane < pieces && key < work.kv_count) block = a.layer.block_of(table, key);
    const int slot = key & ((1 << a.layer.block_shift) - 1);
    const uint32_t full = half == 0 ? plan.key_full(stage) : plan.value_full(stage);
    const uint32_t target = (half == 0 ? plan.keys : plan.values) + stage * S::kTileBytes + lane * piece_keys * 128;
    barrier_wait(half == 0 ? plan.key_free(stage) : plan.value_free(stage), count / kStages % 2 ^ 1);
    if (lane == 0) barrier_expect(full, S::kTileBytes);
    __syncwarp();
    if (lane < pieces)
      for (int column = 0; column < S::kHalves; column++) copy_box4(target + column * S::kHalfBytes, map, full, column * kHalfColumns, slot, work.kv_head, block);
  }
}

/* The same from an fp8 cache, by 128 threads: eight or four of them to a row, 16 elements each. */
template <typename T, int kDim>
__device__ void widen_tiles(const Attention &a, const Work &work, const Plan<kDim> &plan) {
  using S = Shape<kDim>;
  constexpr int kChunks = kDim / 16, kRowsPerPass = 128 / kChunks, kPasses = kKeys / kRowsPerPass;
  const int *table = a.block_table + (size_t)work.sequence * a.block_table_stride;
  const int row_first = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks, halves = 2 * (work.tile_end - work.tile_first);
  uint4 held[kPasses];
  float scales[kPasses];
  const auto load = [&](int index) { /* K of a tile, its V, K of the next … */
    char *const source = index % 2 == 0 ? a.layer.keys : a.layer.values;
#pragma unroll
    for (int i = 0; i < kPasses; i++) {
      const int key = (work.tile_first + index / 2) * kKeys + i * kRowsPerPass + row_first, slot = key & ((1 << a.layer.block_shift) - 1);
      const int block = key < work.kv_count ? a.layer.block_of(table, key) : -1;
      held[i] = make_uint4(0, 0, 0, 0);
      scales[i] = 1.0f;
      if (block < 0) continue;
      char *const half = source + (size_t)block * a.layer.block_bytes;
      held[i] = *(const uint4 *)(half + a.layer.within(work.kv_head, slot) + chunk * 16);
      scales[i] = *a.layer.scale(half, work.kv_head, slot);
    }
  };
  load(0);
  for (int index = 0; index < halves; index++) {
    const int count = index / 2, stage = count % kStages;
    const bool is_key = index % 2 == 0;
    const uint32_t target = (is_key ? plan.keys : plan.values) + stage * S::kTileBytes + chunk / 4 * S::kHalfBytes;
    barrier_wait(is_key ? plan.key_free(stage) : plan.value_free(stage), count / kStages % 2 ^ 1);
#pragma unroll
    for (int i = 0; i < kPasses; i++) {
      const int row = i * kRowsPerPass + row_first, first = chunk % 4 * 2;
      store_shared16(target + swizzled(row, first), widen_fp8<T>(held[i].x, scales[i]), widen_fp8<T>(held[i].y, scales[i]));
      store_shared16(target + swizzled(row, first + 1), widen_fp8<T>(held[i].z, scales[i]), widen_fp8<T>(held[i].w, scales[i]));
    }
    proxy_fence();
    barrier_arrive(is_key ? plan.key_full(stage) : plan.value_full(stage));
    if (index + 1 < halves) load(index + 1);
  }
}

#endif

}  // namespace prefill
}  // namespace pd
