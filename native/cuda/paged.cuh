/* Where a key or value lies in the paged cache, for kernels. Built from PdKvLayer by the launchers of rope_store.cu and attention_*.cu.
   An fp8 cache has a float32 scale per token and head behind the data of each half of a block, [kvHead][slot]. */
#pragma once
#include "fp8.cuh"

namespace pd {

struct PagedLayer {
  char *keys, *values;   /* base + key_offset, base + value_offset */
  uint64_t block_bytes;
  int block_shift;       /* log2 of the tokens in a block */
  int head_dim, kv_head_count, block_count;

  /* The block of a key by its sequence's table; -1: none, which reads as zeros. */
  __device__ __forceinline__ int block_of(const int *table, int key) const {
    const int block = table[key >> block_shift];
    return block < block_count ? block : -1;
  }
  __device__ __forceinline__ bool has_slot(int slot) const { return slot >= 0 && slot >> block_shift < block_count; }
  /* Element offset of [kvHead][slot] within a block's half. */
  __device__ __forceinline__ size_t within(int kv_head, int slot) const {
    return ((size_t)(kv_head << block_shift) + slot) * head_dim;
  }
  /* fp8 only. half: keys or values, plus the block's offset. */
  __device__ __forceinline__ float *scale(char *half, int kv_head, int slot) const {
    return (float *)(half + within(kv_head_count, 0)) + (kv_head << block_shift) + slot;
  }
};

inline int make_paged(const char *op, const PdKvLayer *layer, PagedLayer *paged) {
  const int tokens = layer->block_token_count;
  if (tokens < 8 || tokens > 256 || (tokens & (tokens - 1)) != 0) return fail(PD_INVALID, "%s: block of %d tokens is not a power of two from 8 to 256", op, tokens);
  if (layer->head_dim < 8 || layer->head_dim > 256 || layer->head_dim % 8 != 0)
    return fail(PD_UNSUPPORTED, "%s: head_dim %d is not a multiple of 8 from 8 to 256", op, layer->head_dim);
  *paged = PagedLayer{(char *)layer->base + layer->key_offset, (char *)layer->base + layer->value_offset, layer->block_bytes,
                      __builtin_ctz((unsigned)tokens), layer->head_dim, layer->kv_head_count, layer->block_count};
  return PD_OK;
}

/* Calls body(T{}) with the element type of a cache. */
template <typename Body>
int with_cache_dtype(const char *op, int32_t dtype, Body body) {
  return dtype == PD_FP8_E4M3 ? body(fp8{}) : with_dtype(op, dtype, body);
}

}  // namespace pd
