/* Decode attention over the paged cache: one query per sequence, all query heads of a kv head in one pass over its keys, on tensor cores
   with float32 softmax and accumulation. Twin: ../cpu/attention.cc

   The work of all sequences and kv heads, counted in tiles of 64 keys, lies in one line that is cut into equal pieces, one per block of
   threads, so that every multiprocessor reads the same number of bytes whatever the lengths:

     sequence 0, head 0     head 1        sequence 1, head 0 …
     [tile tile tile tile ][tile tile … ][tile …             ]
     |-- block 0 --|-- block 1 --|-- block 2 --|                a (sequence, head) that is cut leaves partial results; its last
                                                                 block to arrive merges them in ascending order
   Within a block each warp has its own 16 keys of a tile, its own copies in flight and its own softmax: no barrier while reading. The copies
   run ahead across the ends of (sequence, head)s, so the memory bus never waits for a merge.

   The batch's metadata and all keys but the newest are read before the kernel in front of this one has ended: they must have been written by
   earlier work, and in a step they have: only rope_store is in front, and it stores the newest key alone. When copy_slices or move_kv have come
   since the last attention of the stream (copy-on-write at the start of a step, KV from elsewhere), everything is waited for first. */
#include "attention_decode_keys.cuh"
#include "tensor_map.h"

namespace pd {
namespace {

using namespace decode;

// ---- kernels

/* Merges what the warps have left in shared memory. Writes the normalised output, or a partial when target is given. All threads. */
template <typename T, int kDim>
__device__ void merge_warps(const float *parts, int rows, int row_alloc, T *out, float *target) {
  const int stride = partial_floats<kDim>(row_alloc), best_at = row_alloc * kDim, sum_at = best_at + row_alloc;
  for (int i = threadIdx.x; i < rows * kDim; i += kThreads) {
    const int row = i / kDim;
    float best = -INFINITY, sum = 0.0f, value = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) best = fmaxf(best, parts[w * stride + best_at + row]);
    const float base = best == -INFINITY ? 0.0f : best;
#pragma unroll
    for (int w = 0; w < kWarps; w++) {
      const float rescale = exp2_fast(parts[w * stride + best_at + row] - base);
      sum = fmaf(parts[w * stride + sum_at + row], rescale, sum);
      value = fmaf(parts[w * stride + i], rescale, value);
    }
    if (target == nullptr) {
      out[i] = from_float<T>(value / sum);
    } else {
      target[i] = value;
      if (i % kDim == 0) {
        target[best_at + row] = best;
        target[sum_at + row] = sum;
      }
    }
  }
}

/* Merges the partials of `count` blocks, ascending, into the output. slot(p): the p-th. factors: shared, [count * rows]. All threads. */
template <typename T, int kDim, typename Slot>
__device__ void merge_blocks(int count, Slot slot, int rows, int row_alloc, float *factors, T *out) {
  const int best_at = row_alloc * kDim, sum_at = best_at + row_alloc, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int row = warp; row < rows; row += kWarps) {
    float best = -INFINITY, sum = 0.0f;
    for (int p = lane; p < count; p += 32) best = fmaxf(best, __ldcg(slot(p) + best_at + row));
    best = warp_max(best);
    const float base = best == -INFINITY ? 0.0f : best;
    for (int p = lane; p < count; p += 32) {
      const float factor = exp2_fast(__ldcg(slot(p) + best_at + row) - base);
      factors[p * rows + row] = factor;
      sum = fmaf(__ldcg(slot(p) + sum_at + row), factor, sum);
    }
    sum = warp_sum(sum);
    __syncwarp();
    for (int p = lane; p < count; p += 32) factors[p * rows + row] /= sum;
  }
  __syncthreads();
  for (int i = threadIdx.x * 4; i < rows * kDim; i += kThreads * 4) {
    const int row = i / kDim;
    float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 16
    for (int p = 0; p < count; p++) {
      const float4 part = __ldcg((const float4 *)(slot(p) + i));
      const float factor = factors[p * rows + row];
      value.x = fmaf(part.x, factor, value.x);
      value.y = fmaf(part.y, factor, value.y);
      value.z = fmaf(part.z, factor, value.z);
      value.w = fmaf(part.w, factor, value.w);
    }
    *(uint2 *)(out + i) = make_uint2(pack<T>(value.x, value.y), pack<T>(value.z, value.w));
  }
}

template <typename T, typename Kv, int kDim, bool kIsBulk>
__global__ void __launch_bounds__(kThreads, 2) attention_decode_kernel(const Attention a, const __grid_constant__ Maps maps, int head_passes, int passes_per_kv_head, int row_alloc,
                                                                    int meeting_bytes,
                                                                    float *partials,  // [gridDim.x][2][partial]
                                                                    int *arrivals) {  // [sequences * head_passes], zero between launches
  using S = Shape<Kv, kDim, kIsBulk>;
  extern __shared__ __align__(16) char unaligned[];
  char *const shared = unaligned + (S::kAlignBytes - shared_address(unaligned) % S::kAlignBytes) % S::kAlignBytes;
  float *meeting = (float *)(shared + S::kRingBytes);
  const uint32_t barriers = shared_address(shared) + S::kRingBytes + meeting_bytes;
  int *starts = (int *)(shared + S::kRingBytes + meeting_bytes + S::kBarrierBytes);
  __shared__ int warp_sums[kWarps];
  __shared__ int is_last_arrival;
  grid_release();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#if __CUDA_ARCH__ >= 900
  if constexpr (kIsBulk) {
    if (threadIdx.x < kWarps * S::kStages) barrier_init(barriers + threadIdx.x * 8, 1);
    barrier_init_fence();
  }
#endif
  const int lines = scan_tiles(a, starts, warp_sums) * head_passes;
  const int64_t all = (int64_t)starts[a.sequence_count] * head_passes;
  const int64_t blocks = blocks_for(all, lines, gridDim.x);
  const bool has_work = blockIdx.x < blocks;
  const int64_t line_begin = has_work ? all * blockIdx.x / blocks : 0, line_end = has_work ? all * (blockIdx.x + 1) / blocks : 0;
  WarpReader<Kv, kDim, kIsBulk> reader{a, maps, starts, head_passes, passes_per_kv_head, warp, lane, line_begin, line_end,
                          shared_address(shared) + warp * S::kStages * 2 * S::kHalfBytes, barriers + warp * S::kStages * 8};
  reader.piece_end = line_begin;
  bool has_waited = !a.reads_ahead;
  if (has_waited) grid_wait();
#pragma unroll
  for (int i = 0; i < S::kStages - 1; i++) {
    if (!has_waited && reader.is_newest_next()) {
      grid_wait();
      has_waited = true;
    }
    reader.issue();
  }
  if (!has_waited) grid_wait();
  for (int s = blockIdx.x; s < a.sequence_count; s += gridDim.x) { /* padding: zero rows */
    if (starts[s] != starts[s + 1] || a.kv_count[s] != 0) continue;
    const int row = a.query_start[s];
    if (a.query_start[s + 1] - row != 1) continue;
    for (int i = threadIdx.x; i < a.head_count * kDim; i += kThreads) ((T *)a.out)[(size_t)row * a.head_count * kDim + i] = from_float<T>(0.0f);
  }
  int stage = 0;
  uint32_t parity = 0;
  for (int64_t at = line_begin; at < line_end;) {
    const Piece piece = piece_at(a, starts, head_passes, at, line_end);
    const int row = a.query_start[piece.sequence], kv_count = a.kv_count[piece.sequence];
    const int kv_head = piece.head_pass / passes_per_kv_head;
    const int head_first = kv_head * a.group + piece.head_pass % passes_per_kv_head * kRows;
    const int rows = min(kRows, (kv_head + 1) * a.group - head_first);
    int window_tile;
    tiles_of(a, piece.sequence, &window_tile);
    const int window_first = a.window > 0 && kv_count > a.window ? kv_count - a.window : 0;

    uint32_t query[kDim / 16][4];
    load_query<T, Kv, kDim>(query, (const T *)a.q + (size_t)row * a.q_row_stride + (size_t)head_first * kDim, rows);
    Gathered<kDim> gathered{};
    gathered.best[0] = gathered.best[1] = -INFINITY;
    int key = (window_tile + piece.tile_first) * kTileKeys + warp * kWarpKeys;
    for (int tile = piece.tile_first; tile < piece.tile_end; tile++, key += kTileKeys) {
      reader.wait(stage, parity);
      reader.issue();
      attend_keys<S, T, Kv, kDim, kIsBulk>(a, query, shared, (warp * S::kStages + stage) * 2 * S::kHalfBytes, key, kv_count, window_first, gathered);
      stage = stage + 1 == S::kStages ? 0 : stage + 1;
      if (stage == 0) parity ^= 1;
      __syncwarp();
    }

    float *mine = meeting + warp * partial_floats<kDim>(row_alloc);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = gathered.sum[half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const int r = g + half * 8;
      if (r >= rows) continue;
      if (t == 0) {
        mine[row_alloc * kDim + r] = gathered.best[half];
        mine[row_alloc * kDim + row_alloc + r] = sum;
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; n += 2) {
        const float *low = gathered.out[n] + half * 2, *high = gathered.out[n + 1] + half * 2;
        float *target = mine + r * kDim + n * 8;
        if constexpr (S::kHasScales) {
          *(float2 *)(target + 4 * t) = make_float2(low[0], high[0]);
          *(float2 *)(target + 4 * t + 2) = make_float2(low[1], high[1]);
        } else {
          *(float2 *)(target + 2 * t) = make_float2(low[0], low[1]);
          *(float2 *)(target + 8 + 2 * t) = make_float2(high[0], high[1]);
        }
      }
    }
    __syncthreads();
    T *out = (T *)a.out + ((size_t)row * a.head_count + head_first) * kDim;
    if (piece.tile_first == 0 && piece.tile_end == piece.tile_count) {
      merge_warps<T, kDim>(meeting, rows, row_alloc, out, nullptr);
    } else {
      const int side = at == line_begin ? 0 : 1; /* a block cuts at most its first and its last (sequence, head) */
      const int stride = partial_floats<kDim>(row_alloc);
      merge_warps<T, kDim>(meeting, rows, row_alloc, out, partials + ((size_t)blockIdx.x * 2 + side) * stride);
      const int64_t line_last = piece.line_start + piece.tile_count - 1;
      const int block_first = (int)(((piece.line_start + 1) * blocks - 1) / all), block_last = (int)(((line_last + 1) * blocks - 1) / all);
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        int *arrived = arrivals + (size_t)piece.sequence * head_passes + piece.head_pass;
        is_last_arrival = atomicAdd(arrived, 1) == block_last - block_first;
        if (is_last_arrival) *arrived = 0;
        __threadfence();
      }
      __syncthreads();
      if (is_last_arrival) {
        const auto slot = [=](int p) {
          const int b = block_first + p;
          const int s = all * b / blocks >= piece.line_start ? 0 : 1;
          return (const float *)partials + ((size_t)b * 2 + s) * stride;
        };
        merge_blocks<T, kDim>(block_last - block_first + 1, slot, rows, row_alloc, meeting, out);
      }
    }
    __syncthreads(); /* the meeting place is free for the next piece */
    at += piece.tile_end - piece.tile_first;
  }
  copy_async_wait<0>();
}

// ---- launchers

template <typename T, typename Kv, int kDim, bool kIsBulk>
int launch_decode(PdStream *stream, const Attention &a, const Maps &maps) {
  using S = Shape<Kv, kDim, kIsBulk>;
  const PdDevice *device = stream->device;
  const int passes_per_kv_head = ceil_div(a.group, kRows), head_passes = passes_per_kv_head * a.layer.kv_head_count;
  const int row_alloc = ((a.group < kRows ? a.group : kRows) + 1) / 2 * 2; /* even: partials stay 16-byte aligned */
  const int most = device->multiprocessor_count * 2;
  const size_t warps_bytes = kWarps * partial_floats<kDim>(row_alloc) * 4, factor_bytes = (size_t)most * row_alloc * 4;
  const size_t meeting_bytes = ((warps_bytes > factor_bytes ? warps_bytes : factor_bytes) + 15) / 16 * 16;
  const size_t shared_bytes = S::kAlignBytes - 16 + S::kRingBytes + meeting_bytes + S::kBarrierBytes + (size_t)(a.sequence_count + 1) * sizeof(int);
  if (shared_bytes + 1024 > device->shared_bytes_max) return fail(PD_UNSUPPORTED, "paged_attention: %d sequences in one step", a.sequence_count);
  const int grid = (shared_bytes + 1024 + 64) * 2 <= device->shared_bytes_max + 1024 ? most : device->multiprocessor_count;
  /* With blocks to spare no block shall take the end of one (sequence, head) and the beginning of the next: two merges, one after the other. */
  const int64_t tiles_max = (int64_t)a.sequence_count * head_passes * ceil_div(ceil_div(a.kv_count_max, kTileKeys), kBlockTilesMin) * kBlockTilesMin;
  Attention cut = a;
  cut.tile_grain = tiles_max <= (int64_t)grid * kBlockTilesMin ? kBlockTilesMin : 1;
  void *partials = nullptr, *arrivals = nullptr;
  const size_t partial_bytes = (size_t)most * 2 * partial_floats<256>(kRows) * 4;
  if (int status = scratch(stream, Scratch::kAttentionPartials, partial_bytes, &partials)) return status;
  const size_t arrival_bytes = (size_t)a.sequence_count * head_passes * sizeof(int);
  if (int status = scratch(stream, Scratch::kAttentionCounters, arrival_bytes < 65536 ? 65536 : arrival_bytes, &arrivals)) return status;
  return launch(stream, "paged_attention (decode)", attention_decode_kernel<T, Kv, kDim, kIsBulk>, grid, kThreads, shared_bytes, cut, maps, head_passes,
                passes_per_kv_head, row_alloc, (int)meeting_bytes, (float *)partials, (int *)arrivals);
}

template <typename T, typename Kv, int kDim>
int launch_decode_copies(PdStream *stream, const Attention &a) {
  Maps maps{};
  if constexpr (std::is_same_v<T, Kv> && kDim % 64 == 0) {
    constexpr int32_t dtype = std::is_same_v<T, bf16> ? PD_BF16 : PD_F16;
    if (stream->device->has_wgmma && encode_rows(&maps.keys, a.layer, a.layer.keys, dtype, kWarpKeys) &&
        encode_rows(&maps.values, a.layer, a.layer.values, dtype, kWarpKeys))
      return launch_decode<T, Kv, kDim, true>(stream, a, maps);
  }
  return launch_decode<T, Kv, kDim, false>(stream, a, maps);
}

template <typename T, typename Kv>
int launch_decode_dim(PdStream *stream, const Attention &a) {
  switch (a.layer.head_dim) {
    case 32: return launch_decode_copies<T, Kv, 32>(stream, a);
    case 64: return launch_decode_copies<T, Kv, 64>(stream, a);
    case 96: return launch_decode_copies<T, Kv, 96>(stream, a);
    case 128: return launch_decode_copies<T, Kv, 128>(stream, a);
    case 256: return launch_decode_copies<T, Kv, 256>(stream, a);
    default: return fail(PD_UNSUPPORTED, "paged_attention: head_dim %d", a.layer.head_dim);
  }
}

}  // namespace

int attention_decode(PdStream *stream, int32_t dtype, int32_t cache_dtype, const Attention &attention) {
  const bool is_fp8 = cache_dtype == PD_FP8_E4M3;
  if (dtype == PD_BF16) return is_fp8 ? launch_decode_dim<bf16, fp8>(stream, attention) : launch_decode_dim<bf16, bf16>(stream, attention);
  return is_fp8 ? launch_decode_dim<f16, fp8>(stream, attention) : launch_decode_dim<f16, f16>(stream, attention);
}

}  // namespace pd
