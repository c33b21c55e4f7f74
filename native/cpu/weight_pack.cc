/* Packs rows into a panel: a stretch of k at a time, so that the piece of the panel that all 32 rows write to stays in L1. Every
   instruction set gives the same bits. The layout is in weight.h. */
#include "weight_pack.h"
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

static void pack_panel(const PackJob &job, int32_t panel_index) {
  PdWeight *weight = job.weight;
  const int64_t panel_row = (int64_t)panel_index * kPanelRows, k = weight->k;
  const int64_t begin = job.first_row > panel_row ? job.first_row : panel_row;
  const int64_t job_end = (int64_t)job.first_row + job.row_count, end = job_end < panel_row + kPanelRows ? job_end : panel_row + kPanelRows;
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

PackPanel pack_panel_for(const IsaLevel &isa) { return PD_PICK(isa, pack_panel); }

}  // namespace pd
#endif
