/* One piece of paged attention: the query heads that share a KV head, for some consecutive query tokens of one sequence.
   attention.cc cuts a batch into pieces and gives them to the pool; attention_piece.cc computes one. */
#pragma once
#include "attention.h"

namespace pd {

struct AttentionJob {
  float *out;
  const float *q;
  int32_t q_row_stride;
  PdKvLayer layer;
  PdBatch batch;
  int32_t head_count, group; /* group: query heads per KV head */
  float scale;
  int32_t window;
  float softcap;
  const AttentionKernel *kernel;
  int32_t row_dtype; /* of the rows that the kernel reads: the cache's, or float32 when they are widened first (fp8) */
};

struct AttentionPiece { int32_t sequence, kv_head, first_token, token_count; };

/* A thread's workspace, for at most `rows` rows. */
struct AttentionWorkspace {
  float *keys_t, *values, *q, *out, *scores, *alpha;
  float *widened; /* [2][64][head_dim]: a tile's keys and values from an fp8 cache */
  SoftmaxState *states;
};

size_t workspace_bytes(int rows, int head_dim);
AttentionWorkspace place_workspace(void *memory, int rows, int head_dim);

inline int32_t query_count(const AttentionJob &job, int32_t sequence) {
  return job.batch.kv_count[sequence] <= 0 ? 0 : job.batch.query_start[sequence + 1] - job.batch.query_start[sequence];
}

/* position of a sequence's first query token of this step */
inline int32_t first_position(const AttentionJob &job, int32_t sequence) { return job.batch.kv_count[sequence] - query_count(job, sequence); }

/* then: the piece this thread takes next, whose first tile is prefetched during the last one here; NULL when not known */
void run_piece(const AttentionJob &job, const AttentionPiece &piece, const AttentionPiece *then, const AttentionWorkspace &space);

}  // namespace pd
