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
}  // namespace pd

struct PdWeight {
  PdDevice *device;
  int32_t count, n, k, format;
  int32_t panel_count;      /* ceil(n / 32) */
  int32_t unit_elements;    /* 1, 2 or 4 */
  int32_t unit_count;       /* ceil(k / unit_elements) */
  uint64_t bytes;           /* of everything below, one allocation */
  uint8_t *data;            /* [count][panel_count][unit_count][32][4] */
  float *scales;            /* PD_I8: [count][panel_count * 32], w = int8 * scale; else NULL */
  int32_t *offsets;         /* PD_I8: [count][panel_count * 32], -128 * sum of the row's int8: undoes activations stored as x + 128 */

  size_t panel_bytes() const { return static_cast<size_t>(unit_count) * pd::kPanelUnitBytes; }
  int64_t padded_rows() const { return static_cast<int64_t>(panel_count) * pd::kPanelRows; }
  uint8_t *panel(int32_t index, int32_t panel_index) const {
    return data + (static_cast<size_t>(index) * panel_count + panel_index) * panel_bytes();
  }
};
