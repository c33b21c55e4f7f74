/* pd_paged_attention: every query row over its sequence's cached keys, decode and prefill rows in one batch.

   A piece of work is (sequence, KV head, some consecutive query tokens); its rows are those tokens times the query heads that share
   the KV head, so a key tile is read and converted to float32 once for all of them (attention_piece.cc). How a batch is cut changes no
   result. A sequence is never split along its keys: a fixed order matters more than the parallelism of a long single-sequence decode,
   which stays at KV-head count threads. */
#include "attention_piece.h"
#include <algorithm>
#include <cstring>

namespace pd {
namespace {

constexpr int kPieceRows = 96;

int tokens_per_piece(const AttentionJob &job) { return std::max(1, kPieceRows / job.group); }

void zero_rows(const AttentionJob &job, int64_t begin, int64_t end) {
  int64_t columns = static_cast<int64_t>(job.head_count) * job.layer.head_dim;
  if (end > begin) std::memset(job.out + begin * columns, 0, static_cast<size_t>((end - begin) * columns) * sizeof(float));
}

/* Counts are the caller's own, so wrong ones are a bug and fail the stream, where ids would cost their row alone. */
void check_counts(const AttentionJob &job, int32_t sequence) {
  const PdBatch &batch = job.batch;
  const int64_t held = static_cast<int64_t>(batch.block_table_stride) * job.layer.block_token_count;
  if (batch.kv_count[sequence] > held)
    raise(PD_INVALID, "paged_attention: sequence %d has %d keys, its table holds %lld", sequence, batch.kv_count[sequence], static_cast<long long>(held));
}

/* Longest first: late tokens of long sequences see the most keys, and the pool hands out pieces in this order. */
int64_t cut_pieces(const AttentionJob &job, int32_t *order, AttentionPiece *pieces) {
  const PdBatch &batch = job.batch;
  for (int32_t s = 0; s < batch.sequence_count; s++) order[s] = s;
  std::sort(order, order + batch.sequence_count, [&](int32_t a, int32_t b) {
    return batch.kv_count[a] != batch.kv_count[b] ? batch.kv_count[a] > batch.kv_count[b] : a < b;
  });
  int64_t count = 0;
  const int step = tokens_per_piece(job);
  for (int32_t i = 0; i < batch.sequence_count; i++) {
    int32_t sequence = order[i], queries = query_count(job, sequence);
    for (int32_t first = (queries - 1) / step * step; queries > 0 && first >= 0; first -= step)
      for (int32_t head = 0; head < job.layer.kv_head_count; head++)
        pieces[count++] = {sequence, head, first, std::min(step, queries - first)};
  }
  return count;
}

void run_attention(Pool &pool, const AttentionJob &job) {
  const PdBatch &batch = job.batch;
  for (int32_t s = 0; s < batch.sequence_count; s++)
    if (batch.kv_count[s] <= 0) zero_rows(job, batch.query_start[s], batch.query_start[s + 1]);
  zero_rows(job, batch.query_start[batch.sequence_count], batch.row_count);
  const int64_t most_pieces =
      (static_cast<int64_t>(batch.row_count) / tokens_per_piece(job) + batch.sequence_count) * job.layer.kv_head_count;
  uint8_t *scratch = static_cast<uint8_t *>(
      pool.scratch(-1, static_cast<size_t>(most_pieces) * sizeof(AttentionPiece) + static_cast<size_t>(batch.sequence_count) * sizeof(int32_t)));
  AttentionPiece *pieces = reinterpret_cast<AttentionPiece *>(scratch);
  int32_t *order = reinterpret_cast<int32_t *>(scratch + static_cast<size_t>(most_pieces) * sizeof(AttentionPiece));
  const int64_t piece_count = cut_pieces(job, order, pieces);
  const int rows = std::max(kFewRows, tokens_per_piece(job) * job.group);
  /* Decode pieces are alike and go several at a time, which tells a thread what to prefetch; prefill pieces go singly, for balance. */
  const bool is_decode = batch.query_start[batch.sequence_count] <= batch.sequence_count;
  const int64_t grain = is_decode ? std::max<int64_t>(1, piece_count / (pool.thread_count() * int64_t{8})) : 1;
  pool.parallel_for(piece_count, grain, [&](int64_t begin, int64_t end, int thread) {
    AttentionWorkspace space = place_workspace(pool.scratch(thread, workspace_bytes(rows, job.layer.head_dim)), rows, job.layer.head_dim);
    for (int64_t i = begin; i < end; i++) check_counts(job, pieces[i].sequence);
    for (int64_t i = begin; i < end; i++) run_piece(job, pieces[i], i + 1 < end ? &pieces[i + 1] : nullptr, space);
  });
}

const AttentionKernel *attention_kernel(const IsaLevel &isa) {
  const AttentionKernel *kernel = attention_kernel_vector(isa);
  return kernel != nullptr ? kernel : attention_kernel_scalar();
}

}  // namespace
}  // namespace pd

using namespace pd;

extern "C" int pd_paged_attention(PdStream *stream, int32_t dtype, void *out, const void *q, int32_t q_row_stride, const PdKvLayer *layer,
                                  const PdBatch *batch, int32_t head_count, float scale, int32_t window, float softcap) {
  int status = check_activations("paged_attention", dtype);
  if (status != PD_OK) return status;
  const bool is_fp8 = layer->dtype == PD_FP8_E4M3;
  if (layer->dtype != PD_F32 && layer->dtype != PD_BF16 && layer->dtype != PD_F16 && !is_fp8)
    return fail(PD_UNSUPPORTED, "paged_attention: KV dtype %s is not supported on the cpu", dtype_name(layer->dtype));
  if (layer->head_dim < 8 || layer->head_dim > kMaxHeadDim || layer->head_dim % 8 != 0)
    return fail(PD_UNSUPPORTED, "paged_attention: head_dim %d is not a multiple of 8 from 8 to %d", layer->head_dim, kMaxHeadDim);
  if (layer->kv_head_count < 1 || head_count < 1 || head_count % layer->kv_head_count != 0)
    return fail(PD_INVALID, "paged_attention: %d heads are not a multiple of %d KV heads", head_count, layer->kv_head_count);
  if (layer->block_token_count < 1) return fail(PD_INVALID, "paged_attention: block_token_count %d", layer->block_token_count);
  if (batch->row_count <= 0) return PD_OK;
  AttentionJob job = {static_cast<float *>(out), static_cast<const float *>(q), q_row_stride, *layer, *batch, head_count,
             head_count / layer->kv_head_count, scale, window, softcap, attention_kernel(isa_of(stream)), is_fp8 ? PD_F32 : layer->dtype};
  return enqueue(stream, [job](Pool &pool) { run_attention(pool, job); });
}
