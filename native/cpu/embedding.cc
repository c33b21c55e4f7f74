/* Embedding: out[r] = table[id of row r] * scale. Twin: ../cuda/embedding.cu */
#include <algorithm>
#define PD_KERNELS "embedding.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

static void embedding_row(float *out, const void *table_row, int32_t table_dtype, int64_t hidden, float scale) {
  widen(out, table_row, table_dtype, hidden);
  if (scale == 1.0f) return;
  for (int64_t i = 0; i < hidden; i += 16) store_row(out, i, hidden, mul(load_row(out, i, hidden), splat(scale)));
}

#else
// ---- launchers
using namespace pd;

extern "C" int pd_embedding(PdStream *stream, int32_t dtype, void *out, const void *table, int32_t table_dtype, const int32_t *ids,
                            const int32_t *last_tokens, int32_t row_count, int32_t hidden, int32_t vocab, float scale) {
  if (const int status = check_activations("embedding", dtype)) return status;
  if (table_dtype != PD_F32 && table_dtype != PD_BF16 && table_dtype != PD_F16)
    return fail(PD_UNSUPPORTED, "embedding: table of dtype %s", dtype_name(table_dtype));
  const auto kernel = PD_PICK(isa_of(stream), embedding_row);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for(row_count, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; r++) {
        const int64_t id = ids[r] >= 0 ? ids[r] : last_tokens[-1 - ids[r]];
        float *row = (float *)out + r * hidden;
        if (id < 0 || id >= vocab) std::fill(row, row + hidden, NAN);
        else kernel(row, (const char *)table + (size_t)id * hidden * dtype_bytes(table_dtype), table_dtype, hidden, scale);
      }
    });
  });
}
#endif
