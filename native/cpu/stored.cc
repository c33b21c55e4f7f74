/* pd_read_matrix: rows as a file stores them (../stored.h) to plain ones. Twin: ../cuda/stored.cu */
#include "../stored.h"
#define PD_KERNELS "stored.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

static void read_row(uint8_t *out, int32_t dtype, const PdMatrix &matrix, int64_t row, int64_t k) {
  const int size = dtype == PD_F32 ? 4 : 2;
  float values[kGroup];
  for (int64_t first = 0; first < k; first += kGroup) {
    const int count = k - first < kGroup ? (int)(k - first) : kGroup;
    if (is_plain_encoding(matrix.encoding)) {
      const uint64_t index = (uint64_t)stored_row(matrix, row) * matrix.row_stride + (uint64_t)first;
      widen(values, (const uint8_t *)matrix.data + index * (matrix.encoding == PD_F32 ? 4 : 2), matrix.encoding, count);
    } else {
      read_values(matrix, row, first, count, values);
    }
    narrow(out + first * size, values, dtype, count);
  }
}

#else
// ---- launchers
using namespace pd;

extern "C" int pd_read_matrix(PdStream *stream, void *target, int32_t target_dtype, const PdMatrix *source, int32_t row_count, int32_t k) {
  if (!is_plain_encoding(target_dtype)) return fail(PD_UNSUPPORTED, "read_matrix: to %s", dtype_name(target_dtype));
  if (row_count < 0 || k < 1) return fail(PD_INVALID, "read_matrix: %d rows, k %d", row_count, k);
  if (const char *fault = matrix_fault(*source, row_count, k))
    return fail(PD_INVALID, "read_matrix: encoding %d, k %d: wrong %s", source->encoding, k, fault);
  const auto kernel = PD_PICK(isa_of(stream), read_row);
  const PdMatrix matrix = *source;
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for(row_count, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; row++)
        kernel((uint8_t *)target + (size_t)row * k * dtype_bytes(target_dtype), target_dtype, matrix, row, k);
    });
  });
}
#endif
