/* What sampling one row keeps on the side; one per thread. Used by sample_row.cc. */
#pragma once
#include <cstddef>
#include <cstdint>

#include "sample_scan.h"

namespace pd {

struct Candidate { float value; int32_t id; };
inline bool is_better(const Candidate &a, const Candidate &b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

/* One thread's scratch for a row of `vocab` values. */
struct Scratch {
  float *values;        // the row as changed by mask, bias and penalties
  float *group_max, *group_copy;
  double *chunk_sums;
  int32_t *ids;
  Candidate *candidates;
  float *weights;       // also the token counts of the penalties, before it is needed
  double *bucket_mass;

  static constexpr int kBuckets = 2048;
  static size_t bytes(int64_t vocab) { return (size_t)vocab * 20 + (vocab / kGroup + 1) * 8 + (vocab / kChunk + 1) * 8 + kBuckets * 8 + 64; }
  Scratch(void *memory, int64_t vocab) {
    char *p = (char *)memory;
    const auto take = [&p](size_t count) { char *piece = p; p += count; return piece; };
    chunk_sums = (double *)take((vocab / kChunk + 1) * 8);
    bucket_mass = (double *)take(kBuckets * 8);
    candidates = (Candidate *)take(vocab * 8);
    values = (float *)take(vocab * 4);
    ids = (int32_t *)take(vocab * 4);
    weights = (float *)take(vocab * 4);
    group_max = (float *)take((vocab / kGroup + 1) * 4);
    group_copy = (float *)take((vocab / kGroup + 1) * 4);
  }
};

}  // namespace pd
