/* x = cap * tanh(x / cap), which Gemma 2 applies to its logits; infinity becomes NaN. Twin: ../cuda/softcap.cu */
#define PD_KERNELS "softcap.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

static void softcap_kernel(float *x, int64_t count, float cap) {
  for (int64_t i = 0; i < count; i += 16) {
    const F16 value = load_row(x, i, count);
    store_row(x, i, count, fma(splat(cap), tanh(div(value, splat(cap))), mul(splat(0), value)));
  }
}

#else
// ---- launchers
using namespace pd;

extern "C" int pd_softcap(PdStream *stream, float *x, uint64_t count, float cap) {
  if (!(cap > 0)) return fail(PD_INVALID, "softcap: cap %g is not positive", (double)cap);
  const auto kernel = PD_PICK(isa_of(stream), softcap_kernel);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for((int64_t)count, 8192, [&](int64_t begin, int64_t end, int) { kernel(x + begin, end - begin, cap); });
  });
}
#endif
