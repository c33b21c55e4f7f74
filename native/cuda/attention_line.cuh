/* The line of decode work and how a warp reads its stretch of it: which tiles of which (sequence, head pass) a block takes, and the copies that run
   ahead across their ends. Used by attention_decode.cu alone, where the picture is. */
#pragma once
#include "attention.h"
#include "mma.cuh"

namespace pd {
namespace decode {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpKeys = 16;
constexpr int kTileKeys = kWarps * kWarpKeys; /* PD_KEY_TILE */
constexpr int kBlockTilesMin = 2;            /* shorter pieces cost more to merge than they save */
constexpr int kRows = 16;                     /* query heads per pass: the rows of an mma */

static_assert(kTileKeys == PD_KEY_TILE, "a tile is one softmax step of the contract");

/* Kv: of the cache */
template <typename Kv, int kDim>
struct Shape {
  static constexpr bool kHasScales = sizeof(Kv) == 1;
  static constexpr int kRowBytes = kDim * sizeof(Kv), kPitch = kRowBytes + 16; /* in shared memory: odd in units of 16, so ldmatrix has no bank conflicts */
  static constexpr int kDataBytes = kWarpKeys * kPitch, kHalfBytes = kDataBytes + (kHasScales ? kWarpKeys * 4 : 0);
  static constexpr int kStages = kHasScales && kDim <= 128 ? 5 : kDim <= 64 ? 4 : kDim <= 192 || kHasScales ? 3 : 2;
  static constexpr int kRingBytes = kWarps * kStages * 2 * kHalfBytes;
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

/* starts[s] = tiles before sequence s; starts[sequence_count] = all. One pass of the block over the sequences. */
__device__ inline void scan_tiles(const Attention &a, int *starts, int *warp_sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int before = 0, first;
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
    __syncthreads();
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
template <typename Kv, int kDim>
struct WarpReader {
  using S = Shape<Kv, kDim>;
  const Attention &a;
  const int *starts;
  int head_passes, passes_per_kv_head, warp, lane;
  int64_t at, end;           /* next tile to copy; end of the stretch */
  uint32_t ring;             /* this warp's stages in shared memory */
  Piece piece;               /* the one `at` lies in */
  int64_t piece_begin, piece_end;
  const int *table;
  int kv_head, kv_count, key_first, stage;
  int low_block, high_block; /* of tile `lane` of the current run of 32: blocks of this warp's keys 0..7 and 8..15 */

  __device__ __forceinline__ int block_of(int key) const { return key < kv_count ? table[key >> a.layer.block_shift] : -1; }

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
      const uint32_t target_first = ring + stage * 2 * S::kHalfBytes;
      const int slot_mask = (1 << a.layer.block_shift) - 1, key_base = key_first + index * kTileKeys;
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
      at++;
    }
    copy_async_commit();
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
  }
};

}  // namespace decode
}  // namespace pd
