/* pd_weight_*: makes, fills and frees weight matrices. Rows come from mmapped files: straight copies when the dtype fits, else staged and
   converted on the GPU. Twin: ../cpu/weight.cc (the random numbers are the same). */
#include "weight.h"
#include <new>
#include "convert.cuh"
#include "random.cuh"

namespace pd {
namespace {

// ---- kernels

template <typename T>
__global__ void weight_random_kernel(T *data, uint64_t rows, int k, uint64_t seed, float unit) {
  grid_wait();
  for (uint64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    uint64_t key = mix_bits(seed ^ mix_bits(row + 0x632BE59BD9B4E019ull));
    for (int i = threadIdx.x; i < k; i += blockDim.x)
      data[row * k + i] = from_float<T>(near_normal(mix_bits(key + (uint64_t)i * 0x9E3779B97F4A7C15ull), unit));
  }
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_weight_create(PdDevice *device, int32_t count, int32_t n, int32_t k, int32_t format, PdWeight **weight) {
  if (int status = enter(device)) return status;
  if (format != PD_F32 && format != PD_BF16 && format != PD_F16)
    return fail(PD_UNSUPPORTED, "weight: format %s is not supported on cuda (f32, bf16 and f16 are)", dtype_name(format));
  if (count < 1 || n < 1 || k < 1) return fail(PD_INVALID, "weight: count %d, n %d, k %d must be positive", count, n, k);
  PdWeight *made = new (std::nothrow) PdWeight{device, count, n, k, format, (uint64_t)count * n * k * dtype_bytes(format), nullptr};
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "weight: out of host memory");
  if (int status = allocate(device, made->bytes, (void **)&made->data)) {
    delete made;
    return status;
  }
  *weight = made;
  return PD_OK;
}

extern "C" int pd_weight_fill(PdStream *stream, PdWeight *weight, int32_t index, int32_t first_row, int32_t row_count, const void *source,
                              int32_t source_dtype, uint64_t source_row_stride) {
  if (int status = enter(stream->device)) return status;
  if (source_dtype != PD_F32 && source_dtype != PD_BF16 && source_dtype != PD_F16)
    return fail(PD_UNSUPPORTED, "weight_fill: source dtype %s is not f32, bf16 or f16", dtype_name(source_dtype));
  if (index < 0 || index >= weight->count || first_row < 0 || row_count < 0 || row_count > weight->n - first_row)
    return fail(PD_INVALID, "weight_fill: rows %d + %d of matrix %d do not fit a stack of %d with %d rows", first_row, row_count, index,
                weight->count, weight->n);
  if (row_count > 1 && source_row_stride < (uint64_t)weight->k)
    return fail(PD_INVALID, "weight_fill: row stride %llu is below k %d", (unsigned long long)source_row_stride, weight->k);
  const size_t source_bytes = dtype_bytes(source_dtype), format_bytes = dtype_bytes(weight->format);
  const uint64_t k = weight->k;
  uint8_t *target = weight->data + ((uint64_t)index * weight->n + first_row) * k * format_bytes;
  if (row_count == 0) return PD_OK;
  if (source_dtype == weight->format) {
    if (source_row_stride == k || row_count == 1) return pd_copy(stream, target, source, row_count * k * format_bytes);
    return check(cudaMemcpy2DAsync(target, k * format_bytes, source, source_row_stride * source_bytes, k * format_bytes, row_count,
                                   cudaMemcpyDefault, stream->cuda), "weight_fill");
  }
  void *staging = nullptr;
  if (int status = scratch(stream, Scratch::kConvert, kConvertPieceBytes, &staging)) return status;
  const uint64_t rows_per_piece = kConvertPieceBytes / (k * source_bytes);
  if (rows_per_piece == 0) return fail(PD_UNSUPPORTED, "weight_fill: a row of k %d does not fit the staging buffer", weight->k);
  for (uint64_t row = 0; row < (uint64_t)row_count; row += rows_per_piece) {
    const uint64_t rows = row_count - row < rows_per_piece ? row_count - row : rows_per_piece;
    if (int status = check(cudaMemcpy2DAsync(staging, k * source_bytes, (const char *)source + row * source_row_stride * source_bytes,
                                             source_row_stride * source_bytes, k * source_bytes, rows, cudaMemcpyDefault, stream->cuda),
                           "weight_fill"))
      return status;
    if (int status = convert_rows(stream, target + row * k * format_bytes, weight->format, k, staging, source_dtype, k, rows, k)) return status;
  }
  return PD_OK;
}

extern "C" int pd_weight_fill_random(PdStream *stream, PdWeight *weight, uint64_t seed, float standard_deviation) {
  if (int status = enter(stream->device)) return status;
  const uint64_t rows = (uint64_t)weight->count * weight->n;
  const unsigned grid = rows < 65536 ? (unsigned)rows : 65536;
  return with_dtype("weight_fill_random", weight->format, [&](auto zero) {
    using T = decltype(zero);
    return launch(stream, "weight_fill_random", weight_random_kernel<T>, grid, 256, 0, (T *)weight->data, rows, (int)weight->k, seed,
                  standard_deviation * 1.7320508f / 65536.0f);
  });
}

extern "C" int pd_weight_bytes(PdWeight *weight, uint64_t *bytes) {
  *bytes = weight->bytes;
  return PD_OK;
}

extern "C" int pd_weight_destroy(PdWeight *weight) {
  if (weight == nullptr) return PD_OK;
  int status = pd_free(weight->device, weight->data);
  delete weight;
  return status;
}
