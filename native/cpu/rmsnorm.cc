/* RMSNorm, alone or behind a residual addition, and that addition alone. Twin: ../cuda/rmsnorm.cu
   The sum of squares runs in 64 lanes (column mod 64), folded in a fixed order. */
#define PD_KERNELS "rmsnorm.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

static void add_kernel(float *residual, const float *x, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) store_row(residual, i, count, add(load_row(residual, i, count), load_row(x, i, count)));
}

/* out may be x. residual NULL: norm of x; else residual += x and the norm of that. */
static void rmsnorm_row(float *out, const float *x, float *residual, const float *weight, int64_t cols, float eps) {
  if (residual != nullptr) {
    add_kernel(residual, x, cols);
    x = residual;
  }
  F16 sums[4] = {splat(0), splat(0), splat(0), splat(0)};
  int64_t i = 0;
  for (; i + 64 <= cols; i += 64)
    for (int j = 0; j < 4; j++) {
      const F16 v = load(x + i + 16 * j);
      sums[j] = fma(v, v, sums[j]);
    }
  for (int j = 0; i < cols; i += 16, j++) {
    const F16 v = load_row(x, i, cols);
    sums[j] = fma(v, v, sums[j]);
  }
  const float sum = sum_lanes(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  const F16 scale = splat(1.0f / std::sqrt(sum / (float)cols + eps));
  for (i = 0; i < cols; i += 16) store_row(out, i, cols, mul(mul(load_row(x, i, cols), scale), load_row(weight, i, cols)));
}

#else
// ---- launchers
using namespace pd;

extern "C" int pd_rmsnorm(PdStream *stream, int32_t dtype, void *out, const void *x, void *residual, const float *weight,
                          int32_t row_count, int32_t cols, float eps) {
  if (const int status = check_activations("rmsnorm", dtype)) return status;
  const auto kernel = PD_PICK(isa_of(stream), rmsnorm_row);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for(row_count, 1 + 16384 / (cols + 1), [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; r++)
        kernel((float *)out + r * cols, (const float *)x + r * cols, residual == nullptr ? nullptr : (float *)residual + r * cols, weight,
               cols, eps);
    });
  });
}

extern "C" int pd_add(PdStream *stream, int32_t dtype, void *residual, const void *x, uint64_t count) {
  if (const int status = check_activations("add", dtype)) return status;
  const auto kernel = PD_PICK(isa_of(stream), add_kernel);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for((int64_t)count, 16384, [&](int64_t begin, int64_t end, int) {
      kernel((float *)residual + begin, (const float *)x + begin, end - begin);
    });
  });
}
#endif
