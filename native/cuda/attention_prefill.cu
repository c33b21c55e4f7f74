/* Prefill attention over the paged cache for sequences with several queries: flash attention on mma.sync tensor cores, causal, continuing a
   cached prefix or earlier chunks, many sequences of any length in one launch. Twin: ../cpu/attention.cc; the sm_90a version with wgmma is in
   attention_prefill_wgmma.cu.

   One block of four warps takes 64 or 128 queries of one head, each warp 16 or 32 of them, and walks the keys in tiles of 64 counted from
   position 0. K and V tiles are copied while the other one is being multiplied:

     copy      K0   V0        K1        V1        K2
     compute        S = Q K0  | softmax, O += P V0 | S = Q K1 | …

   An fp8 cache is widened on its way to shared memory, exactly in bf16; its copies then overlap nothing. */
#include "attention.h"
#include "attention_tiles.cuh"
#include "mma.cuh"

namespace pd {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kKeys = PD_KEY_TILE;

template <int kDim>
struct Shape {
  static constexpr int kRowTiles = kDim <= 128 ? 2 : 1; /* of 16 queries per warp; more would not fit the registers */
  static constexpr int kQueries = kWarps * 16 * kRowTiles;
  static constexpr int kPitch = kDim * 2 + 16; /* odd in units of 16 bytes: no bank conflicts */
  static constexpr int kQueryBytes = kQueries * kPitch, kTileBytes = kKeys * kPitch;
  static constexpr int kSharedBytes = kQueryBytes + 2 * kTileBytes;
};

// ---- kernels

/* Starts the copy of 64 keys or values, which become T. source: a.layer.keys or values. */
template <typename T, typename Kv, int kDim>
__device__ __forceinline__ void copy_tile(const Attention &a, char *source, uint32_t target, const int *table, int kv_head, int key_first,
                                          int kv_count) {
  if constexpr (sizeof(Kv) == 1) {
    constexpr int kChunks = kDim / 16;
#pragma unroll 4
    for (int i = 0; i < kKeys * kChunks / kThreads; i++) {
      const int chunk = i * kThreads + threadIdx.x, row = chunk / kChunks, col = chunk % kChunks, key = key_first + row;
      const int block = key < kv_count ? a.layer.block_of(table, key) : -1, slot = key & ((1 << a.layer.block_shift) - 1);
      uint4 data = make_uint4(0, 0, 0, 0);
      float scale = 1.0f;
      if (block >= 0) {
        char *const half = source + (size_t)block * a.layer.block_bytes;
        data = *(const uint4 *)(half + a.layer.within(kv_head, slot) + col * 16);
        scale = *a.layer.scale(half, kv_head, slot);
      }
      const uint32_t at = target + row * Shape<kDim>::kPitch + col * 32;
      store_shared16(at, widen_fp8<T>(data.x, scale), widen_fp8<T>(data.y, scale));
      store_shared16(at + 16, widen_fp8<T>(data.z, scale), widen_fp8<T>(data.w, scale));
    }
    copy_async_commit(); /* the queries, before the first tile */
    return;
  }
  constexpr int kChunks = kDim / 8;
#pragma unroll
  for (int i = 0; i < kKeys * kChunks / kThreads; i++) {
    const int chunk = i * kThreads + threadIdx.x, row = chunk / kChunks, col = chunk % kChunks;
    const int key = key_first + row;
    const int block = key < kv_count ? a.layer.block_of(table, key) : -1;
    const size_t offset = block >= 0 ? (size_t)block * a.layer.block_bytes +
                                           (((size_t)(kv_head << a.layer.block_shift) + (key & ((1 << a.layer.block_shift) - 1))) * kDim + col * 8) * 2
                                     : 0;
    copy_async16(target + row * Shape<kDim>::kPitch + col * 16, source + offset, block >= 0);
  }
  copy_async_commit();
}

template <typename T, typename Kv, int kDim>
__global__ void __launch_bounds__(kThreads) attention_prefill_kernel(const Attention a) {
  using S = Shape<kDim>;
  extern __shared__ __align__(16) char shared[];
  const uint32_t query_shared = shared_address(shared), key_shared = query_shared + S::kQueryBytes, value_shared = key_shared + S::kTileBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  grid_release();
  grid_wait();
  const QueryTile tile = query_tile_at(a, gridDim.y - 1 - blockIdx.y, S::kQueries); /* late tiles see the most keys: begin with them */
  if (tile.sequence < 0) return;
  const int head = blockIdx.x, kv_head = head / a.group;
  const int row_first = a.query_start[tile.sequence] + tile.query_first;
  const int row_count = min(S::kQueries, tile.query_count - tile.query_first);
  const int kv_count = tile.kv_count;
  T *out = (T *)a.out + ((size_t)row_first * a.head_count + head) * kDim;
  if (kv_count == 0) {
    for (int i = threadIdx.x; i < row_count * kDim; i += kThreads) out[(size_t)(i / kDim) * a.head_count * kDim + i % kDim] = from_float<T>(0.0f);
    return;
  }
  const int position_first = kv_count - tile.query_count + tile.query_first; /* of this tile's first query */
  const int key_end = position_first + row_count;
  const int tile_first = a.window > 0 && position_first >= a.window ? (position_first - a.window + 1) / kKeys : 0;
  const int tile_end = (key_end + kKeys - 1) / kKeys;
  const int *table = a.block_table + (size_t)tile.sequence * a.block_table_stride;
  const ScoreScale to_exponent{a.scale, a.softcap};

  {
    constexpr int kChunks = kDim / 8;
    const T *q = (const T *)a.q + (size_t)row_first * a.q_row_stride + (size_t)head * kDim;
    for (int chunk = threadIdx.x; chunk < S::kQueries * kChunks; chunk += kThreads) {
      const int row = chunk / kChunks, col = chunk % kChunks;
      copy_async16(query_shared + row * S::kPitch + col * 16, q + (row < row_count ? (size_t)row * a.q_row_stride : 0) + col * 8, row < row_count);
    }
  }
  copy_tile<T, Kv, kDim>(a, a.layer.keys, key_shared, table, kv_head, tile_first * kKeys, kv_count);

  float gathered[S::kRowTiles][kDim / 8][4] = {};
  float best[S::kRowTiles][2], sum[S::kRowTiles][2];
#pragma unroll
  for (int m = 0; m < S::kRowTiles; m++) {
    best[m][0] = best[m][1] = -INFINITY;
    sum[m][0] = sum[m][1] = 0.0f;
  }
  const int warp_row = warp * 16 * S::kRowTiles;
  for (int j = tile_first; j < tile_end; j++) {
    const int key_first = j * kKeys;
    copy_async_wait<0>();
    __syncthreads(); /* K is here, and everyone has finished with V */
    copy_tile<T, Kv, kDim>(a, a.layer.values, value_shared, table, kv_head, key_first, kv_count);

    float scores[S::kRowTiles][kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
      uint32_t query[S::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < S::kRowTiles; m++)
        ldmatrix4(query[m], query_shared + (warp_row + m * 16 + lane % 16) * S::kPitch + k * 32 + lane / 16 * 16);
#pragma unroll
      for (int n = 0; n < kKeys / 16; n++) {
        uint32_t keys[4];
        ldmatrix4(keys, key_shared + (n * 16 + lane / 16 * 8 + lane % 8) * S::kPitch + k * 32 + lane / 8 % 2 * 16);
#pragma unroll
        for (int m = 0; m < S::kRowTiles; m++) {
          mma16816<T>(scores[m][2 * n], query[m], keys[0], keys[1]);
          mma16816<T>(scores[m][2 * n + 1], query[m], keys[2], keys[3]);
        }
      }
    }
    const int warp_position = position_first + warp_row;
    const bool needs_mask = key_first + kKeys - 1 > warp_position || (a.window > 0 && key_first <= warp_position + 16 * S::kRowTiles - 1 - a.window);
#pragma unroll
    for (int m = 0; m < S::kRowTiles; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int position = warp_position + m * 16 + half * 8 + g;
        float higher = best[m][half];
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
          for (int i = 0; i < 2; i++) {
            float &score = scores[m][n][half * 2 + i];
            score = to_exponent(score);
            if (needs_mask) {
              const int key = key_first + n * 8 + 2 * t + i;
              if (key > position || (a.window > 0 && key <= position - a.window)) score = -INFINITY;
            }
            higher = fmaxf(higher, score);
          }
        }
        higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, 1));
        higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, 2));
        const float base = higher == -INFINITY ? 0.0f : higher;
        const float rescale = exp2_fast(best[m][half] - base);
        best[m][half] = higher;
        float added = 0.0f;
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
          for (int i = 0; i < 2; i++) {
            float &score = scores[m][n][half * 2 + i];
            score = exp2_fast(score - base);
            added += score;
          }
        }
        sum[m][half] = sum[m][half] * rescale + added;
#pragma unroll
        for (int n = 0; n < kDim / 8; n++) {
          gathered[m][n][half * 2] *= rescale;
          gathered[m][n][half * 2 + 1] *= rescale;
        }
      }
    }
    copy_async_wait<0>();
    __syncthreads(); /* V is here, and everyone has finished with K */
    if (j + 1 < tile_end) copy_tile<T, Kv, kDim>(a, a.layer.keys, key_shared, table, kv_head, key_first + kKeys, kv_count);
#pragma unroll
    for (int k = 0; k < kKeys / 16; k++) {
      uint32_t weights[S::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < S::kRowTiles; m++) {
        weights[m][0] = pack<T>(scores[m][2 * k][0], scores[m][2 * k][1]);
        weights[m][1] = pack<T>(scores[m][2 * k][2], scores[m][2 * k][3]);
        weights[m][2] = pack<T>(scores[m][2 * k + 1][0], scores[m][2 * k + 1][1]);
        weights[m][3] = pack<T>(scores[m][2 * k + 1][2], scores[m][2 * k + 1][3]);
      }
#pragma unroll
      for (int n = 0; n < kDim / 16; n++) {
        uint32_t values[4];
        ldmatrix4_transposed(values, value_shared + (k * 16 + lane % 16) * S::kPitch + n * 32 + lane / 16 * 16);
#pragma unroll
        for (int m = 0; m < S::kRowTiles; m++) {
          mma16816<T>(gathered[m][2 * n], weights[m], values[0], values[1]);
          mma16816<T>(gathered[m][2 * n + 1], weights[m], values[2], values[3]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < S::kRowTiles; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float all = sum[m][half];
      all += __shfl_xor_sync(~0u, all, 1);
      all += __shfl_xor_sync(~0u, all, 2);
      const int row = warp_row + m * 16 + half * 8 + g;
      if (row >= row_count) continue;
      const float inverse = 1.0f / all;
      T *target = out + (size_t)row * a.head_count * kDim;
#pragma unroll
      for (int n = 0; n < kDim / 8; n++)
        *(uint32_t *)(target + n * 8 + 2 * t) = pack<T>(gathered[m][n][half * 2] * inverse, gathered[m][n][half * 2 + 1] * inverse);
    }
  }
}

// ---- launchers

template <typename T, typename Kv, int kDim>
int launch_prefill(PdStream *stream, const Attention &a) {
  using S = Shape<kDim>;
  const dim3 grid(a.head_count, query_tile_bound(a, S::kQueries));
  return launch(stream, "paged_attention (prefill)", attention_prefill_kernel<T, Kv, kDim>, grid, kThreads, S::kSharedBytes, a);
}

template <typename T, typename Kv>
int launch_prefill_dim(PdStream *stream, const Attention &a) {
  switch (a.layer.head_dim) {
    case 32: return launch_prefill<T, Kv, 32>(stream, a);
    case 64: return launch_prefill<T, Kv, 64>(stream, a);
    case 96: return launch_prefill<T, Kv, 96>(stream, a);
    case 128: return launch_prefill<T, Kv, 128>(stream, a);
    case 256: return launch_prefill<T, Kv, 256>(stream, a);
    default: return fail(PD_UNSUPPORTED, "paged_attention: head_dim %d", a.layer.head_dim);
  }
}

}  // namespace

int attention_prefill(PdStream *stream, int32_t dtype, int32_t cache_dtype, const Attention &attention) {
  const bool is_fp8 = cache_dtype == PD_FP8_E4M3;
  if (dtype == PD_BF16) return is_fp8 ? launch_prefill_dim<bf16, fp8>(stream, attention) : launch_prefill_dim<bf16, bf16>(stream, attention);
  return is_fp8 ? launch_prefill_dim<f16, fp8>(stream, attention) : launch_prefill_dim<f16, f16>(stream, attention);
}

}  // namespace pd
