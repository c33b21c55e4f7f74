/* Packed weights of a few bits with a scale (and a minimum) for each 16 or 32 columns of a row: what quantised files store is computed as it is.
   Used by weight*.cc (packing) and gemm_grouped_*.cc (products).

   A unit is 32 columns of a panel's 32 rows. value = (number - zero) * scale, or number * scale - minimum:

     numbers   4, 5, 6 bits: [4][32 rows][4 columns] bytes, word j below and word j + 4 above; 8 bits: [8][32][4]   (word: 4 columns)
     planes    5, 6 bits: the fifth (and sixth) bit of each number, [plane][8 words][2][16 rows x 4 columns bits]
     scales    [16-column groups or 1][32] float16, times the row's own power of two
     minima    likewise, where the format has them

   Numbers are unsigned; without minima they lie around `zero`, half their range. A table's numbers stand for bytes around 128. */
#pragma once
#include "../stored.h"
#include "weight.h"

namespace pd {

constexpr int kGroupedUnit = 32; /* columns */
/* A staged unit of a row of x: 8 words of 4 int8, its scale, minus the sum of the int8 of all, the first and the last 16, and these times the scale. */
constexpr int kGroupedWords = 15;
enum { kWordScale = 8, kWordSums = 9, kWordScaledSums = 12 };

struct GroupedFormat {
  int bits;
  bool has_minimum;
  int groups;      /* of a unit: 1 or 2 */
  int32_t table;   /* 0, PD_GROUPED_IQ4 or PD_GROUPED_E2M1 */

  constexpr int zero_shift() const { return table != 0 ? 7 : bits - 1; } /* zero = 1 << this */
  constexpr int number_bytes() const { return bits == 8 ? 1024 : 512; }
  constexpr int planes() const { return bits == 8 ? 0 : bits - 4; }
  constexpr int scale_offset() const { return number_bytes() + planes() * 128; }
  constexpr int minimum_offset() const { return scale_offset() + groups * 64; }
  constexpr int unit_bytes() const { return minimum_offset() + (has_minimum ? groups * 64 : 0); }
};

constexpr bool is_grouped(int32_t format) { return (format & PD_GROUPED) != 0; }
constexpr GroupedFormat grouped_format(int32_t format) {
  return {format & 15, (format & PD_GROUPED_MINIMUM) != 0, (format & PD_GROUPED_16) != 0 ? 2 : 1,
          format & (PD_GROUPED_IQ4 | PD_GROUPED_E2M1)};
}

/* Those that kernels are made for. */
#define PD_GROUPED_FORMATS(X)                                                                                                             \
  X(PD_GROUPED | 4)                                                                                                                       \
  X(PD_GROUPED | 4 | PD_GROUPED_MINIMUM)                                                                                                  \
  X(PD_GROUPED | 4 | PD_GROUPED_16)                                                                                                       \
  X(PD_GROUPED | 4 | PD_GROUPED_16 | PD_GROUPED_MINIMUM)                                                                                  \
  X(PD_GROUPED | 4 | PD_GROUPED_IQ4)                                                                                                      \
  X(PD_GROUPED | 4 | PD_GROUPED_E2M1)                                                                                                     \
  X(PD_GROUPED | 5)                                                                                                                       \
  X(PD_GROUPED | 5 | PD_GROUPED_MINIMUM)                                                                                                  \
  X(PD_GROUPED | 6 | PD_GROUPED_16)                                                                                                       \
  X(PD_GROUPED | 8)                                                                                                                       \
  X(PD_GROUPED | 8 | PD_GROUPED_MINIMUM)

inline bool has_grouped_kernel(int32_t format) {
  switch (format) {
#define PD_CASE(F) case F:
    PD_GROUPED_FORMATS(PD_CASE)
#undef PD_CASE
    return true;
    default: return false;
  }
}

/* The byte that a number of a table stands for. */
inline uint8_t table_byte(int32_t table, int number) {
  return static_cast<uint8_t>((table == PD_GROUPED_IQ4 ? iq4_value(number) : e2m1_doubled(number)) + 128);
}

}  // namespace pd
