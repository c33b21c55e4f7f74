/* What the two sampling kernels share: sample_scan.cu reads all logits once, in chunks spread over the GPU; sample.cu decides per row. */
#pragma once
#include "kernel.cuh"

namespace pd {

constexpr int kSampleChunk = 4096; /* logits per entry of the statistics */

struct ChunkStatistics {
  float best;         /* -infinity when the chunk has no number */
  int best_id;        /* lowest id that has it */
  float sum;          /* of exp(x - best), for log-probabilities; NaN when a value is NaN or +infinity */
  float tempered_sum; /* of exp((x - best) / temperature), for the draw */
};

struct SampleArguments {
  const float *logits; /* [rows, vocab] */
  int row_count, vocab, chunk_count;
  const PdSampleRow *rows;
  const int32_t *history, *bias_ids;
  const float *bias_values;
  const uint32_t *masks;
  int32_t *last_tokens, *tokens;
  float *logprobs;
  int32_t *top_ids;
  float *top_logprobs;
  ChunkStatistics *statistics; /* [rows, chunks] */
  float *changed;              /* [blocks, vocab]: a row after mask, bias and penalties */
  uint32_t *counts;            /* [blocks, vocab]: zero between launches */
};

int sample_scan(PdStream *stream, const SampleArguments &arguments);

/* Values in the order of unsigned integers; NaN lowest, then -infinity. */
__device__ __forceinline__ uint32_t order_key(float value) {
  if (isnan(value)) return 0;
  const uint32_t bits = __float_as_uint(value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_value(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
constexpr uint32_t kLowestKey = 0x00800000u; /* the first key above -infinity's */

}  // namespace pd
