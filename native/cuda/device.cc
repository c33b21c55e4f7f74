/* pd_device_*, pd_supports, pd_last_error: opens a GPU and says plainly what is missing when it cannot: driver, GPU or cuBLASLt. */
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include "blas.h"
#include "runtime.h"

namespace pd {

namespace {
thread_local char last_error[1024] = "";
}

int fail(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

int check(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return PD_OK;
  cudaGetLastError(); /* a launch error would otherwise be reported again by the next call */
  const char *text = cudaGetErrorString(error);
  switch (error) {
    case cudaErrorMemoryAllocation: return fail(PD_OUT_OF_MEMORY, "%s: the GPU has no memory left (%s)", what, text);
    case cudaErrorInsufficientDriver:
      return fail(PD_NO_DEVICE, "%s: no NVIDIA driver, or one too old for CUDA %d.%d (%s); install or update the driver, or use a cpu worker",
                  what, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, text);
    case cudaErrorNoDevice: return fail(PD_NO_DEVICE, "%s: the driver sees no GPU (%s); check nvidia-smi and CUDA_VISIBLE_DEVICES", what, text);
    case cudaErrorNoKernelImageForDevice:
      return fail(PD_UNSUPPORTED, "%s: this library holds no code for this GPU (%s); it needs compute capability 8.0 or newer", what, text);
    default: return fail(PD_INTERNAL, "%s: %s (%s)", what, text, cudaGetErrorName(error));
  }
}

const char *dtype_name(int32_t dtype) {
  switch (dtype) {
    case PD_F32: return "f32";
    case PD_BF16: return "bf16";
    case PD_F16: return "f16";
    case PD_I8: return "i8";
    case PD_FP8_E4M3: return "fp8_e4m3";
    case PD_I32: return "i32";
    default: return "unknown dtype";
  }
}

size_t dtype_bytes(int32_t dtype) {
  switch (dtype) {
    case PD_F32: case PD_I32: return 4;
    case PD_BF16: case PD_F16: return 2;
    default: return 1;
  }
}

}  // namespace pd

using namespace pd;

extern "C" int pd_abi_version(void) { return PD_ABI_VERSION; }
extern "C" const char *pd_last_error(void) { return last_error; }

extern "C" int pd_device_count(int32_t *count) {
  int found = 0;
  cudaError_t error = cudaGetDeviceCount(&found);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    found = 0; /* a machine without a GPU has none; opening one says why */
  } else if (error != cudaSuccess) {
    return check(error, "device_count");
  }
  *count = found;
  return PD_OK;
}

/* thread_count and isa belong to the CPU and are ignored here. */
extern "C" int pd_device_open(int32_t index, int32_t, int32_t, PdDevice **device) {
  int count = 0;
  if (int status = check(cudaGetDeviceCount(&count), "cuda device")) return status;
  if (index < 0 || index >= count) return fail(PD_NO_DEVICE, "cuda device %d: this machine has %d (0..%d)", index, count, count - 1);
  cudaDeviceProp properties;
  if (int status = check(cudaGetDeviceProperties(&properties, index), "cuda device")) return status;
  int capability = properties.major * 10 + properties.minor;
  if (capability < 80)
    return fail(PD_UNSUPPORTED, "cuda device %d: %s has compute capability %d.%d, 8.0 or newer is needed", index, properties.name,
                properties.major, properties.minor);
  PdDevice *made = new (std::nothrow) PdDevice{};
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "cuda device: out of host memory");
  made->index = index;
  made->multiprocessor_count = properties.multiProcessorCount;
  made->compute_capability = capability;
  const char *without_wgmma = std::getenv("PD_NO_WGMMA");
  made->has_wgmma = capability == 90 && (without_wgmma == nullptr || std::strcmp(without_wgmma, "1") != 0);
  const char *linear = std::getenv("PD_LINEAR");
  made->prefers_blas = linear != nullptr && std::strcmp(linear, "blas") == 0;
  made->l2_bytes = static_cast<size_t>(properties.l2CacheSize);
  made->shared_bytes_max = properties.sharedMemPerBlockOptin;
  int status = enter(made);
  if (status == PD_OK) status = check(cudaStreamCreateWithFlags(&made->side_stream, cudaStreamNonBlocking), "cuda device");
  if (status == PD_OK) status = blas_open(made, &made->blas);
  if (status != PD_OK) {
    delete made;
    return status;
  }
  *device = made;
  return PD_OK;
}

extern "C" int pd_device_info(PdDevice *device, PdDeviceInfo *info) {
  if (int status = enter(device)) return status;
  cudaDeviceProp properties;
  if (int status = check(cudaGetDeviceProperties(&properties, device->index), "device_info")) return status;
  size_t free_bytes = 0, total_bytes = 0;
  if (int status = check(cudaMemGetInfo(&free_bytes, &total_bytes), "device_info")) return status;
  std::memset(info, 0, sizeof *info);
  std::snprintf(info->name, sizeof info->name, "%.95s", properties.name);
  std::snprintf(info->isa, sizeof info->isa, "sm_%d%s", device->compute_capability, device->compute_capability == 90 ? "a" : "");
  info->index = device->index;
  info->total_bytes = total_bytes;
  info->free_bytes = free_bytes;
  return PD_OK;
}

extern "C" int pd_set_batch_invariant(PdDevice *device, int32_t is_on) {
  device->is_batch_invariant = is_on != 0;
  return PD_OK;
}

extern "C" int pd_device_close(PdDevice *device) {
  if (int status = enter(device)) return status;
  blas_close(device->blas);
  cudaStreamDestroy(device->side_stream);
  delete device;
  return PD_OK;
}

extern "C" int pd_supports(PdDevice *, int32_t op, int32_t dtype) {
  switch (op) {
    case PD_OP_COPY_SLICES: return 1; /* bytes */
    case PD_OP_LINEAR: case PD_OP_MOE_LINEAR: case PD_OP_ROPE_STORE: case PD_OP_PAGED_ATTENTION:
      return dtype == PD_F32 || dtype == PD_BF16 || dtype == PD_F16 || dtype == PD_FP8_E4M3;
    case PD_OP_MOE_ROUTE: case PD_OP_SOFTCAP: case PD_OP_SAMPLE: return dtype == PD_F32;
    default: return op >= 0 && op < PD_OP_COUNT && (dtype == PD_F32 || dtype == PD_BF16 || dtype == PD_F16);
  }
}
