/* The CPU's random numbers, bit for bit up to rounding: dummy weights are the same on every device. Twin: ../cpu/weight.cc, ../cpu/measure.cc */
#pragma once
#include <cstdint>

namespace pd {

__device__ __forceinline__ uint64_t mix_bits(uint64_t z) { /* splitmix64's finaliser */
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

/* Near-normal: the sum of four uniform 16-bit draws has variance 4 / 12 around its mean. */
__device__ __forceinline__ float near_normal(uint64_t draw, float unit) {
  int sum = static_cast<int>((draw & 0xFFFF) + ((draw >> 16) & 0xFFFF) + ((draw >> 32) & 0xFFFF) + (draw >> 48));
  return static_cast<float>(sum - 131070) * unit;
}

}  // namespace pd
