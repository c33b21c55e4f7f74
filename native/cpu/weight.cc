/* pd_weight_*: makes, fills and frees packed weights (layout: weight.h). Filling may come in any row ranges, one shard at a time, so
   that q, k, v or gate and up end up as one matrix. Panels are packed on all threads (weight_pack.cc). */
#include "weight.h"
#include <new>
#include "grouped.h"
#include "runtime.h"
#include "weight_pack.h"

namespace pd {
namespace {

constexpr int32_t kMaxInt8K = 131072; /* 127 * 127 * k must fit 31 bits */

int unit_elements_of(int32_t format) { return is_grouped(format) ? kGroupedUnit : format == PD_F32 ? 1 : format == PD_BF16 ? 2 : 4; }
int unit_bytes_of(int32_t format) { return is_grouped(format) ? grouped_format(format).unit_bytes() : kPanelUnitBytes; }

void pack(Pool &pool, PackPanel pack_panel, const PackJob &job) {
  const int64_t first = job.first_row / kPanelRows, last = (static_cast<int64_t>(job.first_row) + job.row_count - 1) / kPanelRows;
  if (job.row_count == 0) return;
  pool.parallel_for(last - first + 1, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; panel++) pack_panel(job, static_cast<int32_t>(first + panel));
  });
}

}  // namespace
}  // namespace pd

using namespace pd;

extern "C" {

int pd_weight_create(PdDevice *device, int32_t count, int32_t k, const PdWeightPart *parts, int32_t part_count, PdWeight **weight) {
  if (part_count < 1 || part_count > kPartsMax) return fail(PD_INVALID, "weight: %d parts (1 to %d)", part_count, kPartsMax);
  const int32_t format = parts[0].format;
  int64_t n = 0;
  for (int32_t i = 0; i < part_count; i++) {
    const int32_t each = parts[i].format;
    if (each != PD_F32 && each != PD_BF16 && each != PD_I8 && !has_grouped_kernel(each))
      return fail(PD_UNSUPPORTED, "weight: format %d is not supported on the cpu (float32, bfloat16, int8 and grouped ones are)", each);
    if (part_count > 1 && !is_grouped(each)) return fail(PD_UNSUPPORTED, "weight: parts of format %d", each);
    if (parts[i].rows < 1 || (i + 1 < part_count && parts[i].rows % kPanelRows != 0)) return fail(PD_INVALID, "weight: part of %d rows", parts[i].rows);
    n += parts[i].rows;
  }
  if (count < 1 || n > INT32_MAX || k < 1)
    return fail(PD_INVALID, "weight: count %d, n %lld, k %d must be positive", count, static_cast<long long>(n), k);
  if (format == PD_I8 && k > kMaxInt8K) return fail(PD_UNSUPPORTED, "weight: k %d is too long for int8 (at most %d)", k, kMaxInt8K);
  PdWeight *made = new (std::nothrow) PdWeight();
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "weight: out of memory");
  made->device = device;
  made->count = count;
  made->n = static_cast<int32_t>(n);
  made->k = k;
  made->format = format;
  made->panel_count = static_cast<int32_t>((n + kPanelRows - 1) / kPanelRows);
  made->unit_elements = unit_elements_of(format);
  made->unit_count = (k + made->unit_elements - 1) / made->unit_elements;
  made->part_count = part_count;
  int32_t panel = 0;
  for (int32_t i = 0; i < part_count; i++) {
    const int32_t panels = (parts[i].rows + kPanelRows - 1) / kPanelRows, unit_bytes = unit_bytes_of(parts[i].format);
    made->parts[i] = {panel, parts[i].format, unit_bytes, made->matrix_bytes};
    made->matrix_bytes += static_cast<uint64_t>(panels) * made->unit_count * unit_bytes;
    panel += panels;
  }
  const uint64_t data_bytes = (count * made->matrix_bytes + 63) / 64 * 64, row_bytes = static_cast<uint64_t>(count) * made->padded_rows() * 4;
  const bool has_scales = format == PD_I8 || is_grouped(format), has_offsets = format == PD_I8;
  made->bytes = data_bytes + (has_scales ? row_bytes : 0) + (has_offsets ? row_bytes : 0);
  void *memory = nullptr;
  int status = pd_alloc(device, made->bytes, &memory);
  if (status != PD_OK) {
    delete made;
    return status;
  }
  made->data = static_cast<uint8_t *>(memory);
  if (has_scales) made->scales = reinterpret_cast<float *>(made->data + data_bytes);
  if (has_offsets) made->offsets = reinterpret_cast<int32_t *>(made->data + data_bytes + row_bytes);
  *weight = made;
  return PD_OK;
}

int pd_weight_fill(PdStream *stream, PdWeight *weight, int32_t index, int32_t first_row, int32_t row_count, const PdMatrix *source) {
  if (index < 0 || index >= weight->count || first_row < 0 || row_count < 0 || row_count > weight->n - first_row)
    return fail(PD_INVALID, "weight_fill: rows %d + %d of matrix %d do not fit a stack of %d with %d rows", first_row, row_count, index,
                weight->count, weight->n);
  if (const char *fault = matrix_fault(*source, row_count, weight->k))
    return fail(PD_INVALID, "weight_fill: encoding %d, k %d: wrong %s", source->encoding, weight->k, fault);
  for (int32_t i = 0; i < weight->part_count; i++)
    if (is_grouped(weight->parts[i].format) && grouped_format(weight->parts[i].format).table != 0 && !takes_numbers(weight->parts[i].format, *source))
      return fail(PD_UNSUPPORTED, "weight_fill: format %d from encoding %d", weight->parts[i].format, source->encoding);
  const PackPanel pack_panel = pack_panel_for(isa_of(stream));
  const PackJob job = {weight, {*source, 0, 0.0f}, index, first_row, row_count};
  return enqueue(stream, [pack_panel, job](Pool &pool) { pack(pool, pack_panel, job); });
}

int pd_weight_fill_random(PdStream *stream, PdWeight *weight, uint64_t seed, float standard_deviation) {
  const PackPanel pack_panel = pack_panel_for(isa_of(stream));
  return enqueue(stream, [=](Pool &pool) {
    for (int32_t index = 0; index < weight->count; index++)
      pack(pool, pack_panel, {weight, {PdMatrix{}, seed, standard_deviation}, index, 0, weight->n});
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
