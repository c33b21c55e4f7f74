/* The generator of the draws: a pure function of (seed, draw index), the same on every device. Used by sample_row.cc and its CUDA twin.
   Philox 4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011. */
#pragma once
#include <cstdint>

namespace pd {

struct Philox { uint32_t word[4]; };

/* key: the seed; counter: (index, 0, 0, 0) */
inline Philox philox(uint32_t key_low, uint32_t key_high, uint32_t index) {
  Philox c{{index, 0, 0, 0}};
  for (int round = 0; round < 10; round++) {
    const uint64_t a = (uint64_t)0xD2511F53u * c.word[0], b = (uint64_t)0xCD9E8D57u * c.word[2];
    c = {{(uint32_t)(b >> 32) ^ c.word[1] ^ key_low, (uint32_t)b, (uint32_t)(a >> 32) ^ c.word[3] ^ key_high, (uint32_t)a}};
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return c;
}

/* In [0, 1), 53 bits. */
inline double uniform_of(const Philox &c) { return (double)(((uint64_t)c.word[1] << 32 | c.word[0]) >> 11) * 0x1p-53; }

}  // namespace pd
