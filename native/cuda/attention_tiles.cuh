/* Which queries a block of a prefill kernel takes, found on the device from the batch: lengths need not be known on the host.
   Used by attention_prefill*.cu. Sequences that belong to the decode kernel have no tiles here. */
#pragma once
#include "attention.h"

namespace pd {

struct QueryTile {
  int sequence;    /* -1: this block has nothing to do */
  int query_first; /* of the sequence's queries */
  int query_count, kv_count; /* the sequence's */
};

/* Most tiles a batch can have, for the launch. A block without work is not free: it waits for a multiprocessor's whole shared memory. */
inline unsigned query_tile_bound(const Attention &a, int tile_queries) {
  const int others = a.prefill_queries_min > 1 ? a.single_query_count : 0; /* those that decode takes */
  const int rows = a.row_count - others, sequences = a.sequence_count - others, most = rows / a.prefill_queries_min;
  return (unsigned)(rows / tile_queries + (sequences < most ? sequences : most));
}

/* Tile `index` counted over the sequences in order. Each warp scans 32 sequences at a time. */
__device__ __forceinline__ QueryTile query_tile_at(const Attention &a, int index, int tile_queries) {
  const int lane = threadIdx.x % 32;
  int before = 0;
  for (int base = 0; base < a.sequence_count; base += 32) {
    const int sequence = base + lane;
    int queries = 0;
    if (sequence < a.sequence_count) queries = a.query_start[sequence + 1] - a.query_start[sequence];
    const int tiles = queries >= a.prefill_queries_min ? (queries + tile_queries - 1) / tile_queries : 0;
    int inclusive = tiles;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, inclusive, step);
      if (lane >= step) inclusive += other;
    }
    const unsigned reached = __ballot_sync(~0u, before + inclusive > index);
    if (reached != 0) {
      const int owner = __ffs(reached) - 1;
      const int start = before + __shfl_sync(~0u, inclusive - tiles, owner);
      return QueryTile{base + owner, (index - start) * tile_queries, __shfl_sync(~0u, queries, owner), a.kv_count[base + owner]};
    }
    before += __shfl_sync(~0u, inclusive, 31);
  }
  return QueryTile{-1, 0, 0, 0};
}

}  // namespace pd
