/* Element conversion kernel, shared by convert.cu and weight.cu. */
#pragma once
#include "kernel.cuh"

namespace pd {

/* Enqueues rows * cols conversions between device matrices; strides in elements. */
int convert_rows(PdStream *stream, void *target, int32_t target_dtype, uint64_t target_stride, const void *source, int32_t source_dtype,
                 uint64_t source_stride, uint64_t rows, uint64_t cols);

/* True when the GPU can read the pointer directly (its own or pinned host memory). */
bool is_device_readable(const void *pointer);

constexpr uint64_t kConvertPieceBytes = 32u << 20; /* staged at a time when the source is ordinary host memory */

}  // namespace pd
