/* Passes over one row of logits that sampling is made of; sample.cc decides which are needed. Implemented in sample_scan.cc for every
   instruction set with the same bits. NaN never wins and never passes a threshold, but it is seen. */
#pragma once
#include <cstdint>

namespace pd {

constexpr int64_t kGroup = 64;    // values per entry of group_max
constexpr int64_t kChunk = 4096;  // values per entry of chunk_sums

struct SampleScan {
  /* group_max[g] = max of the group's values. Returns the row's best, -infinity when there is none. is_finite: neither NaN nor +infinity
     is among them, and something above -infinity is */
  float (*group_maxima)(float *group_max, bool *is_finite, const float *x, int64_t count);
  /* chunk_sums[c] = sum of exp((x - shift) * scale) over the chunk. Returns the sum of all. */
  double (*exp_sums)(double *chunk_sums, const float *x, int64_t count, float shift, float scale);
  /* weights = exp((x - shift) * scale); weights may be x */
  void (*exp_all)(float *weights, const float *x, int64_t count, float shift, float scale);
  /* ids of all values >= threshold, ascending. Returns how many. ids: room for count. */
  int64_t (*collect)(int32_t *ids, const float *x, const float *group_max, int64_t count, float threshold);
  /* Values whose mask bit is clear become -infinity. mask: ceil(count / 32) words */
  void (*apply_mask)(float *x, const uint32_t *mask, int64_t count);
};

struct IsaLevel;
SampleScan sample_scan_for(const IsaLevel &level);

}  // namespace pd
