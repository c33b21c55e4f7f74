/* float8 e4m3 (1 sign, 4 exponent, 3 mantissa bits, bias 7, no infinity) to float32 and back, rounding to nearest even, saturating at 448;
   NaN stays NaN. Written branch-light so that loops over it vectorise. */
#pragma once
#include "half.h"

namespace pd {

PD_HD inline uint8_t float_to_e4m3(float f) {
  const uint32_t bits = float_to_bits(f), magnitude = bits & 0x7FFFFFFFu;
  const uint32_t sign = bits >> 24 & 0x80u;
  /* below 2^-6 a unit is 2^-9: adding 2^14 leaves the units in the last mantissa bits */
  const uint32_t denormal = float_to_bits(bits_to_float(magnitude) + 16384.0f) - float_to_bits(16384.0f);
  const uint32_t normal = (magnitude - (120u << 23) + 0x7FFFFu + (magnitude >> 20 & 1u)) >> 20;
  uint32_t code = magnitude < 0x3C800000u ? denormal : normal;
  code = magnitude >= 0x43E00000u ? 0x7Eu : code; /* 448 and more */
  code = magnitude > 0x7F800000u ? 0x7Fu : code;
  return (uint8_t)(sign | code);
}

PD_HD inline float e4m3_to_float(uint8_t code) {
  const uint32_t magnitude = code & 0x7Fu;
  const float value = bits_to_float(magnitude << 20) * bits_to_float((127u + 120u) << 23);
  const uint32_t bits = magnitude == 0x7Fu ? 0x7FC00000u : float_to_bits(value);
  return bits_to_float(bits | (uint32_t)(code & 0x80u) << 24);
}

/* The smallest power of two s with largest <= 448 s; 1 for zeros. Scaling by it rounds nothing. Twin: cuda/fp8.cuh */
PD_HD inline float fp8_scale(float largest) {
  const uint32_t bits = float_to_bits(largest), exponent = (bits >> 23) + ((bits & 0x7FFFFFu) > 0x600000u ? 1 : 0); /* 448 = 1.75 * 2^8 */
  return largest == 0 ? 1.0f : bits_to_float((exponent > 9 ? exponent - 8 : 1u) << 23);
}

}  // namespace pd
