/* Prefill attention for Hopper: the work of attention_prefill.cu with wgmma tensor cores fed by the bulk tensor copy. head_dim 64 or 128.

   One block takes 128 queries of one head. Warpgroup 0 only copies, keys by its first warp and values by its second: each lane fetches one KV block of
   a tile of 128 keys, through a tensor map that sees the whole cache as [block][kvHead][slot][headDim], so paging costs one coordinate. Warpgroups 1 and 2 take
   64 queries each and overlap the softmax of one tile with the product P V of the tile before:

     copies     K0 V0 K1 V1 K2 …                    two stages each
     products   Q K0      | Q K1  P0 V0 | Q K2  P1 V1 | …
     softmax          s0        |   s1         |   s2

   An fp8 cache is read by all of warpgroup 0, which widens it, exactly in bf16, on its way to shared memory: a thread holds its share of the next 128
   keys or values in registers while it waits for room.

   The two compute warpgroups take turns at enqueueing products, so that one's softmax runs beside the other's products.

   A sequence with one query (it comes here when results may not depend on the batch) is one tile per kv head, whose rows are the query heads that share
   it. A row's result does not depend on its place in a tile.

   Keys past the end of a sequence lie in its last block and may hold anything: their V rows are cleared before use. */
#include "attention_prefill_copies.cuh"
#include "attention_tiles.cuh"
#include "tensor_map.h"

namespace pd {
namespace {

using namespace prefill;

// ---- kernels

#if __CUDA_ARCH__ >= 900

/* This warpgroup's 64 queries into shared memory; rows past the end are zeros. */
template <typename T, int kDim>
__device__ __forceinline__ void load_queries(const Attention &a, const Work &work, int group, uint32_t target) {
  using S = Shape<kDim>;
  const T *q = (const T *)a.q + work.q_first;
#pragma unroll
  for (int i = 0; i < 64 * kDim / 8 / 128; i++) {
    const int chunk = i * 128 + threadIdx.x % 128, row = chunk / (kDim / 8), col = chunk % (kDim / 8);
    const bool is_real = group * 64 + row < work.row_count;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (is_real) value = *(const uint4 *)(q + (int64_t)(group * 64 + row) * work.q_stride + col * 8);
    const uint32_t at = target + col / 8 * S::kQueryHalfBytes + swizzled(row, col % 8);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w) : "memory");
  }
}

template <typename T, int kDim>
__device__ __forceinline__ void multiply_keys(float (&scores)[64], uint32_t query, uint32_t keys) {
  using S = Shape<kDim>;
#pragma unroll
  for (int k = 0; k < kDim / 16; k++) {
    const int half = k / 4, step = k % 4 * 32; /* 16 elements along the row */
    wgmma_m64n128_shared<T>(scores, matrix_descriptor(query + half * S::kQueryHalfBytes + step, 16, 1024),
                            matrix_descriptor(keys + half * S::kHalfBytes + step, 16, 1024), k > 0);
  }
}

template <typename T, int kDim>
__device__ __forceinline__ void multiply_values(float (&out)[kDim / 2], const uint32_t (&weights)[kKeys / 16][4], uint32_t values) {
  using S = Shape<kDim>;
#pragma unroll
  for (int k = 0; k < kKeys / 16; k++) {
    const uint64_t descriptor = matrix_descriptor(values + k * 16 * 128, S::kHalfBytes, 1024); /* leading: to the next 64 columns */
    if constexpr (kDim == 128) wgmma_m64n128_registers<T>(out, weights[k], descriptor, 1);
    else wgmma_m64n64_registers<T>(out, weights[k], descriptor, 1);
  }
}

/* V rows of keys past the end of the sequence become zeros: zero weight times garbage must be zero. Called by both warpgroups; the first writes. */
template <int kDim>
__device__ __forceinline__ void clear_values(uint32_t values, int first_row, int group) {
  using S = Shape<kDim>;
  if (group == 0) {
    for (int i = threadIdx.x % 128; i < (kKeys - first_row) * 8 * S::kHalves; i += 128) {
      const int half = i / ((kKeys - first_row) * 8), at = i % ((kKeys - first_row) * 8);
      asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(values + half * S::kHalfBytes + first_row * 128 + at * 16), "r"(0) : "memory");
    }
    proxy_fence();
  }
  named_barrier(5, 256);
}

/* Rows r and r + 8 of this thread; the four lanes of a row hold its columns. */
template <bool kHasSoftcap>
struct Softmax {
  float best[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  float factor; /* exponent per unit of score */
  float scale, softcap;

  __device__ __forceinline__ explicit Softmax(const Attention &a) : scale(a.scale), softcap(a.softcap) {
    factor = (kHasSoftcap ? a.softcap : a.scale) * 1.4426950408889634f;
  }

  /* scores become weights; returns what earlier sums must be multiplied by. kIsMasked: some key of the tile may be hidden from some row. */
  template <bool kIsMasked>
  __device__ __forceinline__ void apply(float (&scores)[64], const int (&positions)[2], int key_first, int window, float (&rescale)[2]) {
    const int t = threadIdx.x % 4;
    float top[2][2] = {{best[0], -INFINITY}, {best[1], -INFINITY}}; /* two chains a row: one maximum waits for the other */
#pragma unroll
    for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float &score = scores[n * 4 + i];
        if constexpr (kHasSoftcap) score = tanhf(score * scale / softcap);
        if constexpr (kIsMasked) {
          const int key = key_first + n * 8 + 2 * t + i % 2, at = positions[i / 2];
          if (key > at || (window > 0 && key <= at - window)) score = -INFINITY;
        }
        top[i / 2][i % 2] = fmaxf(top[i / 2][i % 2], score);
      }
    }
    float base[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float higher = fmaxf(top[half][0], top[half][1]);
      higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, 1));
      higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, 2));
      const float visible = higher == -INFINITY ? 0.0f : higher;
      base[half] = visible * factor;
      rescale[half] = exp2_fast((best[half] - visible) * factor); /* exactly 1 when a tile adds nothing: then it does not matter who saw it */
      best[half] = higher;
    }
    float added[2][2] = {};
#pragma unroll
    for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float &score = scores[n * 4 + i];
        score = exp2_fast(fmaf(score, factor, -base[i / 2]));
        added[i / 2][i % 2] += score;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) sum[half] = sum[half] * rescale[half] + (added[half][0] + added[half][1]);
  }
};

template <typename T>
__device__ __forceinline__ void pack_weights(uint32_t (&weights)[kKeys / 16][4], const float (&scores)[64]) {
#pragma unroll
  for (int k = 0; k < kKeys / 16; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) weights[k][i] = pack<T>(scores[k * 8 + i * 2], scores[k * 8 + i * 2 + 1]);
  }
}

/* Waits until the other warpgroup has given this one its turn; gives a turn to `group`. */
__device__ __forceinline__ void take_turn(int group) { named_barrier(3 + group, 256); }
__device__ __forceinline__ void turn_over(int group) { asm volatile("bar.arrive %0, 256;" ::"r"(3 + group) : "memory"); }

template <typename T, int kDim, bool kHasSoftcap>
__device__ void attend(const Attention &a, const Work &work, const Plan<kDim> &plan, int group) {
  using S = Shape<kDim>;
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, t = lane % 4;
  const uint32_t query = plan.query + group * S::kQueryGroupBytes;
  load_queries<T, kDim>(a, work, group, query);
  proxy_fence();
  named_barrier(1 + group, 128);
  const int row = group * 64 + warp * 16 + lane / 4; /* and row + 8 */
  const int positions[2] = {work.position_first + row * work.position_step, work.position_first + (row + 8) * work.position_step};
  const int group_position = work.position_first + group * 64 * work.position_step;
  float scores[64], out[kDim / 2];
  uint32_t weights[kKeys / 16][4];
  float rescale[2];
  Softmax<kHasSoftcap> softmax(a);
#pragma unroll
  for (int i = 0; i < kDim / 2; i++) out[i] = 0.0f;
  const auto apply_softmax = [&](int tile) {
    const int key = tile * kKeys;
    const bool is_masked = key + kKeys - 1 > group_position || (a.window > 0 && key <= group_position + 63 - a.window);
    if (is_masked) softmax.template apply<true>(scores, positions, key, a.window, rescale);
    else softmax.template apply<false>(scores, positions, key, a.window, rescale);
  };
  const auto parity_of = [](int count) { return (uint32_t)(count / kStages % 2); };
  const int tiles = work.tile_end - work.tile_first;
  barrier_wait(plan.key_full(0), 0);
  wgmma_fence();
  multiply_keys<T, kDim>(scores, query, plan.keys);
  wgmma_commit();
  wgmma_wait<0>();
  if (lane == 0) barrier_arrive(plan.key_free(0));
  apply_softmax(work.tile_first);
  pack_weights<T>(weights, scores);
  if (group == 1) turn_over(0);
  for (int count = 1; count < tiles; count++) {
    const int stage = count % kStages, stage_before = (count - 1) % kStages;
    barrier_wait(plan.key_full(stage), parity_of(count));
    take_turn(group);
    wgmma_fence();
    multiply_keys<T, kDim>(scores, query, plan.keys + stage * S::kTileBytes);
    wgmma_commit();
    barrier_wait(plan.value_full(stage_before), parity_of(count - 1));
    wgmma_fence();
    multiply_values<T, kDim>(out, weights, plan.values + stage_before * S::kTileBytes);
    wgmma_commit();
    turn_over(1 - group);
    wgmma_wait<1>();
    if (lane == 0) barrier_arrive(plan.key_free(stage));
    apply_softmax(work.tile_first + count);
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(plan.value_free(stage_before));
    if (__any_sync(~0u, rescale[0] != 1.0f || rescale[1] != 1.0f)) { /* times 1 changes no bit, and maxima rarely move once many keys were seen */
#pragma unroll
      for (int i = 0; i < kDim / 2; i++) out[i] *= rescale[i / 2 % 2];
    }
    pack_weights<T>(weights, scores);
  }
  const uint32_t last_values = plan.values + (tiles - 1) % kStages * S::kTileBytes; /* only the last tile can reach past the end */
  barrier_wait(plan.value_full((tiles - 1) % kStages), parity_of(tiles - 1));
  if (work.tile_end * kKeys > work.kv_count) clear_values<kDim>(last_values, work.kv_count - (work.tile_end - 1) * kKeys, group);
  wgmma_fence();
  multiply_values<T, kDim>(out, weights, last_values);
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float all = softmax.sum[half];
    all += __shfl_xor_sync(~0u, all, 1);
    all += __shfl_xor_sync(~0u, all, 2);
    if (row + half * 8 >= work.row_count) continue;
    const float inverse = 1.0f / all;
    T *target = (T *)a.out + work.out_first + (int64_t)(row + half * 8) * work.out_stride;
#pragma unroll
    for (int n = 0; n < kDim / 8; n++)
      *(uint32_t *)(target + n * 8 + 2 * t) = pack<T>(out[n * 4 + half * 2] * inverse, out[n * 4 + half * 2 + 1] * inverse);
  }
}

#endif

template <typename T, typename Kv, int kDim, bool kHasSoftcap>
__global__ void __launch_bounds__(kThreads, 1) attention_prefill_wgmma_kernel(const Attention a, const __grid_constant__ Maps maps) {
#if __CUDA_ARCH__ >= 900
  constexpr bool kIsFp8 = sizeof(Kv) == 1;
  extern __shared__ char shared[];
  const Plan<kDim> plan(shared);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; stage++) {
      barrier_init(plan.key_full(stage), kIsFp8 ? 128 : 1); /* those who copy */
      barrier_init(plan.value_full(stage), kIsFp8 ? 128 : 1);
      barrier_init(plan.key_free(stage), 8); /* warps of both consumers */
      barrier_init(plan.value_free(stage), 8);
    }
    barrier_init_fence();
  }
  __syncthreads();
  grid_release();
  grid_wait();
  const QueryTile tile = query_tile_at(a, gridDim.y - 1 - blockIdx.y, kQueries); /* late tiles see the most keys: begin with them */
  if (tile.sequence < 0) return;
  const bool is_single = tile.query_count == 1; /* its rows are heads */
  if (is_single && (int)blockIdx.x >= a.layer.kv_head_count) return;
  const int head_first = is_single ? blockIdx.x * a.group : blockIdx.x, row_first = a.query_start[tile.sequence] + tile.query_first;
  Work work;
  work.sequence = tile.sequence;
  work.kv_head = head_first / a.group;
  work.kv_count = tile.kv_count;
  work.row_count = is_single ? a.group : min(kQueries, tile.query_count - tile.query_first);
  work.position_first = tile.kv_count - tile.query_count + tile.query_first;
  work.position_step = is_single ? 0 : 1;
  work.tile_first = a.window > 0 && work.position_first >= a.window ? (work.position_first - a.window + 1) / kKeys : 0;
  work.tile_end = (work.position_first + (work.row_count - 1) * work.position_step + kKeys) / kKeys;
  work.q_stride = is_single ? kDim : a.q_row_stride;
  work.out_stride = is_single ? kDim : a.head_count * kDim;
  work.q_first = (int64_t)row_first * a.q_row_stride + head_first * kDim;
  work.out_first = ((int64_t)row_first * a.head_count + head_first) * kDim;
  if (tile.kv_count == 0) {
    T *out = (T *)a.out + work.out_first;
    for (int i = threadIdx.x; i < work.row_count * kDim; i += kThreads) out[(int64_t)(i / kDim) * work.out_stride + i % kDim] = from_float<T>(0.0f);
    return;
  }
  if (threadIdx.x < 128) {
    give_registers<kIsFp8 ? 72 : 24>();
    if constexpr (kIsFp8) widen_tiles<T, kDim>(a, work, plan);
    else if (threadIdx.x < 64) copy_tiles<kDim>(a, maps, work, plan, threadIdx.x / 32);
  } else {
    take_registers<kIsFp8 ? 216 : 240>();
    attend<T, kDim, kHasSoftcap>(a, work, plan, threadIdx.x / 128 - 1);
  }
#endif
}

// ---- launchers

template <typename T, typename Kv, int kDim>
int launch_wgmma(PdStream *stream, const Attention &a, const Maps &maps) {
  const dim3 grid(a.head_count, query_tile_bound(a, kQueries));
  auto kernel = a.softcap > 0.0f ? attention_prefill_wgmma_kernel<T, Kv, kDim, true> : attention_prefill_wgmma_kernel<T, Kv, kDim, false>;
  return launch(stream, "paged_attention (prefill, wgmma)", kernel, grid, kThreads, Shape<kDim>::kSharedBytes, a, maps);
}

template <typename T, typename Kv>
int launch_wgmma_dim(PdStream *stream, const Attention &a, const Maps &maps) {
  return a.layer.head_dim == 128 ? launch_wgmma<T, Kv, 128>(stream, a, maps) : launch_wgmma<T, Kv, 64>(stream, a, maps);
}

template <typename T>
int launch_wgmma_cache(PdStream *stream, int32_t cache_dtype, const Attention &a, const Maps &maps) {
  return cache_dtype == PD_FP8_E4M3 ? launch_wgmma_dim<T, fp8>(stream, a, maps) : launch_wgmma_dim<T, T>(stream, a, maps);
}

}  // namespace

bool attention_prefill_wgmma(PdStream *stream, int32_t dtype, int32_t cache_dtype, const Attention &a, int *status) {
  if (a.group > kQueries || stream->device->compute_capability != 90 || (a.layer.head_dim != 64 && a.layer.head_dim != 128)) return false;
  Maps maps{};
  if (cache_dtype == dtype && (!encode_columns(&maps.keys, a.layer, a.layer.keys, dtype, kKeys) || !encode_columns(&maps.values, a.layer, a.layer.values, dtype, kKeys))) return false;
  *status = dtype == PD_BF16 ? launch_wgmma_cache<bf16>(stream, cache_dtype, a, maps) : launch_wgmma_cache<f16>(stream, cache_dtype, a, maps);
  return true;
}

}  // namespace pd
