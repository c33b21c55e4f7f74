/* Memory on the CPU: allocation, copies, conversions, random fill and mapped files. Twin: ../cuda/memory.cu
   Plain copies stay on their stream's own thread, so a transfer never takes the helpers from a running forward pass. */
#define PD_KERNELS "memory.cc"
#include "each_isa.h"

#ifdef PD_PASS
// ---- kernels

static void convert_kernel(void *target, int32_t target_dtype, const void *source, int32_t source_dtype, int64_t count) {
  if (source_dtype == PD_F32) return narrow(target, (const float *)source, target_dtype, count);
  if (target_dtype == PD_F32) return widen((float *)target, source, source_dtype, count);
  float piece[256];
  for (int64_t i = 0; i < count; i += 256) {
    const int64_t part = count - i < 256 ? count - i : 256;
    widen(piece, (const uint16_t *)source + i, source_dtype, part);
    narrow((uint16_t *)target + i, piece, target_dtype, part);
  }
}

#else
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

using namespace pd;

namespace {

constexpr size_t kHugePage = size_t(2) << 20, kMapFrom = size_t(1) << 20;
constexpr int64_t kGrain = 1 << 16;  // elements a piece

size_t mapped_bytes(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

/* Approximately normal (Irwin-Hall of four uniforms), a pure function of (seed, index): values do not depend on threads or pieces. */
float normal_at(uint64_t seed, uint64_t index) {
  uint64_t z = seed * 0x9E3779B97F4A7C15u + (index + 1) * 0xD1B54A32D192ED03u;  // splitmix64's finaliser
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  const int32_t sum = (int32_t)((z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48)) - 131070;
  return (float)sum * (1.7320508f / 65536.0f);  // variance of the sum: 4 / 12
}

bool is_float(int32_t dtype) { return dtype == PD_F32 || dtype == PD_BF16 || dtype == PD_F16; }

int allocate(const char *call, PdDevice *device, uint64_t bytes, void **pointer) {
  if (bytes == 0) bytes = 1;
  *pointer = map_memory(bytes);
  if (*pointer == nullptr) return fail(PD_OUT_OF_MEMORY, "%s: no memory for %llu bytes", call, (unsigned long long)bytes);
  std::lock_guard<std::mutex> lock(device->allocations_mutex);
  device->allocations[*pointer] = bytes;
  return PD_OK;
}

int release(const char *call, PdDevice *device, void *pointer) {
  size_t bytes;
  {
    std::lock_guard<std::mutex> lock(device->allocations_mutex);
    const auto found = device->allocations.find(pointer);
    if (found == device->allocations.end()) return fail(PD_INVALID, "%s: %p was not allocated on this device or is free already", call, pointer);
    bytes = found->second;
    device->allocations.erase(found);
  }
  unmap_memory(pointer, bytes);
  return PD_OK;
}

}  // namespace

namespace pd {

void *map_memory(size_t bytes) {
  if (bytes < kMapFrom) {
    void *pointer = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (pointer != nullptr) memset(pointer, 0, bytes);
    return pointer;
  }
  const size_t wanted = mapped_bytes(bytes);
  if (wanted < bytes || wanted + kHugePage < wanted) return nullptr;
  char *start = (char *)mmap(nullptr, wanted + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  char *aligned = (char *)(((uintptr_t)start + kHugePage - 1) / kHugePage * kHugePage);
  if (aligned != start) munmap(start, aligned - start);
  if (start + kHugePage != aligned) munmap(aligned + wanted, start + kHugePage - aligned);
  madvise(aligned, wanted, MADV_HUGEPAGE);
  return aligned;
}

void unmap_memory(void *pointer, size_t bytes) {
  if (pointer == nullptr) return;
  if (bytes < kMapFrom) free(pointer);
  else munmap(pointer, mapped_bytes(bytes));
}

}  // namespace pd

// ---- launchers

extern "C" int pd_alloc(PdDevice *device, uint64_t bytes, void **pointer) { return allocate("alloc", device, bytes, pointer); }
extern "C" int pd_host_alloc(PdDevice *device, uint64_t bytes, void **pointer) { return allocate("host_alloc", device, bytes, pointer); }
extern "C" int pd_free(PdDevice *device, void *pointer) { return release("free", device, pointer); }
extern "C" int pd_host_free(PdDevice *device, void *pointer) { return release("host_free", device, pointer); }

extern "C" int pd_copy(PdStream *stream, void *target, const void *source, uint64_t bytes) {
  return enqueue(stream, [=](Pool &) { memmove(target, source, bytes); });
}

extern "C" int pd_zero(PdStream *stream, void *target, uint64_t bytes) {
  return enqueue(stream, [=](Pool &) { memset(target, 0, bytes); });
}

extern "C" int pd_convert(PdStream *stream, void *target, int32_t target_dtype, const void *source, int32_t source_dtype, uint64_t count) {
  if (!is_float(target_dtype) || !is_float(source_dtype))
    return fail(PD_UNSUPPORTED, "convert: from %s to %s", dtype_name(source_dtype), dtype_name(target_dtype));
  const auto kernel = PD_PICK(isa_of(stream), convert_kernel);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for((int64_t)count, kGrain, [&](int64_t begin, int64_t end, int) {
      kernel((char *)target + begin * dtype_bytes(target_dtype), target_dtype, (const char *)source + begin * dtype_bytes(source_dtype),
             source_dtype, end - begin);
    });
  });
}

extern "C" int pd_random(PdStream *stream, void *target, int32_t dtype, uint64_t count, uint64_t seed, float standard_deviation, float mean) {
  if (!is_float(dtype)) return fail(PD_UNSUPPORTED, "random: dtype %s", dtype_name(dtype));
  const auto kernel = PD_PICK(isa_of(stream), convert_kernel);
  return enqueue(stream, [=](Pool &pool) {
    pool.parallel_for((int64_t)count, kGrain, [&](int64_t begin, int64_t end, int) {
      float piece[256];
      for (int64_t i = begin; i < end; i += 256) {
        const int64_t part = end - i < 256 ? end - i : 256;
        for (int64_t j = 0; j < part; j++) piece[j] = std::fma(normal_at(seed, (uint64_t)(i + j)), standard_deviation, mean);
        kernel((char *)target + i * dtype_bytes(dtype), dtype, piece, PD_F32, part);
      }
    });
  });
}

extern "C" int pd_map_file(const char *path, void **pointer, uint64_t *bytes) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return fail(PD_IO, "cannot open %s: %s", path, strerror(errno));
  struct stat status;
  if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
    close(file);
    return fail(PD_IO, "cannot map %s: it is %s", path, S_ISREG(status.st_mode) ? "empty" : "not a file");
  }
  *pointer = mmap(nullptr, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0);
  const int error = errno;
  close(file);
  if (*pointer == MAP_FAILED) return fail(PD_IO, "cannot map %s: %s", path, strerror(error));
  *bytes = (uint64_t)status.st_size;
  return PD_OK;
}

extern "C" int pd_unmap_file(void *pointer, uint64_t bytes) {
  return munmap(pointer, bytes) == 0 ? PD_OK : fail(PD_INVALID, "unmap_file: %p is not mapped: %s", pointer, strerror(errno));
}
#endif
