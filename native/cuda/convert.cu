/* pd_convert and pd_random: fills plain tensors. Used while weights load, not in a step. Twin: ../cpu/memory.cc
   A source in ordinary host memory (an mmapped file) is staged through a device buffer piece by piece. */
#include "convert.cuh"
#include "random.cuh"

namespace pd {
namespace {

// ---- kernels

template <typename Target, typename Source>
__global__ void convert_kernel(Target *target, uint64_t target_stride, const Source *source, uint64_t source_stride, uint64_t rows, uint64_t cols) {
  grid_wait();
  for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < rows * cols; i += (uint64_t)gridDim.x * blockDim.x) {
    uint64_t row = i / cols, col = i % cols;
    target[row * target_stride + col] = from_float<Target>(to_float(source[row * source_stride + col]));
  }
}

template <typename T>
__global__ void random_kernel(T *target, uint64_t count, uint64_t seed, float standard_deviation, float mean) {
  grid_wait();
  for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count; i += (uint64_t)gridDim.x * blockDim.x) {
    uint64_t draw = mix_bits(seed * 0x9E3779B97F4A7C15ull + (i + 1) * 0xD1B54A32D192ED03ull);
    target[i] = from_float<T>(fmaf(near_normal(draw, 1.7320508f / 65536.0f), standard_deviation, mean));
  }
}

dim3 grid_for(const PdStream *stream, uint64_t count) {
  uint64_t blocks = ceil_div<uint64_t>(count, 256), most = (uint64_t)stream->device->multiprocessor_count * 16;
  return dim3((unsigned)(blocks < most ? blocks : most));
}

}  // namespace

// ---- launchers

bool is_device_readable(const void *pointer) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.type != cudaMemoryTypeUnregistered;
}

int convert_rows(PdStream *stream, void *target, int32_t target_dtype, uint64_t target_stride, const void *source, int32_t source_dtype,
                 uint64_t source_stride, uint64_t rows, uint64_t cols) {
  return with_dtype("convert", target_dtype, [&](auto to) {
    return with_dtype("convert", source_dtype, [&](auto from) {
      using Target = decltype(to);
      using Source = decltype(from);
      return launch(stream, "convert", convert_kernel<Target, Source>, grid_for(stream, rows * cols), 256, 0, (Target *)target, target_stride,
                    (const Source *)source, source_stride, rows, cols);
    });
  });
}

}  // namespace pd

using namespace pd;

extern "C" int pd_convert(PdStream *stream, void *target, int32_t target_dtype, const void *source, int32_t source_dtype, uint64_t count) {
  if (int status = enter(stream->device)) return status;
  if (is_device_readable(source)) return convert_rows(stream, target, target_dtype, count, source, source_dtype, count, 1, count);
  void *staging = nullptr;
  if (int status = scratch(stream, Scratch::kConvert, kConvertPieceBytes, &staging)) return status;
  const size_t source_bytes = dtype_bytes(source_dtype), target_bytes = dtype_bytes(target_dtype);
  const uint64_t piece_count = kConvertPieceBytes / source_bytes;
  for (uint64_t at = 0; at < count; at += piece_count) {
    const uint64_t part = count - at < piece_count ? count - at : piece_count;
    if (int status = pd_copy(stream, staging, (const char *)source + at * source_bytes, part * source_bytes)) return status;
    if (int status = convert_rows(stream, (char *)target + at * target_bytes, target_dtype, part, staging, source_dtype, part, 1, part))
      return status;
  }
  return PD_OK;
}

extern "C" int pd_random(PdStream *stream, void *target, int32_t dtype, uint64_t count, uint64_t seed, float standard_deviation, float mean) {
  if (int status = enter(stream->device)) return status;
  return with_dtype("random", dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(stream, "random", random_kernel<T>, grid_for(stream, count), 256, 0, (T *)target, count, seed, standard_deviation, mean);
  });
}
