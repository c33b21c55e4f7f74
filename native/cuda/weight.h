/* A stack of matrices [n, k] as it lies on the GPU: plain row-major, one matrix after the other, no padding; fp8 with a scale per row. */
#pragma once
#include <cstdint>
#include "../pd.h"

struct PdWeight {
  PdDevice *device;
  int32_t count, n, k, format;
  uint64_t bytes;
  uint8_t *data; /* [count][n][k] of format */
  float *scales; /* [count][n] behind the data, fp8 only */
};
