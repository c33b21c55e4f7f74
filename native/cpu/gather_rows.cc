/* out[i] = x[indices[i]]: picks the rows whose logits are wanted. Twin: ../cuda/gather_rows.cu */
#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime.h"

using namespace pd;

extern "C" int pd_gather_rows(PdStream *stream, int32_t dtype, void *out, const void *x, const int32_t *indices, int32_t count,
                              int32_t x_row_count, int32_t cols) {
  if (const int status = check_activations("gather_rows", dtype)) return status;
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for(count, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) {
        float *target = (float *)out + i * cols;
        if (indices[i] < 0 || indices[i] >= x_row_count) std::fill(target, target + cols, NAN);
        else memcpy(target, (const float *)x + (int64_t)indices[i] * cols, (size_t)cols * sizeof(float));
      }
    });
  });
}
