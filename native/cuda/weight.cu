/* pd_weight_*: makes, fills and frees weight matrices. Rows come from mmapped files: straight copies when the dtype fits, else staged and
   converted on the GPU. Twin: ../cpu/weight.cc (the random numbers are the same). */
#include "weight.h"
#include <new>
#include "convert.cuh"
#include "gemm.h"
#include "random.cuh"
#include "stored.h"

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

/* The same numbers with a scale per row; they are drawn twice. */
__global__ void weight_random_fp8_kernel(fp8 *data, float *scales, uint64_t rows, int k, uint64_t seed, float unit) {
  __shared__ float parts[32];
  grid_wait();
  for (uint64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const uint64_t key = mix_bits(seed ^ mix_bits(row + 0x632BE59BD9B4E019ull));
    const auto draw = [&](int i) { return near_normal(mix_bits(key + (uint64_t)i * 0x9E3779B97F4A7C15ull), unit); };
    float largest = 0.0f;
    for (int i = threadIdx.x; i < k; i += blockDim.x) largest = fmaxf(largest, fabsf(draw(i)));
    const float scale = fp8_scale(block_max(largest, parts)), inverse = inverse_scale(scale);
    if (threadIdx.x == 0) scales[row] = scale;
    for (int i = threadIdx.x * 4; i < k; i += blockDim.x * 4)
      *(uint32_t *)(data + row * k + i) = pack_fp8(draw(i) * inverse, draw(i + 1) * inverse, draw(i + 2) * inverse, draw(i + 3) * inverse);
  }
}

constexpr int kFp8Step = 16; /* rows of fp8 begin at multiples of 16 bytes */

/* Rows that lie on the GPU become rows of the weight. */
int store_rows(PdStream *stream, const PdWeight *weight, uint64_t row_index, const void *source, int32_t source_dtype, uint64_t rows) {
  uint8_t *target = weight->data + row_index * weight->k * dtype_bytes(weight->format);
  if (weight->format == PD_FP8_E4M3)
    return quantise(stream, source_dtype, (fp8 *)target, weight->scales + row_index, source, (int)rows, weight->k);
  return convert_rows(stream, target, weight->format, weight->k, source, source_dtype, weight->k, rows, weight->k);
}

/* Rows that need no reading: straight copies when the dtype fits, else staged and converted. */
int fill_plain(PdStream *stream, const PdWeight *weight, uint64_t row_index, int32_t row_count, const PdMatrix &source) {
  const size_t source_bytes = dtype_bytes(source.encoding), format_bytes = dtype_bytes(weight->format);
  const uint64_t k = weight->k, stride = source.row_stride;
  uint8_t *target = weight->data + row_index * k * format_bytes;
  if (source.encoding == weight->format) {
    if (stride == k || row_count == 1) return pd_copy(stream, target, source.data, row_count * k * format_bytes);
    return check(cudaMemcpy2DAsync(target, k * format_bytes, source.data, stride * source_bytes, k * format_bytes, row_count, cudaMemcpyDefault,
                                   stream->cuda), "weight_fill");
  }
  void *staging = nullptr;
  if (int status = scratch(stream, Scratch::kConvert, kConvertPieceBytes, &staging)) return status;
  const uint64_t rows_per_piece = kConvertPieceBytes / (k * source_bytes);
  if (rows_per_piece == 0) return fail(PD_UNSUPPORTED, "weight_fill: a row of k %d does not fit the staging buffer", weight->k);
  for (uint64_t row = 0; row < (uint64_t)row_count; row += rows_per_piece) {
    const uint64_t rows = row_count - row < rows_per_piece ? row_count - row : rows_per_piece;
    if (int status = check(cudaMemcpy2DAsync(staging, k * source_bytes, (const char *)source.data + row * stride * source_bytes,
                                             stride * source_bytes, k * source_bytes, rows, cudaMemcpyDefault, stream->cuda),
                           "weight_fill"))
      return status;
    if (int status = store_rows(stream, weight, row_index + row, staging, source.encoding, rows)) return status;
  }
  return PD_OK;
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_weight_create(PdDevice *device, int32_t count, int32_t k, const PdWeightPart *parts, int32_t part_count, PdWeight **weight) {
  if (int status = enter(device)) return status;
  if (part_count != 1) return fail(PD_UNSUPPORTED, "weight: %d parts; a matrix has one format on cuda", part_count);
  const int32_t n = parts[0].rows, format = parts[0].format;
  const bool is_fp8 = format == PD_FP8_E4M3;
  if (format != PD_F32 && format != PD_BF16 && format != PD_F16 && !is_fp8)
    return fail(PD_UNSUPPORTED, "weight: format %s is not supported on cuda (f32, bf16, f16 and fp8 are)", dtype_name(format));
  if (count < 1 || n < 1 || k < 1) return fail(PD_INVALID, "weight: count %d, n %d, k %d must be positive", count, n, k);
  if (is_fp8 && k % kFp8Step != 0) return fail(PD_UNSUPPORTED, "weight: k %d is not a multiple of %d, as fp8 needs", k, kFp8Step);
  const uint64_t data_bytes = (uint64_t)count * n * k * dtype_bytes(format), scale_bytes = is_fp8 ? (uint64_t)count * n * sizeof(float) : 0;
  PdWeight *made = new (std::nothrow) PdWeight{device, count, n, k, format, data_bytes + scale_bytes, nullptr, nullptr};
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "weight: out of host memory");
  if (int status = allocate(device, made->bytes, (void **)&made->data)) {
    delete made;
    return status;
  }
  if (is_fp8) made->scales = (float *)(made->data + data_bytes);
  *weight = made;
  return PD_OK;
}

extern "C" int pd_weight_fill(PdStream *stream, PdWeight *weight, int32_t index, int32_t first_row, int32_t row_count, const PdMatrix *source) {
  if (int status = enter(stream->device)) return status;
  if (index < 0 || index >= weight->count || first_row < 0 || row_count < 0 || row_count > weight->n - first_row)
    return fail(PD_INVALID, "weight_fill: rows %d + %d of matrix %d do not fit a stack of %d with %d rows", first_row, row_count, index,
                weight->count, weight->n);
  if (const char *fault = fault_of(*source, row_count, weight->k))
    return fail(PD_INVALID, "weight_fill: encoding %d, k %d: wrong %s", source->encoding, weight->k, fault);
  if (row_count == 0) return PD_OK;
  const uint64_t row_index = (uint64_t)index * weight->n + first_row;
  if (is_plain_encoding_on_host(source->encoding) && source->paired_rows == 0) return fill_plain(stream, weight, row_index, row_count, *source);
  return read_pieces(stream, *source, row_count, weight->k, [&](const float *rows, uint64_t first, uint64_t count) {
    return store_rows(stream, weight, row_index + first, rows, PD_F32, count);
  });
}

extern "C" int pd_weight_fill_random(PdStream *stream, PdWeight *weight, uint64_t seed, float standard_deviation) {
  if (int status = enter(stream->device)) return status;
  const uint64_t rows = (uint64_t)weight->count * weight->n;
  const unsigned grid = rows < 65536 ? (unsigned)rows : 65536;
  if (weight->format == PD_FP8_E4M3)
    return launch(stream, "weight_fill_random", weight_random_fp8_kernel, grid, 256, 0, (fp8 *)weight->data, weight->scales, rows, (int)weight->k, seed,
                  standard_deviation * 1.7320508f / 65536.0f);
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
