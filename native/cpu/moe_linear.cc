/* pd_moe_linear: each pair (token, expert) multiplies its token's row by its expert's matrix. Pairs are sorted by expert inside, so
   each expert's weights are read once; a pair's result does not depend on the others (gemm.h). Twin: ../cuda/moe_linear.cu */
#include <algorithm>
#include "gemm.h"

namespace pd {
namespace {

constexpr int32_t kBlockRows = 252;

struct Plan {
  int32_t *starts;   /* [expert_count + 1] */
  int32_t *targets;  /* [pair_count] pairs, ordered by expert, then by pair */
  GemmBlock *blocks;
  void *rest;
};

size_t align(size_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t most_blocks(const PdWeight *weight, int32_t pair_count) {
  return std::min(weight->count, pair_count) + pair_count / kBlockRows;
}

size_t plan_bytes(const PdWeight *weight, int32_t pair_count) {
  return align((static_cast<size_t>(weight->count) + 1) * 4) + align(static_cast<size_t>(pair_count) * 4) +
         align(static_cast<size_t>(most_blocks(weight, pair_count)) * sizeof(GemmBlock));
}

Plan place_plan(const PdWeight *weight, int32_t pair_count, uint8_t *scratch) {
  Plan plan;
  plan.starts = reinterpret_cast<int32_t *>(scratch);
  plan.targets = reinterpret_cast<int32_t *>(scratch += align((static_cast<size_t>(weight->count) + 1) * 4));
  plan.blocks = reinterpret_cast<GemmBlock *>(scratch += align(static_cast<size_t>(pair_count) * 4));
  plan.rest = scratch + align(static_cast<size_t>(most_blocks(weight, pair_count)) * sizeof(GemmBlock));
  return plan;
}

/* Counting sort; starts[e] ends up as the first place of expert e. */
void sort_by_expert(const Plan &plan, const int32_t *expert_ids, int32_t pair_count, int32_t expert_count) {
  const auto expert_of = [=](int32_t j) { return std::clamp(expert_ids[j], 0, expert_count - 1); };
  std::fill(plan.starts, plan.starts + expert_count + 1, 0);
  for (int32_t j = 0; j < pair_count; j++) plan.starts[expert_of(j) + 1]++;
  for (int32_t e = 0; e < expert_count; e++) plan.starts[e + 1] += plan.starts[e];
  for (int32_t j = 0; j < pair_count; j++) plan.targets[plan.starts[expert_of(j)]++] = j;
  for (int32_t e = expert_count; e > 0; e--) plan.starts[e] = plan.starts[e - 1];
  plan.starts[0] = 0;
}

int64_t cut_blocks(const Plan &plan, int32_t expert_count) {
  int64_t count = 0;
  for (int32_t e = 0; e < expert_count; e++) {
    for (int32_t row = plan.starts[e]; row < plan.starts[e + 1]; row += kBlockRows)
      plan.blocks[count++] = {e, row, std::min(kBlockRows, plan.starts[e + 1] - row)};
  }
  return count;
}

void run_moe_linear(Pool &pool, const Gemm &gemm, GemmJob job, const int32_t *expert_ids) {
  const PdWeight *weight = job.weight;
  size_t bytes = plan_bytes(weight, job.row_count) + gemm_scratch_bytes(gemm, weight, job.row_count);
  Plan plan = place_plan(weight, job.row_count, static_cast<uint8_t *>(pool.scratch(-1, bytes)));
  sort_by_expert(plan, expert_ids, job.row_count, weight->count);
  job.targets = plan.targets;
  job.blocks = plan.blocks;
  job.block_count = cut_blocks(plan, weight->count);
  run_gemm(pool, gemm, job, plan.rest);
}

}  // namespace
}  // namespace pd

using namespace pd;

extern "C" int pd_moe_linear(PdStream *stream, int32_t dtype, void *out, const void *x, PdWeight *weight, const int32_t *expert_ids,
                             int32_t pair_count, int32_t divisor) {
  if (dtype != PD_F32) return fail(PD_UNSUPPORTED, "moe_linear: activations are float32 on the cpu (dtype %d)", dtype);
  if (pair_count < 0 || divisor < 1) return fail(PD_INVALID, "moe_linear: pair_count %d, divisor %d", pair_count, divisor);
  if (pair_count == 0) return PD_OK;
  const Gemm gemm = choose_gemm(isa_of(stream), weight);
  GemmJob job = {weight, static_cast<const float *>(x), static_cast<float *>(out), nullptr, nullptr, divisor, nullptr, 0, pair_count};
  return enqueue(stream, [gemm, job, expert_ids](Pool &pool) { run_moe_linear(pool, gemm, job, expert_ids); });
}
