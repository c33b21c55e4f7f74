/* exp and tanh in float32: one formula, three widths (scalar, 8 lanes, 16 lanes), so that every instruction set gives the same bits.
   Used by attention, act_mul, softcap, moe and sample. Every step is an explicit fma, multiply or add; nothing depends on contraction
   (build with -ffp-contract=off). Coefficients: own Chebyshev-node fits (relative error of the polynomials 0.17 and 0.28 ulp).

   exp:  n = round(x / ln 2), r = x - n ln 2, e^x = 2^n (1 + r + r^2 P(r)); 2^n is applied in two factors, so results may be denormal or
         infinite as they should. exp(-inf) = 0, NaN stays NaN.
   tanh: |x| < 0.625: x + x^3 Q(x^2), else 1 - 2 / (e^{2|x|} + 1) with the sign of x. */
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#ifndef PD_TARGET_AVX2
#define PD_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#endif
#ifndef PD_TARGET_AVX512
#define PD_TARGET_AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")))
#endif
#endif

namespace pd {
namespace vmath {

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kRound = 12582912.0f;           /* 1.5 * 2^23: adding it rounds to the nearest integer (even on ties) */
constexpr int32_t kRoundBits = 0x4B400000;      /* its bits; bits(n + kRound) - kRoundBits = n */
constexpr float kLn2High = 0.693145751953125f;  /* 15 bits, so n * kLn2High is exact for |n| < 512 */
constexpr float kLn2Low = 1.42860682030941723e-6f;
constexpr float kExpLow = -104.0f;              /* e^x rounds to 0 below */
constexpr float kExpHigh = 89.0f;               /* e^x is infinite above */
constexpr float kExp2 = 0.5f;
constexpr float kExp3 = 0.16666576666119942f;
constexpr float kExp4 = 0.04166655421298475f;
constexpr float kExp5 = 0.008363232883680738f;
constexpr float kExp6 = 0.0013926250831439331f;

constexpr float kTanhSplit = 0.625f;
constexpr float kTanh0 = -0.33333328937102885f;
constexpr float kTanh1 = 0.13332769061640354f;
constexpr float kTanh2 = -0.053850807915892036f;
constexpr float kTanh3 = 0.02099669875565435f;
constexpr float kTanh4 = -0.006096017109531986f;

inline float from_bits(int32_t bits) { float f; std::memcpy(&f, &bits, 4); return f; }
inline int32_t to_bits(float f) { int32_t bits; std::memcpy(&bits, &f, 4); return bits; }

}  // namespace vmath

// ---- scalar: the oracle

inline float exp_scalar(float x) {
  using namespace vmath;
  x = x < kExpLow ? kExpLow : x;
  x = x > kExpHigh ? kExpHigh : x;
  float t = std::fma(x, kLog2E, kRound);
  float n = t - kRound;
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = std::fma(kExp6, r, kExp5);
  p = std::fma(p, r, kExp4);
  p = std::fma(p, r, kExp3);
  p = std::fma(p, r, kExp2);
  float y = std::fma(p, r * r, r) + 1.0f;
  int32_t power = static_cast<int32_t>(static_cast<uint32_t>(to_bits(t)) - static_cast<uint32_t>(kRoundBits));
  int32_t half = power >> 1;
  uint32_t low = (static_cast<uint32_t>(half) + 127u) << 23, high = (static_cast<uint32_t>(power - half) + 127u) << 23;
  return y * from_bits(static_cast<int32_t>(low)) * from_bits(static_cast<int32_t>(high));
}

inline float tanh_scalar(float x) {
  using namespace vmath;
  float a = std::fabs(x);
  float z = x * x;
  float q = std::fma(kTanh4, z, kTanh3);
  q = std::fma(q, z, kTanh2);
  q = std::fma(q, z, kTanh1);
  q = std::fma(q, z, kTanh0);
  float small = std::fma(q * z, x, x);
  float big = std::copysign(1.0f - 2.0f / (exp_scalar(a + a) + 1.0f), x);
  return a < kTanhSplit ? small : big;
}

#if defined(__x86_64__)

// ---- AVX2 + FMA: 8 lanes

PD_TARGET_AVX2 inline __m256 exp_avx2(__m256 x) {
  using namespace vmath;
  x = _mm256_max_ps(_mm256_set1_ps(kExpLow), x);  /* second operand wins on NaN */
  x = _mm256_min_ps(_mm256_set1_ps(kExpHigh), x);
  __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(kLog2E), _mm256_set1_ps(kRound));
  __m256 n = _mm256_sub_ps(t, _mm256_set1_ps(kRound));
  __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2High), x);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2Low), r);
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(kExp6), r, _mm256_set1_ps(kExp5));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp4));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp3));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp2));
  __m256 y = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
  __m256i power = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(kRoundBits));
  __m256i half = _mm256_srai_epi32(power, 1);
  __m256i bias = _mm256_set1_epi32(127);
  __m256 low = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(power, half), bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(y, low), high);
}

PD_TARGET_AVX2 inline __m256 tanh_avx2(__m256 x) {
  using namespace vmath;
  __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
  __m256 a = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
  __m256 z = _mm256_mul_ps(x, x);
  __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(kTanh4), z, _mm256_set1_ps(kTanh3));
  q = _mm256_fmadd_ps(q, z, _mm256_set1_ps(kTanh2));
  q = _mm256_fmadd_ps(q, z, _mm256_set1_ps(kTanh1));
  q = _mm256_fmadd_ps(q, z, _mm256_set1_ps(kTanh0));
  __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(q, z), x, x);
  __m256 one = _mm256_set1_ps(1.0f);
  __m256 big = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(exp_avx2(_mm256_add_ps(a, a)), one)));
  return _mm256_blendv_ps(_mm256_or_ps(big, sign), small, _mm256_cmp_ps(a, _mm256_set1_ps(kTanhSplit), _CMP_LT_OQ));
}

// ---- AVX-512: 16 lanes

PD_TARGET_AVX512 inline __m512 exp_avx512(__m512 x) {
  using namespace vmath;
  x = _mm512_max_ps(_mm512_set1_ps(kExpLow), x);
  x = _mm512_min_ps(_mm512_set1_ps(kExpHigh), x);
  __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(kLog2E), _mm512_set1_ps(kRound));
  __m512 n = _mm512_sub_ps(t, _mm512_set1_ps(kRound));
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-kLn2High), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(-kLn2Low), r);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(kExp6), r, _mm512_set1_ps(kExp5));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExp4));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExp3));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExp2));
  __m512 y = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  __m512i power = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(kRoundBits));
  __m512i half = _mm512_srai_epi32(power, 1);
  __m512i bias = _mm512_set1_epi32(127);
  __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
  __m512 high = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(power, half), bias), 23));
  return _mm512_mul_ps(_mm512_mul_ps(y, low), high);
}

PD_TARGET_AVX512 inline __m512 tanh_avx512(__m512 x) {
  using namespace vmath;
  __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
  __m512 a = _mm512_abs_ps(x);
  __m512 z = _mm512_mul_ps(x, x);
  __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(kTanh4), z, _mm512_set1_ps(kTanh3));
  q = _mm512_fmadd_ps(q, z, _mm512_set1_ps(kTanh2));
  q = _mm512_fmadd_ps(q, z, _mm512_set1_ps(kTanh1));
  q = _mm512_fmadd_ps(q, z, _mm512_set1_ps(kTanh0));
  __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(q, z), x, x);
  __m512 one = _mm512_set1_ps(1.0f);
  __m512 big = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(exp_avx512(_mm512_add_ps(a, a)), one)));
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_set1_ps(kTanhSplit), _CMP_LT_OQ), _mm512_or_ps(big, sign), small);
}

#endif  // __x86_64__

}  // namespace pd
