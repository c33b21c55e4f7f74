/* The gated activation of an MLP: out = activation(gate) * up. Twin: ../cuda/act_mul.cu */
#define PD_KERNELS "act_mul.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

PD_INLINE F16 silu(F16 x) { return div(x, add(splat(1.0f), exp(sub(splat(0.0f), x)))); }

/* 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), Hendrycks and Gimpel 2016 */
PD_INLINE F16 gelu_tanh(F16 x) {
  const F16 inner = fma(mul(mul(x, x), x), splat(0.044715f), x);
  return mul(mul(splat(0.5f), x), add(splat(1.0f), tanh(mul(splat(0.7978845608f), inner))));
}

static void act_mul_kernel(float *out, const float *gate, const float *up, int64_t count, int32_t activation) {
  if (activation == PD_SILU)
    for (int64_t i = 0; i < count; i += 16) store_row(out, i, count, mul(silu(load_row(gate, i, count)), load_row(up, i, count)));
  else
    for (int64_t i = 0; i < count; i += 16) store_row(out, i, count, mul(gelu_tanh(load_row(gate, i, count)), load_row(up, i, count)));
}

#else
// ---- launchers
using namespace pd;

namespace {
constexpr int64_t kColumns = 1024;  // a piece of a row
}

extern "C" int pd_act_mul(PdStream *stream, int32_t dtype, void *out, const void *gate_up, int32_t row_count, int32_t inter,
                          int32_t activation) {
  if (const int status = check_activations("act_mul", dtype)) return status;
  if (activation != PD_SILU && activation != PD_GELU_TANH) return fail(PD_INVALID, "act_mul: activation %d is unknown", activation);
  const auto kernel = PD_PICK(isa_of(stream), act_mul_kernel);
  return enqueue(stream, [=](Pool &pool) {
    const int64_t pieces = (inter + kColumns - 1) / kColumns;
    pool.parallel_for(row_count * pieces, 4, [&](int64_t begin, int64_t end, int) {
      for (int64_t piece = begin; piece < end; piece++) {
        const int64_t row = piece / pieces, first = piece % pieces * kColumns, count = inter - first < kColumns ? inter - first : kColumns;
        const float *gate = (const float *)gate_up + row * 2 * inter + first;
        kernel((float *)out + row * inter + first, gate, gate + inter, count, activation);
      }
    });
  });
}
#endif
