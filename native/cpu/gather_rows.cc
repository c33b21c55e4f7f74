/* out[i] = x[indices[i]]: picks the rows whose logits are wanted. Twin: ../cuda/gather_rows.cu */
#include <cstring>

#include "runtime.h"

using namespace pd;

extern "C" int pd_gather_rows(PdStream *stream, int32_t dtype, void *out, const void *x, const int32_t *indices, int32_t count, int32_t cols) {
  if (const int status = check_activations("gather_rows", dtype)) return status;
  return enqueue(stream, [=](Pool &pool) {
    const size_t row_bytes = (size_t)cols * dtype_bytes(dtype);
    pool.parallel_for(count, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) {
        if (indices[i] < 0) raise(PD_INVALID, "gather_rows: index %d at %lld", indices[i], (long long)i);
        memcpy((char *)out + i * row_bytes, (const char *)x + indices[i] * row_bytes, row_bytes);
      }
    });
  });
}
