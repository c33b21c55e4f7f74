/* Sampling: one token per row of logits. Rows are independent: sample_row.cc. Twin: ../cuda/sample.cu */
#include "runtime.h"
#include "sample_row.h"

using namespace pd;

extern "C" int pd_sample(PdStream *stream, const float *logits, int32_t row_count, int32_t vocab, const PdSampleRow *rows,
                         const int32_t *history, const int32_t *bias_ids, const float *bias_values, const uint32_t *masks,
                         int32_t *last_tokens, int32_t *tokens, float *logprobs, int32_t *top_ids, float *top_logprobs) {
  if (vocab < 1) return fail(PD_INVALID, "sample: a vocabulary of %d", vocab);
  const SampleArguments arguments{logits, vocab, rows, history, bias_ids, bias_values, masks, last_tokens, tokens, logprobs, top_ids, top_logprobs};
  return enqueue(stream, [arguments, row_count, scan = sample_scan_for(isa_of(stream))](Pool &pool) {
    pool.parallel_for(row_count, 1, [&](int64_t begin, int64_t end, int thread) {
      void *scratch = pool.scratch(thread, sample_scratch_bytes(arguments.vocab));
      for (int64_t r = begin; r < end; r++) sample_row(scan, arguments, scratch, r);
    });
  });
}
