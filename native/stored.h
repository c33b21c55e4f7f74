/* What the numbers of a PdMatrix mean: the one definition of every quantised format, for both backends. Used by cpu/weight_pack.cc and
   cpu/stored.cc (rows), cuda/stored.cu (a thread per 32 columns).

   32 columns of a row at a time: small numbers, and for each 16 of them a scale, a zero and a minimum:

     value = scale * (meaning(number) - zero) - minimum

   Blocks of 32 or 256 columns are ggml's; k is a multiple of theirs. Every product here is exact in float32, so values are those of the
   formats' own definitions to the bit. */
#pragma once
#include "cpu/fp8.h"
#include "cpu/half.h"
#include "pd.h"

namespace pd {

constexpr int kGroup = 32;

struct StoredGroup {
  uint8_t numbers[kGroup];
  float scale[2], zero[2], minimum[2];
};

PD_HD inline bool is_block_encoding(int32_t encoding) { return encoding >= PD_GGML; }
PD_HD inline bool is_plain_encoding(int32_t encoding) { return encoding == PD_F32 || encoding == PD_BF16 || encoding == PD_F16; }

/* Columns and bytes of a block; 0: no such encoding. */
PD_HD inline int block_columns(int32_t encoding) {
  switch (encoding) {
    case PD_Q4_0: case PD_Q4_1: case PD_Q5_0: case PD_Q5_1: case PD_Q8_0: case PD_IQ4_NL: case PD_MXFP4: return 32;
    case PD_Q2_K: case PD_Q3_K: case PD_Q4_K: case PD_Q5_K: case PD_Q6_K: case PD_IQ4_XS: return 256;
    default: return 0;
  }
}

PD_HD inline int block_bytes(int32_t encoding) {
  switch (encoding) {
    case PD_Q4_0: case PD_IQ4_NL: return 18;
    case PD_Q4_1: return 20;
    case PD_Q5_0: return 22;
    case PD_Q5_1: return 24;
    case PD_Q8_0: return 34;
    case PD_Q2_K: return 84;
    case PD_Q3_K: return 110;
    case PD_Q4_K: return 144;
    case PD_Q5_K: return 176;
    case PD_Q6_K: return 210;
    case PD_IQ4_XS: return 136;
    case PD_MXFP4: return 17;
    default: return 0;
  }
}

/* 4-bit numbers that stand for others: IQ4's, and MXFP4's doubled. */
PD_HD inline int iq4_value(int number) {
  const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  return values[number];
}
PD_HD inline int e2m1_doubled(int number) {
  const int8_t values[8] = {0, 1, 2, 3, 4, 6, 8, 12};
  return number & 8 ? -values[number & 7] : values[number & 7];
}

PD_HD inline float meaning(int32_t encoding, uint8_t number) {
  switch (encoding) {
    case PD_IQ4_NL: case PD_IQ4_XS: return (float)iq4_value(number);
    case PD_MXFP4: return (float)e2m1_doubled(number);
    case PD_E2M1: return 0.5f * (float)e2m1_doubled(number);
    case PD_I8: return (float)(int8_t)number;
    case PD_FP8_E4M3: return e4m3_to_float(number);
    default: return (float)number;
  }
}

PD_HD inline float half_at(const uint8_t *p) { return f16_to_float((uint16_t)(p[0] | p[1] << 8)); }

/* The row of the file that is row `row` of the matrix. */
PD_HD inline int64_t stored_row(const PdMatrix &matrix, int64_t row) {
  const int64_t size = matrix.paired_rows;
  if (size == 0) return row;
  const int64_t within = row % size, half = size / 2;
  return row - within + (within % half) * 2 + within / half;
}

// ---- ggml's blocks

PD_HD inline void low_nibbles_first(uint8_t *numbers, const uint8_t *packed) { /* 16 bytes: columns 0..15 below, 16..31 above */
  for (int i = 0; i < 16; i++) {
    numbers[i] = packed[i] & 15;
    numbers[i + 16] = packed[i] >> 4;
  }
}

PD_HD inline void fifth_bits(uint8_t *numbers, const uint8_t *bits) {
  for (int i = 0; i < 32; i++) numbers[i] = (uint8_t)(numbers[i] | ((bits[i / 8] >> (i % 8)) & 1) << 4);
}

/* Q4_K, Q5_K: eight 6-bit scales and minima in 12 bytes. */
PD_HD inline void six_bit_pair(const uint8_t *packed, int j, int *scale, int *minimum) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *minimum = packed[j + 4] & 63;
  } else {
    *scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
    *minimum = packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
  }
}

PD_HD inline void both(float *pair, float value) { pair[0] = pair[1] = value; }

/* Columns 32 * part on of one block. */
PD_HD inline void read_block(int32_t encoding, const uint8_t *block, int part, StoredGroup *out) {
  both(out->zero, 0.0f);
  both(out->minimum, 0.0f);
  switch (encoding) {
    case PD_Q4_0:
    case PD_Q4_1:
    case PD_IQ4_NL: {
      const int header = encoding == PD_Q4_1 ? 4 : 2;
      low_nibbles_first(out->numbers, block + header);
      both(out->scale, half_at(block));
      if (encoding == PD_Q4_0) both(out->zero, 8.0f);
      if (encoding == PD_Q4_1) both(out->minimum, -half_at(block + 2));
      return;
    }
    case PD_Q5_0:
    case PD_Q5_1: {
      const int header = encoding == PD_Q5_1 ? 4 : 2;
      low_nibbles_first(out->numbers, block + header + 4);
      fifth_bits(out->numbers, block + header);
      both(out->scale, half_at(block));
      if (encoding == PD_Q5_0) both(out->zero, 16.0f);
      else both(out->minimum, -half_at(block + 2));
      return;
    }
    case PD_Q8_0:
      for (int i = 0; i < 32; i++) out->numbers[i] = block[2 + i] ^ 0x80;
      both(out->scale, half_at(block));
      both(out->zero, 128.0f);
      return;
    case PD_MXFP4:
      low_nibbles_first(out->numbers, block + 1);
      both(out->scale, block[0] < 2 ? bits_to_float(0x00200000u << block[0]) : bits_to_float((uint32_t)(block[0] - 1) << 23)); /* 2^(e - 128) */
      return;
    case PD_Q2_K: { /* scales[16], qs[64], d, dmin */
      const float d = half_at(block + 80), dmin = half_at(block + 82);
      const uint8_t *packed = block + 16 + part / 4 * 32;
      for (int i = 0; i < 32; i++) out->numbers[i] = (packed[i] >> (part % 4 * 2)) & 3;
      for (int h = 0; h < 2; h++) {
        const uint8_t both_of = block[part * 2 + h];
        out->scale[h] = d * (float)(both_of & 15);
        out->minimum[h] = dmin * (float)(both_of >> 4);
      }
      return;
    }
    case PD_Q3_K: { /* hmask[32], qs[64], scales[12], d */
      const float d = half_at(block + 108);
      const uint8_t *packed = block + 32 + part / 4 * 32, *scales = block + 96;
      for (int i = 0; i < 32; i++)
        out->numbers[i] = (uint8_t)(((packed[i] >> (part % 4 * 2)) & 3) | ((block[i] >> part) & 1) << 2);
      for (int h = 0; h < 2; h++) {
        const int j = part * 2 + h, low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4, high = (scales[8 + j % 4] >> (j / 4 * 2)) & 3;
        out->scale[h] = d * (float)((low | high << 4) - 32);
      }
      both(out->zero, 4.0f);
      return;
    }
    case PD_Q4_K:
    case PD_Q5_K: { /* d, dmin, scales[12], (high bits[32]), qs[128] */
      int scale, minimum;
      six_bit_pair(block + 4, part, &scale, &minimum);
      const uint8_t *packed = block + (encoding == PD_Q4_K ? 16 : 48) + part / 2 * 32;
      for (int i = 0; i < 32; i++) out->numbers[i] = part % 2 == 0 ? packed[i] & 15 : packed[i] >> 4;
      if (encoding == PD_Q5_K)
        for (int i = 0; i < 32; i++) out->numbers[i] = (uint8_t)(out->numbers[i] | ((block[16 + i] >> part) & 1) << 4);
      both(out->scale, half_at(block) * (float)scale);
      both(out->minimum, half_at(block + 2) * (float)minimum);
      return;
    }
    case PD_Q6_K: { /* low nibbles[128], high pairs[64], int8 scales[16], d */
      const float d = half_at(block + 208);
      const uint8_t *low = block + part / 4 * 64 + part % 2 * 32, *high = block + 128 + part / 4 * 32;
      const int low_shift = part % 4 / 2 * 4, high_shift = part % 4 * 2;
      for (int i = 0; i < 32; i++) out->numbers[i] = (uint8_t)(((low[i] >> low_shift) & 15) | ((high[i] >> high_shift) & 3) << 4);
      for (int h = 0; h < 2; h++) out->scale[h] = d * (float)(int8_t)block[192 + part * 2 + h];
      both(out->zero, 32.0f);
      return;
    }
    case PD_IQ4_XS: { /* d, high pairs of scales, low nibbles of scales[4], qs[128] */
      const int high = ((block[2] | block[3] << 8) >> (part * 2)) & 3, low = (block[4 + part / 2] >> (part % 2 * 4)) & 15;
      low_nibbles_first(out->numbers, block + 8 + part * 16);
      both(out->scale, half_at(block) * (float)((low | high << 4) - 32));
      return;
    }
    default:
      return;
  }
}

// ---- numbers with scales beside them

PD_HD inline uint8_t packed_number(const PdMatrix &matrix, int64_t row, int64_t column) {
  const int bits = matrix.encoding == PD_U8 ? 8 : 4, per_word = 32 / bits;
  const bool along_rows = matrix.word_rows > 1;
  int place = (int)((along_rows ? row : column) % per_word);
  if (matrix.is_interleaved) place = place / 2 + place % 2 * 4;
  const uint64_t at = (uint64_t)(along_rows ? row / per_word : row) * matrix.row_stride +
                      (uint64_t)(along_rows ? column : column / per_word) * matrix.column_stride;
  uint32_t word; /* files align to less */
  memcpy(&word, (const uint8_t *)matrix.data + at * 4, 4);
  return (uint8_t)(word >> (place * bits) & ((1u << bits) - 1));
}

PD_HD inline int64_t group_of(const PdMatrix &matrix, int64_t column) {
  return matrix.groups != nullptr ? matrix.groups[column] : column / matrix.group_columns;
}

/* `count` columns from `first`, a multiple of 32, on; not for plain encodings. With groups of their own, columns have no common scale:
   then scale, zero and minimum are not set. */
PD_HD inline void read_group(const PdMatrix &matrix, int64_t row, int64_t first, int count, StoredGroup *out) {
  const int64_t from = stored_row(matrix, row);
  if (is_block_encoding(matrix.encoding)) {
    const int columns = block_columns(matrix.encoding);
    const uint8_t *block = (const uint8_t *)matrix.data + (uint64_t)from * matrix.row_stride + (uint64_t)(first / columns) * block_bytes(matrix.encoding);
    return read_block(matrix.encoding, block, (int)(first % columns) / kGroup, out);
  }
  if (matrix.encoding == PD_I8 || matrix.encoding == PD_FP8_E4M3) {
    const uint8_t *bytes = (const uint8_t *)matrix.data + (uint64_t)from * matrix.row_stride + first;
    for (int i = 0; i < count; i++) out->numbers[i] = bytes[i];
  } else {
    for (int i = 0; i < count; i++) out->numbers[i] = packed_number(matrix, from, first + i);
  }
  if (matrix.groups != nullptr) return;
  for (int h = 0; h < 2; h++) {
    const int64_t at = from * matrix.group_count + group_of(matrix, first + (h * 16 < count ? h * 16 : 0));
    out->scale[h] = matrix.scales == nullptr ? 1.0f : matrix.scales[at];
    out->zero[h] = matrix.zeros == nullptr ? 0.0f : matrix.zeros[at];
    out->minimum[h] = 0.0f;
  }
}

PD_HD inline void read_values(const PdMatrix &matrix, int64_t row, int64_t first, int count, float *out) {
  StoredGroup group;
  read_group(matrix, row, first, count, &group);
  if (matrix.groups == nullptr) {
    for (int i = 0; i < count; i++)
      out[i] = group.scale[i / 16] * (meaning(matrix.encoding, group.numbers[i]) - group.zero[i / 16]) - group.minimum[i / 16];
    return;
  }
  for (int i = 0; i < count; i++) {
    const int64_t at = stored_row(matrix, row) * matrix.group_count + group_of(matrix, first + i);
    const float zero = matrix.zeros == nullptr ? 0.0f : matrix.zeros[at];
    out[i] = matrix.scales[at] * (meaning(matrix.encoding, group.numbers[i]) - zero);
  }
}

/* NULL, or what is wrong: all that a bad caller could make it read wildly. `groups` is the caller's to check. */
inline const char *matrix_fault(const PdMatrix &matrix, int64_t rows, int64_t k) {
  const int32_t encoding = matrix.encoding;
  if (rows == 0) return nullptr;
  if (matrix.paired_rows < 0 || matrix.paired_rows % 2 != 0 || (matrix.paired_rows > 0 && rows % matrix.paired_rows != 0)) return "paired rows";
  uint64_t needed = 0;
  const uint64_t last = (uint64_t)rows - 1;
  if (is_plain_encoding(encoding)) {
    needed = (last * matrix.row_stride + (uint64_t)k) * (encoding == PD_F32 ? 4 : 2);
    if (rows > 1 && matrix.row_stride < (uint64_t)k) return "row stride";
  } else if (is_block_encoding(encoding)) {
    const int columns = block_columns(encoding);
    if (columns == 0) return "encoding";
    if (k % columns != 0) return "k, no multiple of the block";
    const uint64_t row_bytes = (uint64_t)(k / columns) * block_bytes(encoding);
    if (rows > 1 && matrix.row_stride < row_bytes) return "row stride";
    needed = last * matrix.row_stride + row_bytes;
  } else {
    if (matrix.group_columns < 1 || matrix.group_count < 1) return "groups";
    if (matrix.group_count > 1 && matrix.group_columns % 16 != 0) return "group size";
    if (matrix.groups == nullptr && (k + matrix.group_columns - 1) / matrix.group_columns > matrix.group_count) return "group count";
    if (matrix.groups != nullptr && matrix.scales == nullptr) return "scales";
    if (encoding == PD_I8 || encoding == PD_FP8_E4M3) {
      if (rows > 1 && matrix.row_stride < (uint64_t)k) return "row stride";
      needed = last * matrix.row_stride + (uint64_t)k;
    } else if (encoding == PD_U4 || encoding == PD_U8 || encoding == PD_E2M1) {
      const int per_word = encoding == PD_U8 ? 4 : 8;
      const uint64_t words = matrix.word_rows > 1 ? last / per_word * matrix.row_stride + (uint64_t)(k - 1) * matrix.column_stride
                                                  : last * matrix.row_stride + (uint64_t)(k - 1) / per_word * matrix.column_stride;
      if (matrix.is_interleaved && per_word != 8) return "interleaving";
      needed = (words + 1) * 4;
    } else {
      return "encoding";
    }
  }
  return needed > matrix.data_bytes ? "data, too short" : nullptr;
}

}  // namespace pd
