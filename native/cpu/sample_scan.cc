/* The vector passes of sampling: see sample_scan.h. */
#include "sample_scan.h"  // before each_isa.h, which includes this file again inside its namespaces

#include <cfloat>
#define PD_KERNELS "sample_scan.cc"
#include "each_isa.h"

#ifdef PD_PASS

static float group_maxima(float *group_max, bool *is_finite, const float *x, int64_t count) {
  const F16 low = splat(-INFINITY), high = splat(FLT_MAX);
  float best = -INFINITY;
  uint32_t numbers = 0xFFFF;
  for (int64_t first = 0; first < count; first += kGroup) {
    F16 most = low;
    int64_t i = first;
    for (; i + 16 <= count && i < first + kGroup; i += 16) {
      const F16 values = load(x + i);
      most = max(values, most);
      numbers &= at_least(high, values); /* not of NaN and +infinity */
    }
    float top = max_lanes(most);
    for (; i < count && i < first + kGroup; i++) {
      top = x[i] > top ? x[i] : top;
      if (!(x[i] <= FLT_MAX)) numbers = 0;
    }
    group_max[first / kGroup] = top;
    best = top > best ? top : best;
  }
  *is_finite = numbers == 0xFFFF && best != -INFINITY;
  return best;
}

/* Within a chunk: 64 lanes (index mod 64) in float32; chunks in double, ascending. */
static double exp_sums(double *chunk_sums, const float *x, int64_t count, float shift, float scale) {
  double total = 0;
  const F16 minus = splat(shift), times = splat(scale);
  for (int64_t first = 0; first < count; first += kChunk) {
    const int64_t end = first + kChunk < count ? first + kChunk : count;
    F16 sums[4] = {splat(0), splat(0), splat(0), splat(0)};
    int64_t i = first;
    for (; i + 64 <= end; i += 64)
      for (int j = 0; j < 4; j++) sums[j] = add(sums[j], exp(mul(sub(load(x + i + 16 * j), minus), times)));
    double sum = sum_lanes(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
    for (; i < end; i++) sum += exp_scalar((x[i] - shift) * scale);
    chunk_sums[first / kChunk] = sum;
    total += sum;
  }
  return total;
}

static void exp_all(float *weights, const float *x, int64_t count, float shift, float scale) {
  for (int64_t i = 0; i < count; i += 16)
    store_row(weights, i, count, exp(mul(sub(load_row(x, i, count), splat(shift)), splat(scale))));
}

static int64_t collect(int32_t *ids, const float *x, const float *group_max, int64_t count, float threshold) {
  const F16 least = splat(threshold);
  int64_t found = 0;
  for (int64_t first = 0; first < count; first += kGroup) {
    if (!(group_max[first / kGroup] >= threshold)) continue;
    int64_t i = first;
    for (; i + 16 <= count && i < first + kGroup; i += 16)
      for (uint32_t bits = at_least(load(x + i), least); bits != 0; bits &= bits - 1) ids[found++] = (int32_t)(i + __builtin_ctz(bits));
    for (; i < count && i < first + kGroup; i++)
      if (x[i] >= threshold) ids[found++] = (int32_t)i;
  }
  return found;
}

static void apply_mask(float *x, const uint32_t *mask, int64_t count) {
  for (int64_t i = 0; i < count; i++) x[i] = mask[i / 32] >> (i % 32) & 1u ? x[i] : -INFINITY;
}

#else

namespace pd {
SampleScan sample_scan_for(const IsaLevel &level) {
  return {PD_PICK(level, group_maxima), PD_PICK(level, exp_sums), PD_PICK(level, exp_all), PD_PICK(level, collect),
          PD_PICK(level, apply_mask)};
}
}  // namespace pd
#endif
