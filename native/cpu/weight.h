/* The packed form of a stack of matrices [n, k], made once at load; read by gemm*.cc.

   32 rows (n) make a panel; along k, 4 bytes of each row lie together (1 float, 2 bfloat16 or 4 int8: a "unit"):

     data  [index][panel][unit][32 rows][4 bytes]          panel = 128 bytes * unit_count, one forward stream for the GEMV

   Every instruction set reads this one layout. Rows past n and elements past k are zero. */
#pragma once
#include <cstddef>
#include <cstdint>
#include "../pd.h"

namespace pd {
constexpr int kPanelRows = 32;
constexpr int kUnitBytes = 4;
constexpr int kPanelUnitBytes = kPanelRows * kUnitBytes;
constexpr int kPartsMax = 8;
}  // namespace pd

/* Rows of one format. */
struct PdWeightPanels {
  int32_t first_panel, format, unit_bytes;
  uint64_t offset;          /* of the first panel, within a matrix */
};

struct PdWeight {
  PdDevice *device;
  int32_t count, n, k, format;
  int32_t panel_count;      /* ceil(n / 32) */
  int32_t unit_elements;    /* 1, 2 or 4; 32 of grouped formats, whose units are longer (grouped.h) */
  int32_t unit_count;       /* ceil(k / unit_elements) */
  uint64_t bytes;           /* of everything below, one allocation */
  uint64_t matrix_bytes;
  uint8_t *data;            /* [count][panel_count][unit_count][unit_bytes] */
  float *scales;            /* PD_I8: [count][panel_count * 32], w = int8 * scale; grouped: powers of two; else NULL */
  int32_t *offsets;         /* PD_I8: [count][panel_count * 32], -128 * sum of the row's int8: undoes activations stored as x + 128 */

  int32_t part_count;
  PdWeightPanels parts[pd::kPartsMax];

  int64_t padded_rows() const { return static_cast<int64_t>(panel_count) * pd::kPanelRows; }
  int32_t part_of(int32_t panel_index) const {
    int32_t part = part_count - 1;
    while (parts[part].first_panel > panel_index) part--;
    return part;
  }
  uint8_t *panel(int32_t index, int32_t panel_index) const {
    const PdWeightPanels &part = parts[part_of(panel_index)];
    const uint64_t within = static_cast<uint64_t>(panel_index - part.first_panel) * unit_count * part.unit_bytes;
    return data + static_cast<uint64_t>(index) * matrix_bytes + part.offset + within;
  }
};
