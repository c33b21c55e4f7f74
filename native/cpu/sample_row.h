/* Samples one row; see sample_row.cc. Called by sample.cc. */
#pragma once
#include <cstddef>
#include <cstdint>

#include "../pd.h"
#include "sample_scan.h"

namespace pd {

/* As pd_sample takes them: shapes are there. */
struct SampleArguments {
  const float *logits;
  int64_t vocab;
  const PdSampleRow *rows;
  const int32_t *history, *bias_ids;
  const float *bias_values;
  const uint32_t *masks;
  int32_t *last_tokens, *tokens;
  float *logprobs;
  int32_t *top_ids;
  float *top_logprobs;
};

size_t sample_scratch_bytes(int64_t vocab);

/* scratch: sample_scratch_bytes, of this thread alone. Raises when a row names a token outside the vocabulary. */
void sample_row(const SampleScan &scan, const SampleArguments &arguments, void *scratch, int64_t index);

}  // namespace pd
