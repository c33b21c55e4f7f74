/* Devices on the CPU: which instruction sets and how many threads there are, what runs on them, and the error text of each thread. */
#include "grouped.h"
#include "device.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <fstream>
#include <memory>
#include <new>
#include <string>

#include "failure.h"

namespace pd {
namespace {

thread_local std::string last_error;

std::string format_text(const char *format, va_list arguments) {
  char text[1024];
  vsnprintf(text, sizeof text, format, arguments);
  return text;
}

IsaLevel best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma"))
    return {PD_ISA_AVX512, __builtin_cpu_supports("avx512vnni") != 0, __builtin_cpu_supports("avx512bf16") != 0};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return {PD_ISA_AVX2, false, false};
#endif
  return {PD_ISA_SCALAR, false, false};
}

/* Cores this process may use: its affinity, and a container's quota when it has one. */
int core_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  std::ifstream limit("/sys/fs/cgroup/cpu.max");
  long long quota = 0, period = 0;
  if (limit >> quota >> period && quota > 0 && period > 0) {
    const int whole = (int)((quota + period - 1) / period);
    if (whole < count) count = whole;
  }
  return count > 0 ? count : 1;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, 10, "model name") == 0) return line.substr(line.find(':') + 2);
  return "CPU";
}

uint64_t memory_bytes(const char *field) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, strlen(field), field) == 0) return strtoull(line.c_str() + strlen(field), nullptr, 10) * 1024;
  return 0;
}

std::string isa_name(const IsaLevel &isa) {
  if (isa.isa == PD_ISA_SCALAR) return "scalar";
  if (isa.isa == PD_ISA_AVX2) return "avx2";
  return std::string("avx512") + (isa.vnni ? "-vnni" : "") + (isa.bf16 ? "-bf16" : "");
}

}  // namespace

int fail(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  last_error = format_text(format, arguments);
  va_end(arguments);
  return status;
}

void raise(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  Failure failure{status, format_text(format, arguments)};
  va_end(arguments);
  throw failure;
}

const char *dtype_name(int32_t dtype) {
  static const char *const names[] = {"f32", "bf16", "f16", "i8", "fp8", "i32"};
  return dtype >= 0 && dtype <= PD_I32 ? names[dtype] : "unknown";
}

size_t dtype_bytes(int32_t dtype) {
  if (dtype == PD_F32 || dtype == PD_I32) return 4;
  return dtype == PD_BF16 || dtype == PD_F16 ? 2 : 1;
}

int check_activations(const char *op, int32_t dtype) {
  if (dtype == PD_F32) return PD_OK;
  return fail(PD_UNSUPPORTED, "%s: activations of dtype %s (%d); the CPU computes in f32", op, dtype_name(dtype), dtype);
}

const IsaLevel &isa_of(PdDevice *device) { return device->isa; }

}  // namespace pd

using namespace pd;

extern "C" int pd_abi_version(void) { return PD_ABI_VERSION; }
extern "C" const char *pd_last_error(void) { return last_error.c_str(); }

extern "C" int pd_device_count(int32_t *count) {
  *count = 1;
  return PD_OK;
}

extern "C" int pd_device_open(int32_t index, int32_t thread_count, int32_t isa, PdDevice **device) {
  if (index != 0) return fail(PD_NO_DEVICE, "device_open: cpu device %d does not exist; there is device 0 only", index);
  if (thread_count < 0 || thread_count > 1024) return fail(PD_INVALID, "device_open: thread count %d is not in 0..1024", thread_count);
  IsaLevel level = best_isa();
  if (isa < PD_ISA_AUTO || isa > PD_ISA_AVX512) return fail(PD_INVALID, "device_open: instruction set %d is unknown", isa);
  if (isa > level.isa)
    return fail(PD_UNSUPPORTED, "device_open: this processor has no %s; it has %s", isa == PD_ISA_AVX512 ? "AVX-512" : "AVX2",
                isa_name(level).c_str());
  if (isa != PD_ISA_AUTO && isa != level.isa) level = {isa, false, false};
  try {
    *device = new PdDevice(index, thread_count == 0 ? core_count() : thread_count, level);
  } catch (const std::exception &error) {
    return fail(PD_OUT_OF_MEMORY, "device_open: cannot start %d threads: %s", thread_count, error.what());
  }
  return PD_OK;
}

extern "C" int pd_device_info(PdDevice *device, PdDeviceInfo *info) {
  memset(info, 0, sizeof *info);
  snprintf(info->name, sizeof info->name, "%s", processor_name().c_str());
  snprintf(info->isa, sizeof info->isa, "%s", isa_name(device->isa).c_str());
  info->thread_count = device->helpers.count() + 1;
  info->index = device->index;
  info->total_bytes = memory_bytes("MemTotal:");
  info->free_bytes = memory_bytes("MemAvailable:");
  return PD_OK;
}

extern "C" int pd_set_batch_invariant(PdDevice *, int32_t) { return PD_OK; } /* it always is */

extern "C" int pd_device_close(PdDevice *device) {
  if (device->stream_count.load() != 0)
    return fail(PD_INVALID, "device_close: %d streams are still open", device->stream_count.load());
  for (const auto &[pointer, bytes] : device->allocations) unmap_memory(pointer, bytes);
  delete device;
  return PD_OK;
}

extern "C" int pd_supports(PdDevice *, int32_t op, int32_t dtype) {
  const bool is_half = dtype == PD_BF16 || dtype == PD_F16;
  switch (op) {
    case PD_OP_LINEAR:
    case PD_OP_MOE_LINEAR:
      return dtype == PD_F32 || dtype == PD_BF16 || dtype == PD_I8 || has_grouped_kernel(dtype);
    case PD_OP_ROPE_STORE:
    case PD_OP_PAGED_ATTENTION:
      return dtype == PD_F32 || is_half || dtype == PD_FP8_E4M3;
    case PD_OP_COPY_SLICES:
      return dtype >= PD_F32 && dtype <= PD_I32;
    default:
      return op >= 0 && op < PD_OP_COUNT && dtype == PD_F32;
  }
}
