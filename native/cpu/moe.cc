/* Mixture of experts around the expert products: which experts a row takes, and the weighted sum of what they gave.
   Twin: ../cuda/moe.cu. The products are in moe_linear.cc. */
#include <cfloat>
#define PD_KERNELS "moe.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

/* Nothing to choose by: which experts run does not matter, what they give becomes NaN. */
static void spoil_route(int32_t *ids, float *weights, int32_t top_k) {
  for (int32_t j = 0; j < top_k; j++) {
    ids[j] = j;
    weights[j] = NAN;
  }
}

/* ids, weights: [top_k], best first. probabilities: scratch [expert_count]. */
static void route_row(int32_t *ids, float *weights, float *probabilities, const float *logits, int64_t expert_count, int32_t top_k,
                      int32_t normalise) {
  float best = -INFINITY;
  bool is_number = true;
  for (int64_t e = 0; e < expert_count; e++) {
    best = logits[e] > best ? logits[e] : best;
    is_number &= logits[e] <= FLT_MAX;
  }
  if (!is_number || best == -INFINITY) return spoil_route(ids, weights, top_k);
  for (int64_t e = 0; e < expert_count; e += 16)
    store_row(probabilities, e, expert_count, exp(sub(load_row(logits, e, expert_count), splat(best))));
  float total = 0;
  for (int64_t e = 0; e < expert_count; e++) total += probabilities[e];
  float chosen = 0;
  for (int32_t j = 0; j < top_k; j++) {
    int64_t top = 0;
    for (int64_t e = 1; e < expert_count; e++)
      if (probabilities[e] > probabilities[top]) top = e;
    ids[j] = (int32_t)top;
    weights[j] = probabilities[top] / total;
    chosen += weights[j];
    probabilities[top] = -1.0f;  // taken
  }
  for (int32_t j = 0; normalise != 0 && j < top_k; j++) weights[j] /= chosen;
}

static void combine_row(float *out, const float *x, const float *weights, int32_t top_k, int64_t hidden) {
  for (int64_t i = 0; i < hidden; i += 16) {
    F16 sum = splat(0);
    for (int32_t j = 0; j < top_k; j++) sum = fma(splat(weights[j]), load_row(x + j * hidden, i, hidden), sum);
    store_row(out, i, hidden, sum);
  }
}

#else
// ---- launchers
using namespace pd;

extern "C" int pd_moe_route(PdStream *stream, int32_t *expert_ids, float *expert_weights, const float *logits, int32_t row_count,
                            int32_t expert_count, int32_t top_k, int32_t normalise) {
  if (top_k < 1 || top_k > expert_count) return fail(PD_INVALID, "moe_route: top %d of %d experts", top_k, expert_count);
  const auto kernel = PD_PICK(isa_of(stream), route_row);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for(row_count, 8, [&](int64_t begin, int64_t end, int thread) {
      float *probabilities = (float *)pool.scratch(thread, (size_t)expert_count * sizeof(float));
      for (int64_t r = begin; r < end; r++)
        kernel(expert_ids + r * top_k, expert_weights + r * top_k, probabilities, logits + r * expert_count, expert_count, top_k, normalise);
    });
  });
}

extern "C" int pd_moe_combine(PdStream *stream, int32_t dtype, void *out, const void *x, const float *expert_weights, int32_t row_count,
                              int32_t top_k, int32_t hidden) {
  if (const int status = check_activations("moe_combine", dtype)) return status;
  const auto kernel = PD_PICK(isa_of(stream), combine_row);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for(row_count, 4, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; r++)
        kernel((float *)out + r * hidden, (const float *)x + r * top_k * hidden, expert_weights + r * top_k, top_k, hidden);
    });
  });
}
#endif
