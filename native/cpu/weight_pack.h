/* Packing rows into panels (layout: weight.h). Implemented in weight_pack.cc, called by weight.cc. */
#pragma once
#include <cstdint>
#include "../stored.h"
#include "runtime.h"
#include "weight.h"

namespace pd {

/* Where rows come from: a file's matrix, or the random generator when its data is NULL. */
struct RowSource {
  PdMatrix matrix;
  uint64_t seed;
  float standard_deviation;
};

/* Source row 0 becomes row `first_row` of matrix `index`. */
struct PackJob {
  PdWeight *weight;
  RowSource source;
  int32_t index, first_row, row_count;
};

/* Whether a grouped format holds the numbers of a matrix as they are; else its values are rounded to the format. */
bool takes_numbers(int32_t format, const PdMatrix &matrix);

/* Packs the rows of the job that lie in one panel. */
typedef void (*PackPanel)(const PackJob &job, int32_t panel_index);
PackPanel pack_panel_for(const IsaLevel &isa);

}  // namespace pd
