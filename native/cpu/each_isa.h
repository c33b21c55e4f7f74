/* Compiles the kernels of one op for every instruction set. An op's file has this shape:

     #define PD_KERNELS "rmsnorm.cc"      // itself
     #include "each_isa.h"                // includes it again in namespaces scalar, avx2 and avx512, with PD_PASS defined
     #ifdef PD_PASS
     static void kernel(...) {...}        // written once, on F16 (vec16.h); no standard library in here
     #else
     ... launchers:  auto run = PD_PICK(isa_of(stream), kernel);
     #endif

   Lambdas and templates of the kernels section are compiled for the same instruction set. All three give the same bits. */
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "half.h"
#include "runtime.h"
#include "vmath.h"

#define PD_PASS_SCALAR 1
#define PD_PASS_AVX2 2
#define PD_PASS_AVX512 3
#define PD_INLINE static inline __attribute__((always_inline, unused))

namespace pd {
/* Rounds to nearest even; NaN stays NaN. */
inline uint16_t narrow_f16(float f) {
  const uint32_t bits = float_to_bits(f), magnitude = bits & 0x7FFFFFFFu;
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
  if (magnitude > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (bits >> 13 & 0x3FFu));
  if (magnitude >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);  // 65520 and more round to infinity
  if (magnitude < 0x38800000u)                                      // denormal: 2^-24 is one unit, so the adder rounds
    return (uint16_t)(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3F000000u));
  return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13));
}
}  // namespace pd

namespace pd {
namespace scalar {
#define PD_PASS PD_PASS_SCALAR
#include "vec16.h"
#include PD_KERNELS
#undef PD_PASS
}  // namespace scalar
#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#define PD_PASS PD_PASS_AVX2
#include "vec16.h"
#include PD_KERNELS
#undef PD_PASS
}  // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")
namespace avx512 {
#define PD_PASS PD_PASS_AVX512
#include "vec16.h"
#include PD_KERNELS
#undef PD_PASS
}  // namespace avx512
#pragma GCC pop_options
#endif
}  // namespace pd

#if defined(__x86_64__)
#define PD_PICK(level, kernel) \
  ((level).isa == PD_ISA_AVX512 ? pd::avx512::kernel : (level).isa == PD_ISA_AVX2 ? pd::avx2::kernel : pd::scalar::kernel)
#else
#define PD_PICK(level, kernel) ((void)(level), pd::scalar::kernel)
#endif
