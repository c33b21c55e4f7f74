/* pd_paged_attention: picks the kernels (see attention.h). A mixed batch runs both tensor-core kernels, each on its own sequences.
   Twin: ../cpu/attention.cc */
#include "attention.h"

using namespace pd;

extern "C" int pd_paged_attention(PdStream *stream, int32_t dtype, void *out, const void *q, int32_t q_row_stride, const PdKvLayer *layer,
                                  const PdBatch *batch, int32_t head_count, float scale, int32_t window, float softcap) {
  if (int status = enter(stream->device)) return status;
  Attention a{};
  if (int status = make_paged("paged_attention", layer, &a.layer)) return status;
  if (layer->kv_head_count < 1 || head_count % layer->kv_head_count != 0)
    return fail(PD_INVALID, "paged_attention: %d heads over %d kv heads", head_count, layer->kv_head_count);
  if (batch->row_count == 0 || batch->sequence_count == 0) return PD_OK;
  a.q = q;
  a.out = out;
  a.q_row_stride = q_row_stride;
  a.head_count = head_count;
  a.group = head_count / layer->kv_head_count;
  a.scale = scale;
  a.softcap = softcap;
  a.window = window;
  a.row_count = batch->row_count;
  a.sequence_count = batch->sequence_count;
  a.block_table_stride = batch->block_table_stride;
  a.kv_count_max = batch->kv_count_max;
  a.single_query_count = batch->single_query_count;
  a.query_start = batch->query_start;
  a.kv_count = batch->kv_count;
  a.block_table = batch->block_table;
  a.reads_ahead = !stream->has_moved_keys;
  stream->has_moved_keys = false;
  const bool is_tensor_core = dtype != PD_F32 && (dtype == layer->dtype || layer->dtype == PD_FP8_E4M3) && has_tensor_core_dim(layer->head_dim) && q_row_stride % 8 == 0;
  if (!is_tensor_core) return attention_plain(stream, dtype, layer->dtype, a);
  a.prefill_queries_min = stream->device->is_batch_invariant ? 1 : 2;
  if (a.prefill_queries_min > 1)
    if (int status = attention_decode(stream, dtype, layer->dtype, a)) return status;
  if (batch->query_count_max < a.prefill_queries_min) return PD_OK;
  int status = PD_OK;
  if (stream->device->has_wgmma && attention_prefill_wgmma(stream, dtype, layer->dtype, a, &status)) return status;
  return attention_prefill(stream, dtype, layer->dtype, a);
}
