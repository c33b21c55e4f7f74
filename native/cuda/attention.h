/* What the three attention kernels take, and who takes which sequences. Used by paged_attention.cu (dispatch) and attention_*.cu.

   When results may not depend on the batch, prefill takes the sequences of decode too: same tiles, same order, whoever computes a token.

   decode  (attention_decode.cu)   sequences with one query, cache of the same 16 bits or fp8, a head_dim compiled in: tensor cores, split over the keys
   prefill (attention_prefill*.cu) sequences with several queries, likewise: tensor-core flash attention
   plain   (attention_plain.cu)    everything else (float32, mixed dtypes, odd head_dim), any number of queries */
#pragma once
#include "paged.cuh"

namespace pd {

struct Attention {
  const void *q; /* first heads of qkv: [rows, q_row_stride] */
  void *out;     /* [rows, heads * headDim] */
  PagedLayer layer;
  int q_row_stride, head_count, group; /* group = heads per kv head */
  float scale, softcap;                /* softcap 0: none */
  int window;                          /* 0: none */
  int row_count, sequence_count, block_table_stride, kv_count_max, single_query_count;
  int tile_grain; /* decode: tiles of a (sequence, head) are counted in multiples of this */
  bool reads_ahead; /* decode: of what is in the cache only the newest keys may still be on their way */
  int prefill_queries_min; /* sequences with fewer belong to decode: 2, or 1 when results may not depend on the batch */
  const int *query_start, *kv_count, *block_table;
};

/* Scores as powers of two: a score s becomes exp2(to_exponent(s) - max). */
struct ScoreScale {
  float scale, softcap;
  __device__ __forceinline__ float operator()(float dot) const {
    constexpr float kLog2e = 1.4426950408889634f;
    if (softcap > 0.0f) return softcap * tanhf(dot * scale / softcap) * kLog2e;
    return dot * (scale * kLog2e);
  }
};

/* head_dims that the tensor-core kernels are compiled for; others take the plain kernel. */
inline bool has_tensor_core_dim(int head_dim) {
  return head_dim == 32 || head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

int attention_decode(PdStream *stream, int32_t dtype, int32_t cache_dtype, const Attention &attention);
int attention_prefill(PdStream *stream, int32_t dtype, int32_t cache_dtype, const Attention &attention);
/* False: this GPU, head_dim or cache is not for it, and nothing was enqueued. Its twin is attention_prefill. */
bool attention_prefill_wgmma(PdStream *stream, int32_t dtype, int32_t cache_dtype, const Attention &attention, int *status);
int attention_plain(PdStream *stream, int32_t dtype, int32_t cache_dtype, const Attention &attention);

}  // namespace pd
