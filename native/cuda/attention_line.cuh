/* The line of decode work and how a warp reads its stretch of it: which tiles of which (sequence, head pass) a block takes, and the copies that run
   ahead across their ends. Used by attention_decode.cu alone, where the picture is, and attention_decode_keys.cuh. */
#pragma once
#include <cuda.h>
#include "attention.h"
#include "mma.cuh"
#include "wgmma.cuh"

namespace pd {
namespace decode {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpKeys = 16;
constexpr int kTileKeys = kWarps * kWarpKeys; /* PD_KEY_TILE */
constexpr int kBlockTilesMin = 2;            /* shorter pieces cost more to merge than they save */
constexpr int kRows = 16;                     /* query heads per pass: the rows of an mma */

static_assert(kTileKeys == PD_KEY_TILE, "a tile is one softmax step of the contract");

struct Maps { CUtensorMap keys, values; };

/* Kv: of the cache. kIsBulk: tiles are fetched by the bulk tensor copy and lie as in memory, but that the 16-byte chunks of every 128 bytes are swizzled as in
   wgmma.cuh: no bank conflicts up to head_dim 64, two-way ones at 128. Otherwise by cp.async into rows whose pitch is odd in units of 16 bytes: none. */
template <typename Kv, int kDim, bool kIsBulk>
struct Shape {
  static constexpr bool kHasScales = sizeof(Kv) == 1;
  static constexpr int kRowBytes = kDim * sizeof(Kv), kPitch = kRowBytes + (kIsBulk ? 0 : 16);
  static constexpr int kRowLines = kRowBytes / 128; /* bulk: a row's stretches of 128 bytes */
  static constexpr int kDataBytes = kWarpKeys * kPitch, kHalfBytes = kDataBytes + (kHasScales ? kWarpKeys * 4 : 0);
  static constexpr int kStages = kHasScales && kDim <= 128 ? 5 : kDim <= 64 ? 4 : kDim <= 192 || kHasScales ? 3 : 2;
  static constexpr int kRingBytes = kWarps * kStages * 2 * kHalfBytes;
  static constexpr int kBarrierBytes = kIsBulk ? kWarps * kStages * 8 : 0;
  static constexpr int kAlignBytes = kIsBulk ? 1024 : 16;

  /* Shared-memory address of 16-byte chunk 0 or 1 of a row, for ldmatrix; step: the same `k` times 32 bytes further along the row. */
  static __device__ __forceinline__ uint32_t row_address(uint32_t half, int row, int chunk) {
    return half + row * kPitch + (kIsBulk ? (chunk ^ (row * kRowLines & 7)) << 4 : chunk * 16);
  }
  static __device__ __forceinline__ uint32_t step(uint32_t address, int k) {
    return kIsBulk ? (address ^ (k % 4 * 32) ^ (k / 4 * 16)) + k / 4 * 128 : address + k * 32;
  }
};

/* A partial result of `rows` query heads: [rows][kDim] weighted values, [rows] best exponent, [rows] sum of weights. */
template <int kDim>
__host__ __device__ constexpr int partial_floats(int rows) { return rows * (kDim + 2); }

/* One (sequence, head pass) and a range of its tiles. */
struct Piece {
  int sequence, head_pass, tile_first, tile_end;
  int tile_count;    /* of the whole (sequence, head pass) */
  int64_t line_start; /* where the whole (sequence, head pass) starts in the line */
};

/* Tiles a sequence contributes per head pass; 0 for padding and for what prefill takes. first: the first tile inside the window.
   Rounded up to the grain: a tile past the last key costs no bytes. */
__device__ __forceinline__ int tiles_of(const Attention &a, int sequence, int *first) {
  const int kv_count = a.kv_count[sequence];
  *first = a.window > 0 && kv_count > a.window ? (kv_count - a.window) / kTileKeys : 0;
  if (a.query_start[sequence + 1] - a.query_start[sequence] != 1) return 0;
  const int count = (kv_count + kTileKeys - 1) / kTileKeys - *first;
  return (count + a.tile_grain - 1) / a.tile_grain * a.tile_grain;
}

/* starts[s] = tiles before sequence s; starts[sequence_count] = all. Returns how many sequences have tiles. One pass of the block over the sequences. */
__device__ inline int scan_tiles(const Attention &a, int *starts, int *warp_sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int before = 0, sequences = 0, first;
  for (int base = 0; base < a.sequence_count; base += kThreads) {
    const int sequence = base + threadIdx.x;
    const int count = sequence < a.sequence_count ? tiles_of(a, sequence, &first) : 0;
    int inclusive = count;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, inclusive, step);
      if (lane >= step) inclusive += other;
    }
    if (lane == 31) warp_sums[warp] = inclusive;
    sequences += __syncthreads_count(count > 0);
    int offset = before, all = 0;
    for (int w = 0; w < kWarps; w++) {
      if (w < warp) offset += warp_sums[w];
      all += warp_sums[w];
    }
    if (sequence < a.sequence_count) starts[sequence] = offset + inclusive - count;
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) starts[a.sequence_count] = before;
  __syncthreads();
  return sequences;
}

/* How many blocks share the line. Nearly all of the grid; a few less when cuts then fall on the ends of (sequence, head)s of equal lengths: what is
   not cut needs no merge, and the memory bus does not miss a few blocks. */
__device__ __forceinline__ int blocks_for(int64_t tiles, int lines, int grid) {
  const int64_t wanted = (tiles + kBlockTilesMin - 1) / kBlockTilesMin;
  if (wanted < grid) return (int)wanted;
  const int per_block = (lines + grid - 1) / grid, even = lines <= grid ? grid / lines * lines : (lines + per_block - 1) / per_block;
  return even >= grid - grid / 8 ? even : grid;
}

__device__ __forceinline__ Piece piece_at(const Attention &a, const int *starts, int head_passes, int64_t at, int64_t end) {
  int low = 0, high = a.sequence_count - 1;
  const int64_t tile = at / head_passes; /* starts count tiles of one head pass */
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (starts[middle] <= tile) low = middle;
    else high = middle - 1;
  }
  Piece piece;
  piece.sequence = low;
  piece.tile_count = starts[low + 1] - starts[low];
  const int64_t within = at - (int64_t)starts[low] * head_passes;
  piece.head_pass = (int)(within / piece.tile_count);
  piece.tile_first = (int)(within % piece.tile_count);
  piece.line_start = at - piece.tile_first;
  const int64_t left = end - at;
  piece.tile_end = piece.tile_first + left < piece.tile_count ? (int)(piece.tile_first + left) : piece.tile_count;
  return piece;
}

/* The copies of one warp: its 16 keys of every tile of the block's stretch of the line, kStages in flight. */
template <typename Kv, int kDim, bool kIsBulk>
struct WarpReader {
  using S = Shape<Kv, kDim, kIsBulk>;
  const Attention &a;
  const Maps &maps;
  const int *starts;
  int head_passes, passes_per_kv_head, warp, lane;
  int64_t at, end;           /* next tile to copy; end of the stretch */
  uint32_t ring, barriers;   /* this warp's stages in shared memory, and when they are full (bulk) */
  Piece piece;               /* the one `at` lies in */
  int64_t piece_begin, piece_end;
  const int *table;
  int kv_head, kv_count, key_first, stage;
  int low_block, high_block; /* of tile `lane` of the current run of 32: blocks of this warp's keys 0..7 and 8..15 */

  __device__ __forceinline__ int block_of(int key) const { return key < kv_count ? a.layer.block_of(table, key) : -1; }

  __device__ void enter_piece() {
    piece = piece_at(a, starts, head_passes, at, end);
    piece_begin = at;
    piece_end = at + piece.tile_end - piece.tile_first;
    kv_head = piece.head_pass / passes_per_kv_head;
    kv_count = a.kv_count[piece.sequence];
    table = a.block_table + (size_t)piece.sequence * a.block_table_stride;
    int window_tile;
    tiles_of(a, piece.sequence, &window_tile);
    key_first = (window_tile + piece.tile_first) * kTileKeys + warp * kWarpKeys;
  }

  /* Whether the next tile holds the newest key of its sequence, which the kernel before this one may still be writing. */
  __device__ __forceinline__ bool is_newest_next() {
    if (at == piece_end && at < end) enter_piece();
    return at < end && key_first - warp * kWarpKeys + (int)(at - piece_begin + 1) * kTileKeys >= kv_count;
  }

  __device__ __forceinline__ void issue() {
    if (at < end) {
      if (at == piece_end) enter_piece();
      const int index = (int)(at - piece_begin);
      if (index % 32 == 0) {
        low_block = block_of(key_first + (index + lane) * kTileKeys);
        high_block = block_of(key_first + (index + lane) * kTileKeys + 8);
      }
      const int blocks[2] = {__shfl_sync(~0u, low_block, index % 32), __shfl_sync(~0u, high_block, index % 32)};
      if constexpr (kIsBulk) copy_by_engine(blocks, key_first + index * kTileKeys);
      else copy_by_lanes(blocks, key_first + index * kTileKeys);
      at++;
    }
    if constexpr (!kIsBulk) copy_async_commit();
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
  }

  /* Returns when the tile of this stage has arrived. parity: of how often the ring has gone round. */
  __device__ __forceinline__ void wait(int stage_index, uint32_t parity) const {
    if constexpr (kIsBulk) {
#if __CUDA_ARCH__ >= 900
      barrier_wait(barriers + stage_index * 8, parity);
#endif
    } else {
      copy_async_wait<S::kStages - 2>();
      __syncwarp();
    }
  }

  /* Whole slots of blocks, also those past the last key: who reads values clears them. No block: zeros. */
  __device__ __forceinline__ void copy_by_engine(const int (&blocks)[2], int key_base) {
#if __CUDA_ARCH__ >= 900
    const uint32_t full = barriers + stage * 8;
    if (lane == 0) barrier_expect(full, 2 * S::kHalfBytes);
    __syncwarp();
    const int half = lane / 2, eight = lane % 2;
    if (lane >= 4 || (eight == 1 && a.layer.block_shift > 3)) return;
    const uint32_t target = ring + stage * 2 * S::kHalfBytes + half * S::kHalfBytes + eight * 8 * S::kRowBytes;
    const int slot = (key_base + eight * 8) & ((1 << a.layer.block_shift) - 1);
    copy_box5(target, half == 0 ? &maps.keys : &maps.values, full, 0, 0, slot, kv_head, eight == 0 ? blocks[0] : blocks[1]);
#endif
  }

  __device__ __forceinline__ void copy_by_lanes(const int (&blocks)[2], int key_base) {
    const uint32_t target_first = ring + stage * 2 * S::kHalfBytes;
    const int slot_mask = (1 << a.layer.block_shift) - 1;
    constexpr int kChunks = S::kRowBytes / 16;
#pragma unroll
    for (int i = 0; i < kWarpKeys * kChunks / 32; i++) {
      const int chunk = i * 32 + lane, row = chunk / kChunks, col = chunk % kChunks;
      const int block = row < 8 ? blocks[0] : blocks[1];
      const int key = key_base + row;
      const bool is_valid = block >= 0 && key < kv_count;
      const size_t offset = is_valid ? (size_t)block * a.layer.block_bytes + ((size_t)(kv_head << a.layer.block_shift) + (key & slot_mask)) * S::kRowBytes + col * 16 : 0;
      const uint32_t target = target_first + row * S::kPitch + col * 16;
      copy_async16(target, a.layer.keys + offset, is_valid);
      copy_async16(target + S::kHalfBytes, a.layer.values + offset, is_valid);
    }
    if (S::kHasScales && lane < kWarpKeys / 2) { /* four keys each, of K then of V */
      const int part = lane % 4, key = key_base + part * 4, block = part < 2 ? blocks[0] : blocks[1];
      const bool is_valid = block >= 0 && key < kv_count;
      char *const half = (lane < 4 ? a.layer.keys : a.layer.values) + (is_valid ? (size_t)block * a.layer.block_bytes : 0);
      copy_async16(target_first + lane / 4 * S::kHalfBytes + S::kDataBytes + part * 16, a.layer.scale(half, kv_head, key & slot_mask), is_valid);
    }
  }
};

}  // namespace decode
}  // namespace pd
