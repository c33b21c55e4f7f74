/* pd_weight_*: makes, fills and frees packed weights (layout: weight.h). Filling may come in any row ranges, one shard at a time, so
   that q, k, v or gate and up end up as one matrix. Rows are converted to float32, then rounded to the format, on all threads. */
#include "weight.h"
#include <algorithm>
#include <cmath>
#include <new>
#include "half.h"
#include "runtime.h"

namespace pd {
namespace {

constexpr int64_t kMaxInt8K = 131072; /* 127 * 127 * k must fit 31 bits */

int unit_elements_of(int32_t format) { return format == PD_F32 ? 1 : format == PD_BF16 ? 2 : 4; }

/* row[k] = source row as float32 */
void read_row(float *row, const void *source, int32_t dtype, uint64_t first, int64_t k) {
  if (dtype == PD_F32) {
    std::memcpy(row, static_cast<const float *>(source) + first, static_cast<size_t>(k) * sizeof(float));
    return;
  }
  const uint16_t *half = static_cast<const uint16_t *>(source) + first;
  if (dtype == PD_BF16) for (int64_t i = 0; i < k; i++) row[i] = bf16_to_float(half[i]);
  else for (int64_t i = 0; i < k; i++) row[i] = f16_to_float(half[i]);
}

void put_f32(uint8_t *target, const float *row, int64_t k) {
  for (int64_t i = 0; i < k; i++) std::memcpy(target + i * kPanelUnitBytes, &row[i], 4);
}

void put_bf16(uint8_t *target, const float *row, int64_t k) {
  for (int64_t i = 0; i < k; i += 2) {
    uint32_t pair = float_to_bf16(row[i]);
    if (i + 1 < k) pair |= static_cast<uint32_t>(float_to_bf16(row[i + 1])) << 16;
    std::memcpy(target + i / 2 * kPanelUnitBytes, &pair, 4);
  }
}

/* Symmetric: scale = max |w| / 127. Returns the sum of the int8 values. */
int32_t put_i8(uint8_t *target, const float *row, int64_t k, float *scale) {
  float largest = 0.0f;
  for (int64_t i = 0; i < k; i++) largest = std::max(largest, std::fabs(row[i]));
  *scale = largest / 127.0f;
  float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  int32_t sum = 0;
  for (int64_t i = 0; i < k; i += 4) {
    int8_t unit[4] = {0, 0, 0, 0};
    for (int64_t j = 0; j < std::min<int64_t>(4, k - i); j++) {
      float rounded = std::nearbyintf(row[i + j] * inverse);
      unit[j] = static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, rounded)));
      sum += unit[j];
    }
    std::memcpy(target + i / 4 * kPanelUnitBytes, unit, 4);
  }
  return sum;
}

void put_row(PdWeight *weight, int32_t index, int64_t row_index, const float *row) {
  int64_t panel = row_index / kPanelRows, lane = row_index % kPanelRows;
  uint8_t *target = weight->panel(index, static_cast<int32_t>(panel)) + lane * kUnitBytes;
  if (weight->format == PD_F32) return put_f32(target, row, weight->k);
  if (weight->format == PD_BF16) return put_bf16(target, row, weight->k);
  int64_t at = index * weight->padded_rows() + row_index;
  weight->offsets[at] = -128 * put_i8(target, row, weight->k, &weight->scales[at]);
}

uint64_t mix(uint64_t z) { /* splitmix64's finaliser */
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

/* Near-normal: the sum of four uniform 16-bit draws has variance 4 / 12 around its mean. A pure function of (key, k). */
void random_row(float *row, int64_t k, uint64_t key, float standard_deviation) {
  const float unit = standard_deviation * 1.7320508f / 65536.0f;
  for (int64_t i = 0; i < k; i++) {
    uint64_t draw = mix(key + static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ull);
    int32_t sum = static_cast<int32_t>((draw & 0xFFFF) + ((draw >> 16) & 0xFFFF) + ((draw >> 32) & 0xFFFF) + (draw >> 48));
    row[i] = static_cast<float>(sum - 131070) * unit;
  }
}

int64_t rows_per_piece(const PdWeight *weight) { /* whole panels, about 256 KiB of float32 */
  int64_t rows = (1 << 16) / std::max(1, weight->k);
  return std::max<int64_t>(1, rows / kPanelRows) * kPanelRows;
}

}  // namespace
}  // namespace pd

using namespace pd;

extern "C" {

int pd_weight_create(PdDevice *device, int32_t count, int32_t n, int32_t k, int32_t format, PdWeight **weight) {
  if (format != PD_F32 && format != PD_BF16 && format != PD_I8)
    return fail(PD_UNSUPPORTED, "weight: format %d is not supported on the cpu (float32, bfloat16 and int8 are)", format);
  if (count < 1 || n < 1 || k < 1) return fail(PD_INVALID, "weight: count %d, n %d, k %d must be positive", count, n, k);
  if (format == PD_I8 && k > kMaxInt8K) return fail(PD_UNSUPPORTED, "weight: k %d is too long for int8 (at most %lld)", k, static_cast<long long>(kMaxInt8K));
  PdWeight *made = new (std::nothrow) PdWeight();
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "weight: out of memory");
  *made = PdWeight{device, count, n, k, format, (n + kPanelRows - 1) / kPanelRows, unit_elements_of(format), 0, 0, nullptr, nullptr, nullptr};
  made->unit_count = (k + made->unit_elements - 1) / made->unit_elements;
  uint64_t data_bytes = static_cast<uint64_t>(count) * made->panel_count * made->panel_bytes();
  uint64_t row_bytes = format == PD_I8 ? static_cast<uint64_t>(count) * made->padded_rows() * 4 : 0;
  made->bytes = data_bytes + 2 * row_bytes;
  void *memory = nullptr;
  int status = pd_alloc(device, made->bytes, &memory);
  if (status != PD_OK) {
    delete made;
    return status;
  }
  made->data = static_cast<uint8_t *>(memory);
  if (format == PD_I8) {
    made->scales = reinterpret_cast<float *>(made->data + data_bytes);
    made->offsets = reinterpret_cast<int32_t *>(made->data + data_bytes + row_bytes);
  }
  *weight = made;
  return PD_OK;
}

int pd_weight_fill(PdStream *stream, PdWeight *weight, int32_t index, int32_t first_row, int32_t row_count, const void *source,
                   int32_t source_dtype, uint64_t source_row_stride) {
  if (source_dtype != PD_F32 && source_dtype != PD_BF16 && source_dtype != PD_F16)
    return fail(PD_UNSUPPORTED, "weight_fill: source dtype %d is not float32, bfloat16 or float16", source_dtype);
  if (index < 0 || index >= weight->count || first_row < 0 || row_count < 0 || row_count > weight->n - first_row)
    return fail(PD_INVALID, "weight_fill: rows %d + %d of matrix %d do not fit a stack of %d with %d rows", first_row, row_count, index,
                weight->count, weight->n);
  if (row_count > 1 && source_row_stride < static_cast<uint64_t>(weight->k))
    return fail(PD_INVALID, "weight_fill: row stride %llu is below k %d", static_cast<unsigned long long>(source_row_stride), weight->k);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for(row_count, rows_per_piece(weight), [&](int64_t begin, int64_t end, int thread) {
      float *row = static_cast<float *>(pool.scratch(thread, static_cast<size_t>(weight->k) * sizeof(float)));
      for (int64_t r = begin; r < end; r++) {
        read_row(row, source, source_dtype, static_cast<uint64_t>(r) * source_row_stride, weight->k);
        put_row(weight, index, first_row + r, row);
      }
    });
  });
}

int pd_weight_fill_random(PdStream *stream, PdWeight *weight, uint64_t seed, float standard_deviation) {
  return enqueue(stream, [=](Pool &pool) {
    int64_t rows = static_cast<int64_t>(weight->count) * weight->n;
    pool.parallel_for(rows, rows_per_piece(weight), [&](int64_t begin, int64_t end, int thread) {
      float *row = static_cast<float *>(pool.scratch(thread, static_cast<size_t>(weight->k) * sizeof(float)));
      for (int64_t r = begin; r < end; r++) {
        uint64_t key = mix(seed ^ mix(static_cast<uint64_t>(r) + 0x632BE59BD9B4E019ull));
        random_row(row, weight->k, key, standard_deviation);
        put_row(weight, static_cast<int32_t>(r / weight->n), r % weight->n, row);
      }
    });
  });
}

int pd_weight_bytes(PdWeight *weight, uint64_t *bytes) {
  *bytes = weight->bytes;
  return PD_OK;
}

int pd_weight_destroy(PdWeight *weight) {
  if (weight == nullptr) return PD_OK;
  int status = pd_free(weight->device, weight->data);
  delete weight;
  return status;
}

}  // extern "C"
