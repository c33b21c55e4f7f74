/* pd_read_matrix and quantised rows of weights: the bytes go to the GPU as they are, a thread reads 32 columns. Used while weights load.
   Twin: ../cpu/stored.cc */
#include "stored.h"
#include "../stored.h"
#include "convert.cuh"
#include "kernel.cuh"

namespace pd {
namespace {

// ---- kernels

__global__ void read_kernel(float *out, PdMatrix matrix, uint64_t first_row, uint64_t rows, int k) {
  grid_wait();
  const uint64_t groups = (k + kGroup - 1) / kGroup;
  for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < rows * groups; i += (uint64_t)gridDim.x * blockDim.x) {
    const uint64_t row = i / groups, first = i % groups * kGroup;
    const int count = k - first < kGroup ? (int)(k - first) : kGroup;
    float *target = out + row * k + first;
    if (!is_plain_encoding(matrix.encoding)) {
      float values[kGroup];
      read_values(matrix, (int64_t)(first_row + row), (int64_t)first, count, values);
      for (int c = 0; c < count; c++) target[c] = values[c];
      continue;
    }
    const uint64_t at = (uint64_t)stored_row(matrix, (int64_t)(first_row + row)) * matrix.row_stride + first;
    for (int c = 0; c < count; c++)
      target[c] = matrix.encoding == PD_F32    ? ((const float *)matrix.data)[at + c]
                  : matrix.encoding == PD_BF16 ? bf16_to_float(((const uint16_t *)matrix.data)[at + c])
                                               : f16_to_float(((const uint16_t *)matrix.data)[at + c]);
  }
}

/* A copy of host bytes on the GPU, freed in the order of the stream. */
struct Upload {
  PdStream *stream;
  void *pointer = nullptr;
  explicit Upload(PdStream *on) : stream(on) {}
  ~Upload() {
    if (pointer != nullptr) cudaFreeAsync(pointer, stream->cuda);
  }
  int take(const void *source, size_t bytes) {
    if (source == nullptr) return PD_OK;
    if (int status = check(cudaMallocAsync(&pointer, bytes, stream->cuda), "read_matrix")) return status;
    return check(cudaMemcpyAsync(pointer, source, bytes, cudaMemcpyDefault, stream->cuda), "read_matrix");
  }
};

}  // namespace

bool is_plain_encoding_on_host(int32_t encoding) { return is_plain_encoding(encoding); }
const char *fault_of(const PdMatrix &matrix, int64_t rows, int64_t k) { return matrix_fault(matrix, rows, k); }

int read_pieces(PdStream *stream, const PdMatrix &source, int32_t row_count, int32_t k,
                const std::function<int(const float *rows, uint64_t first, uint64_t count)> &use) {
  Upload data(stream), scales(stream), zeros(stream), groups(stream);
  const size_t scale_bytes = (size_t)row_count * source.group_count * sizeof(float);
  PdMatrix matrix = source;
  if (int status = data.take(source.data, source.data_bytes)) return status;
  if (int status = scales.take(source.scales, scale_bytes)) return status;
  if (int status = zeros.take(source.zeros, scale_bytes)) return status;
  if (int status = groups.take(source.groups, (size_t)k * sizeof(int32_t))) return status;
  matrix.data = data.pointer;
  matrix.scales = (const float *)scales.pointer;
  matrix.zeros = (const float *)zeros.pointer;
  matrix.groups = (const int32_t *)groups.pointer;
  void *piece = nullptr;
  if (int status = scratch(stream, Scratch::kConvert, kConvertPieceBytes, &piece)) return status;
  const uint64_t rows_per_piece = kConvertPieceBytes / ((uint64_t)k * sizeof(float));
  if (rows_per_piece == 0) return fail(PD_UNSUPPORTED, "read_matrix: a row of k %d does not fit the staging buffer", k);
  for (uint64_t row = 0; row < (uint64_t)row_count; row += rows_per_piece) {
    const uint64_t rows = row_count - row < rows_per_piece ? row_count - row : rows_per_piece;
    const uint64_t blocks = (rows * ((k + kGroup - 1) / kGroup) + 127) / 128;
    if (int status = launch(stream, "read_matrix", read_kernel, (unsigned)(blocks < 65536 ? blocks : 65536), 128, 0, (float *)piece, matrix, row, rows, (int)k))
      return status;
    if (int status = use((const float *)piece, row, rows)) return status;
  }
  return PD_OK;
}

}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_read_matrix(PdStream *stream, void *target, int32_t target_dtype, const PdMatrix *source, int32_t row_count, int32_t k) {
  if (int status = enter(stream->device)) return status;
  if (row_count < 0 || k < 1) return fail(PD_INVALID, "read_matrix: %d rows, k %d", row_count, k);
  if (const char *fault = matrix_fault(*source, row_count, k))
    return fail(PD_INVALID, "read_matrix: encoding %d, k %d: wrong %s", source->encoding, k, fault);
  return read_pieces(stream, *source, row_count, k, [&](const float *rows, uint64_t first, uint64_t count) {
    return convert_rows(stream, (char *)target + first * k * dtype_bytes(target_dtype), target_dtype, k, rows, PD_F32, k, count, k);
  });
}
