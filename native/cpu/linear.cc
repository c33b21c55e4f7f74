/* pd_linear: out = x . weight^T + bias. The product itself: gemm.h. */
#include <algorithm>
#include "gemm.h"

namespace pd {
namespace {

constexpr int64_t kBlockBytes = 1 << 22; /* of staged x, shared by all panels: stays in L3 */

int32_t rows_per_block(const Gemm &gemm, const PdWeight *weight) {
  return std::max<int32_t>(4, static_cast<int32_t>(kBlockBytes / gemm_row_bytes(gemm, weight) / kMaxTileRows)) * kMaxTileRows;
}

void run_linear(Pool &pool, const Gemm &gemm, GemmJob job) {
  const int32_t block_rows = rows_per_block(gemm, job.weight);
  const int64_t block_count = (job.row_count + block_rows - 1) / block_rows;
  const size_t blocks_bytes = (static_cast<size_t>(block_count) * sizeof(GemmBlock) + 63) / 64 * 64;
  uint8_t *scratch = static_cast<uint8_t *>(pool.scratch(-1, blocks_bytes + gemm_scratch_bytes(gemm, job.weight, job.row_count)));
  GemmBlock *blocks = reinterpret_cast<GemmBlock *>(scratch);
  int32_t base = job.row_count / static_cast<int32_t>(block_count), extra = job.row_count % static_cast<int32_t>(block_count), first = 0;
  for (int32_t b = 0; b < block_count; b++) {
    blocks[b] = {0, first, base + (b < extra ? 1 : 0)};
    first += blocks[b].row_count;
  }
  job.blocks = blocks;
  job.block_count = block_count;
  run_gemm(pool, gemm, job, scratch + blocks_bytes);
}

}  // namespace
}  // namespace pd

using namespace pd;

extern "C" int pd_linear(PdStream *stream, int32_t dtype, void *out, int32_t out_dtype, const void *x, PdWeight *weight, const float *bias,
                         int32_t row_count) {
  if (dtype != PD_F32 || out_dtype != PD_F32)
    return fail(PD_UNSUPPORTED, "linear: activations are float32 on the cpu (dtype %d, out dtype %d)", dtype, out_dtype);
  if (weight->count != 1) return fail(PD_INVALID, "linear: the weight is a stack of %d; use moe_linear", weight->count);
  if (row_count < 0) return fail(PD_INVALID, "linear: row_count %d is negative", row_count);
  if (row_count == 0) return PD_OK;
  const Gemm gemm = choose_gemm(isa_of(stream), weight);
  GemmJob job = {weight, static_cast<const float *>(x), static_cast<float *>(out), bias, nullptr, 1, nullptr, 0, row_count};
  return enqueue(stream, [gemm, job](Pool &pool) { run_linear(pool, gemm, job); });
}
