/* Embedding rows by token id, or by a token sampled on the device that the host has not seen yet. Twin: ../cpu/embedding.cc */
#include "kernel.cuh"

namespace pd {
namespace {

// ---- kernels

template <typename T, typename Table>
__global__ void embedding_kernel(T *out,              // [rows, hidden]
                                 const Table *table,  // [vocab, hidden]
                                 const int *ids, const int *last_tokens, int hidden, int vocab, float scale) {
  grid_release();
  grid_wait();
  const int row = blockIdx.x;
  int id = ids[row];
  if (id < 0) id = last_tokens[-1 - id];
  T *target = out + (size_t)row * hidden;
  if (id < 0 || id >= vocab) {
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) target[i] = from_float<T>(NAN);
    return;
  }
  const Table *source = table + (size_t)id * hidden;
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) target[i] = from_float<T>(to_float(source[i]) * scale);
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_embedding(PdStream *stream, int32_t dtype, void *out, const void *table, int32_t table_dtype, const int32_t *ids,
                            const int32_t *last_tokens, int32_t row_count, int32_t hidden, int32_t vocab, float scale) {
  if (int status = enter(stream->device)) return status;
  return with_dtype("embedding", dtype, [&](auto zero) {
    return with_dtype("embedding", table_dtype, [&](auto table_zero) {
      using T = decltype(zero);
      using Table = decltype(table_zero);
      return launch(stream, "embedding", embedding_kernel<T, Table>, row_count, 512, 0, (T *)out, (const Table *)table, ids, last_tokens,
                    (int)hidden, (int)vocab, scale);
    });
  });
}
