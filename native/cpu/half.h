/* bfloat16 and IEEE half to float32 and back, one element at a time, rounding to nearest even. NaN stays NaN.
   Used where data enters packed weights and the KV cache; written branch-light so that loops over it vectorise. */
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define PD_HD __host__ __device__
#else
#define PD_HD
#endif

namespace pd {

PD_HD inline float bits_to_float(uint32_t bits) { float f; std::memcpy(&f, &bits, 4); return f; }
PD_HD inline uint32_t float_to_bits(float f) { uint32_t bits; std::memcpy(&bits, &f, 4); return bits; }

PD_HD inline float bf16_to_float(uint16_t half) { return bits_to_float(static_cast<uint32_t>(half) << 16); }

PD_HD inline uint16_t float_to_bf16(float f) {
  uint32_t bits = float_to_bits(f);
  uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  uint32_t quiet = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
}

/* Exponent 1..30: rebias by multiplying with 2^112, which also makes denormals exact; 31 (infinity, NaN) gets all exponent bits. */
PD_HD inline float f16_to_float(uint16_t half) {
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7FFFu) << 13;
  float scaled = bits_to_float(magnitude) * bits_to_float((127u + 112u) << 23);
  uint32_t bits = (half & 0x7C00u) == 0x7C00u ? (magnitude | 0x7F800000u) : float_to_bits(scaled);
  return bits_to_float(bits | (static_cast<uint32_t>(half & 0x8000u) << 16));
}

}  // namespace pd
