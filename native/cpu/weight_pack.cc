/* Packs rows into a panel: a stretch of k at a time, so that the piece of the panel that all 32 rows write to stays in L1. Every
   instruction set gives the same bits. The layout is in weight.h. */
#include "weight_pack.h"
#include "grouped.h"
#define PD_KERNELS "weight_pack.cc"
#include "each_isa.h"

#ifdef PD_PASS

constexpr int kStretch = 256; /* elements of k at a time: at most 32 KiB of a panel */

PD_INLINE uint64_t mix(uint64_t z) { /* splitmix64's finaliser */
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

/* Near-normal: the sum of four uniform 16-bit draws has variance 4 / 12 around its mean. A pure function of (seed, row, k). */
static void draw(float *out, const RowSource &source, int64_t row, int64_t first, int count) {
  const float unit = source.standard_deviation * 1.7320508f / 65536.0f;
  const uint64_t key = mix(source.seed ^ mix((uint64_t)row + 0x632BE59BD9B4E019ull));
  for (int i = 0; i < count; i++) {
    const uint64_t bits = mix(key + (uint64_t)(first + i) * 0x9E3779B97F4A7C15ull);
    const int32_t sum = (int32_t)((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + (bits >> 48));
    out[i] = (float)(sum - 131070) * unit;
  }
}

PD_INLINE const void *element(const PdMatrix &matrix, int64_t row, int64_t first) {
  const uint64_t index = (uint64_t)stored_row(matrix, row) * matrix.row_stride + (uint64_t)first;
  return (const uint8_t *)matrix.data + index * (matrix.encoding == PD_F32 ? 4 : 2);
}

/* row: of the source; drawn rows are numbered through the whole stack */
static void fetch(float *out, const PackJob &job, int64_t row, int64_t first, int count) {
  const PdMatrix &matrix = job.source.matrix;
  if (matrix.data == nullptr) draw(out, job.source, (int64_t)job.index * job.weight->n + row, first, count);
  else if (is_plain_encoding(matrix.encoding)) widen(out, element(matrix, row, first), matrix.encoding, count);
  else
    for (int i = 0; i < count; i += kGroup) read_values(matrix, row, first + i, count - i < kGroup ? count - i : kGroup, out + i);
}

/* largest magnitude of a row; over bit patterns, so that a NaN is the largest */
static float largest_of(const PackJob &job, int64_t row) {
  const int64_t k = job.weight->k;
  int32_t largest = 0;
  float values[kStretch];
  for (int64_t first = 0; first < k; first += kStretch) {
    const int count = k - first < kStretch ? (int)(k - first) : kStretch;
    fetch(values, job, row, first, count);
    for (int i = 0; i < count; i++) {
      const int32_t bits = (int32_t)(float_to_bits(values[i]) & 0x7FFFFFFFu);
      largest = bits > largest ? bits : largest;
    }
  }
  return bits_to_float((uint32_t)largest);
}

/* words: units of `count` elements from `first` on, rounded to the format. Returns the sum of the int8 values. */
static int32_t round_words(uint32_t *words, const PackJob &job, int64_t row, int64_t first, int count, float inverse) {
  const int32_t format = job.weight->format;
  if (format == PD_BF16 && job.source.matrix.encoding == PD_BF16 && job.source.matrix.data != nullptr) {
    words[(count - 1) / 2] = 0;
    memcpy(words, element(job.source.matrix, row, first), (size_t)count * 2);
    return 0;
  }
  if (format == PD_F32) {
    fetch((float *)words, job, row, first, count);
    return 0;
  }
  float values[kStretch];
  fetch(values, job, row, first, count);
  if (format == PD_BF16) {
    words[(count - 1) / 2] = 0;
    narrow(words, values, PD_BF16, count);
    return 0;
  }
  int32_t sum = 0;
  int8_t *bytes = (int8_t *)words;
  words[(count - 1) / 4] = 0;
  for (int i = 0; i < count; i++) bytes[i] = (int8_t)(uint8_t)float_to_bits(values[i] * inverse + 12582912.0f); /* nearest, ties to even */
  for (int i = 0; i < count; i++) sum += bytes[i];
  return sum;
}

// ---- grouped formats

/* What a row's 32 columns become: unsigned numbers, scales and minima. */
struct PackedGroup {
  uint8_t numbers[kGroupedUnit];
  float scale[2], minimum[2];
};

/* Rounded from values: a scale for each group's largest, or for its range. `scale`: NULL, or the scales to round by. */
static void round_values(PackedGroup *out, const GroupedFormat &format, const float *values, const float *given) {
  const int size = kGroupedUnit / format.groups;
  const float zero = (float)(1 << format.zero_shift()), most = (float)((1 << format.bits) - 1);
  for (int g = 0; g < format.groups; g++) {
    const float *x = values + g * size;
    float largest = 0.0f, low = x[0], high = x[0];
    for (int i = 0; i < size; i++) {
      largest = (x[i] < 0 ? -x[i] : x[i]) > (largest < 0 ? -largest : largest) || x[i] != x[i] ? x[i] : largest;
      low = x[i] < low ? x[i] : low;
      high = x[i] > high ? x[i] : high;
    }
    /* 8 bits reach 127 on both sides; fewer use the one value more below zero for the largest */
    float scale = format.has_minimum ? (high - low) / most : format.bits == 8 ? (largest < 0 ? -largest : largest) / 127.0f : largest / -zero;
    if (given != nullptr) scale = given[g];
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale, shift = format.has_minimum ? -low * inverse : zero;
    out->scale[g] = scale;
    out->minimum[g] = format.has_minimum ? -low : 0.0f;
    for (int i = 0; i < size; i++) {
      float number = x[i] * inverse + shift + 0.5f;
      number = number > 0.0f ? number : 0.0f;
      number = number > most ? most : number;
      out->numbers[g * size + i] = (uint8_t)number;
    }
  }
}

/* The numbers of a file as they are, moved to where the format has its zero. */
static void take_numbers(PackedGroup *out, const GroupedFormat &format, const PdMatrix &matrix, int64_t row, int64_t first, int count) {
  StoredGroup group = {};
  read_group(matrix, row, first, count, &group);
  const int most = (1 << format.bits) - 1;
  for (int i = 0; i < kGroupedUnit; i++) {
    const int h = i / 16;
    int number = group.numbers[i];
    if (format.table == 0) {
      number = matrix.encoding == PD_I8 ? (int8_t)group.numbers[i] : number;
      if (!format.has_minimum) number += (1 << format.zero_shift()) - (int)group.zero[h];
    }
    out->numbers[i] = (uint8_t)(i >= count ? 0 : number < 0 ? 0 : number > most ? most : number);
  }
  for (int h = 0; h < 2; h++) {
    out->scale[h] = matrix.encoding == PD_E2M1 ? 0.5f * group.scale[h] : group.scale[h];
    out->minimum[h] = group.minimum[h] + group.scale[h] * group.zero[h];
  }
}

static void group_of_row(PackedGroup *out, const GroupedFormat &format, bool takes, const PackJob &job, int64_t row, int64_t first, const float *given) {
  const int64_t left = job.weight->k - first;
  const int count = left < kGroupedUnit ? (int)left : kGroupedUnit;
  if (takes) return take_numbers(out, format, job.source.matrix, row, first, count);
  float values[kGroupedUnit] = {};
  fetch(values, job, row, first, count);
  round_values(out, format, values, given);
}

/* A power of two that brings the row's largest scale or minimum to 2^14 .. 2^15: float16 holds what is up to 2^28 smaller. */
static float row_factor(const GroupedFormat &format, bool takes, const PackJob &job, int64_t row) {
  int32_t largest = 0;
  for (int64_t first = 0; first < job.weight->k; first += kGroupedUnit) {
    PackedGroup group;
    group_of_row(&group, format, takes, job, row, first, nullptr);
    for (int g = 0; g < 2; g++) {
      const int32_t scale = g < format.groups ? (int32_t)(float_to_bits(group.scale[g]) & 0x7FFFFFFFu) : 0;
      const int32_t minimum = g < format.groups && format.has_minimum ? (int32_t)(float_to_bits(group.minimum[g]) & 0x7FFFFFFFu) : 0;
      largest = scale > largest ? scale : largest;
      largest = minimum > largest ? minimum : largest;
    }
  }
  const int exponent = (largest >> 23) - 14; /* biased */
  return largest == 0 ? 1.0f : bits_to_float((uint32_t)(exponent < 1 ? 1 : exponent > 240 ? 240 : exponent) << 23);
}

static void put_group(uint8_t *unit, const GroupedFormat &format, const PackedGroup &group, int64_t lane, float inverse) {
  for (int i = 0; i < kGroupedUnit; i++) {
    const int word = i / 4, number = group.numbers[i];
    if (format.bits == 8) {
      unit[(word * kPanelRows + lane) * 4 + i % 4] = (uint8_t)number;
      continue;
    }
    uint8_t *byte = unit + (word % 4 * kPanelRows + lane) * 4 + i % 4;
    *byte = (uint8_t)(word < 4 ? (*byte & 0xF0) | (number & 15) : (*byte & 15) | (number & 15) << 4);
    for (int plane = 0; plane < format.planes(); plane++) {
      uint8_t *bits = unit + format.number_bytes() + ((plane * 8 + word) * 2 + lane / 16) * 8 + (lane % 16 * 4 + i % 4) / 8;
      const int at = (lane % 16 * 4 + i % 4) % 8;
      *bits = (uint8_t)((*bits & ~(1 << at)) | ((number >> (4 + plane)) & 1) << at);
    }
  }
  for (int g = 0; g < format.groups; g++) {
    const uint16_t scale = narrow_f16(group.scale[g] * inverse), minimum = narrow_f16(group.minimum[g] * inverse);
    memcpy(unit + format.scale_offset() + (g * kPanelRows + lane) * 2, &scale, 2);
    if (format.has_minimum) memcpy(unit + format.minimum_offset() + (g * kPanelRows + lane) * 2, &minimum, 2);
  }
}

static void pack_grouped_panel(const PackJob &job, int32_t panel_index, int32_t code, int64_t begin, int64_t end) {
  const GroupedFormat format = grouped_format(code);
  const PdWeight *weight = job.weight;
  const bool takes = job.source.matrix.data != nullptr && takes_numbers(code, job.source.matrix);
  uint8_t *panel = weight->panel(job.index, panel_index);
  for (int64_t row = begin; row < end; row++) {
    const int64_t lane = row - (int64_t)panel_index * kPanelRows, from = row - job.first_row;
    const float factor = row_factor(format, takes, job, from), inverse = 1.0f / factor;
    weight->scales[job.index * weight->padded_rows() + row] = factor;
    for (int64_t first = 0; first < weight->k; first += kGroupedUnit) {
      PackedGroup group;
      group_of_row(&group, format, takes, job, from, first, nullptr);
      if (!takes) { /* again, by the scales as they are stored */
        float stored[2];
        for (int g = 0; g < format.groups; g++) stored[g] = f16_to_float(narrow_f16(group.scale[g] * inverse)) * factor;
        group_of_row(&group, format, takes, job, from, first, stored);
      }
      put_group(panel + first / kGroupedUnit * format.unit_bytes(), format, group, lane, inverse);
    }
  }
}

// ---- all formats

static void pack_panel(const PackJob &job, int32_t panel_index) {
  PdWeight *weight = job.weight;
  const int64_t panel_row = (int64_t)panel_index * kPanelRows, k = weight->k;
  const int64_t begin = job.first_row > panel_row ? job.first_row : panel_row;
  const int64_t job_end = (int64_t)job.first_row + job.row_count, end = job_end < panel_row + kPanelRows ? job_end : panel_row + kPanelRows;
  const int32_t format = weight->parts[weight->part_of(panel_index)].format;
  if (is_grouped(format)) return pack_grouped_panel(job, panel_index, format, begin, end);
  float inverses[kPanelRows] = {};
  int32_t sums[kPanelRows] = {};
  const int64_t scale_row = job.index * weight->padded_rows();
  for (int64_t row = begin; row < end && weight->format == PD_I8; row++) {
    const float largest = largest_of(job, row - job.first_row);
    weight->scales[scale_row + row] = largest / 127.0f;
    inverses[row - panel_row] = largest == 0.0f ? 0.0f : 127.0f / largest;
  }
  uint8_t *panel = weight->panel(job.index, panel_index);
  uint32_t words[kStretch];
  for (int64_t first = 0; first < k; first += kStretch) {
    const int count = k - first < kStretch ? (int)(k - first) : kStretch;
    const int word_count = (count + weight->unit_elements - 1) / weight->unit_elements;
    for (int64_t row = begin; row < end; row++) {
      const int64_t lane = row - panel_row;
      sums[lane] += round_words(words, job, row - job.first_row, first, count, inverses[lane]);
      uint32_t *target = (uint32_t *)(panel + first / weight->unit_elements * kPanelUnitBytes) + lane;
      for (int w = 0; w < word_count; w++) target[w * kPanelRows] = words[w];
    }
  }
  for (int64_t row = begin; row < end && weight->format == PD_I8; row++) weight->offsets[scale_row + row] = -128 * sums[row - panel_row];
}

#else

namespace pd {

bool takes_numbers(int32_t code, const PdMatrix &matrix) {
  const GroupedFormat format = grouped_format(code);
  const int32_t encoding = matrix.encoding;
  if (is_plain_encoding(encoding) || encoding == PD_FP8_E4M3 || matrix.groups != nullptr) return false;
  const bool is_iq4 = encoding == PD_IQ4_NL || encoding == PD_IQ4_XS, is_e2m1 = encoding == PD_MXFP4 || encoding == PD_E2M1;
  if (is_iq4 || is_e2m1 || format.table != 0) return format.table == (is_iq4 ? PD_GROUPED_IQ4 : is_e2m1 ? PD_GROUPED_E2M1 : -1);
  const bool is_byte = encoding == PD_I8 || encoding == PD_U8 || encoding == PD_Q8_0;
  const int bits = is_byte ? 8 : encoding == PD_Q6_K ? 6 : encoding == PD_Q5_0 || encoding == PD_Q5_1 || encoding == PD_Q5_K ? 5 : 4;
  const bool has_16 = encoding == PD_Q2_K || encoding == PD_Q3_K || encoding == PD_Q6_K ||
                      (!is_block_encoding(encoding) && matrix.group_count > 1 && matrix.group_columns % kGroupedUnit != 0);
  const bool has_minimum = encoding == PD_Q2_K || encoding == PD_Q4_1 || encoding == PD_Q5_1 || encoding == PD_Q4_K || encoding == PD_Q5_K;
  if (encoding == PD_I8 && format.has_minimum) return false; /* its numbers are signed */
  return bits <= format.bits && (!has_16 || format.groups == 2) && (!has_minimum || format.has_minimum);
}

PackPanel pack_panel_for(const IsaLevel &isa) { return PD_PICK(isa, pack_panel); }

}  // namespace pd
#endif
