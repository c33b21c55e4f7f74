/* pd_alloc, pd_host_alloc, pd_copy, pd_zero, pd_map_file and the scratch of streams: memory on the GPU and what may be copied to it. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include "runtime.h"

namespace pd {

int allocate(PdDevice *device, size_t bytes, void **pointer) {
  void *made = nullptr;
  if (int status = check(cudaMalloc(&made, bytes == 0 ? 1 : bytes), "alloc")) {
    if (status != PD_OUT_OF_MEMORY) return status;
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    return fail(PD_OUT_OF_MEMORY, "alloc: %zu bytes wanted, %zu of %zu are free on GPU %d", bytes, free_bytes, total_bytes, device->index);
  }
  std::lock_guard<std::mutex> lock(device->side_mutex);
  cudaError_t error = cudaMemsetAsync(made, 0, bytes, device->side_stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(device->side_stream);
  if (error != cudaSuccess) {
    cudaFree(made);
    return check(error, "alloc");
  }
  *pointer = made;
  return PD_OK;
}

int scratch(PdStream *stream, Scratch purpose, size_t bytes, void **pointer) {
  auto &piece = stream->scratch[static_cast<int>(purpose)];
  if (piece.bytes < bytes) {
    void *made = nullptr;
    if (int status = allocate(stream->device, bytes, &made)) return status;
    if (piece.pointer != nullptr) stream->retired.push_back(piece.pointer);
    piece.pointer = made;
    piece.bytes = bytes;
  }
  *pointer = piece.pointer;
  return PD_OK;
}

}  // namespace pd

using namespace pd;

extern "C" int pd_alloc(PdDevice *device, uint64_t bytes, void **pointer) {
  if (int status = enter(device)) return status;
  return allocate(device, bytes, pointer);
}

extern "C" int pd_free(PdDevice *device, void *pointer) {
  if (int status = enter(device)) return status;
  return check(cudaFree(pointer), "free");
}

extern "C" int pd_host_alloc(PdDevice *device, uint64_t bytes, void **pointer) {
  if (int status = enter(device)) return status;
  if (int status = check(cudaHostAlloc(pointer, bytes == 0 ? 1 : bytes, cudaHostAllocPortable), "host_alloc")) return status;
  std::memset(*pointer, 0, bytes);
  return PD_OK;
}

extern "C" int pd_host_free(PdDevice *device, void *pointer) {
  if (int status = enter(device)) return status;
  return check(cudaFreeHost(pointer), "host_free");
}

extern "C" int pd_copy(PdStream *stream, void *target, const void *source, uint64_t bytes) {
  if (int status = enter(stream->device)) return status;
  if (bytes == 0) return PD_OK;
  return check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream->cuda), "copy");
}

extern "C" int pd_zero(PdStream *stream, void *target, uint64_t bytes) {
  if (int status = enter(stream->device)) return status;
  if (bytes == 0) return PD_OK;
  return check(cudaMemsetAsync(target, 0, bytes, stream->cuda), "zero");
}

extern "C" int pd_map_file(const char *path, void **pointer, uint64_t *bytes) {
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return fail(PD_IO, "map_file: %s: %s", path, std::strerror(errno));
  struct stat status;
  if (fstat(descriptor, &status) != 0) {
    int code = errno;
    close(descriptor);
    return fail(PD_IO, "map_file: %s: %s", path, std::strerror(code));
  }
  if (status.st_size == 0) {
    close(descriptor);
    return fail(PD_IO, "map_file: %s is empty", path);
  }
  void *mapped = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0);
  int code = errno;
  close(descriptor);
  if (mapped == MAP_FAILED) return fail(PD_IO, "map_file: %s: %s", path, std::strerror(code));
  madvise(mapped, static_cast<size_t>(status.st_size), MADV_SEQUENTIAL);
  *pointer = mapped;
  *bytes = static_cast<uint64_t>(status.st_size);
  return PD_OK;
}

extern "C" int pd_unmap_file(void *pointer, uint64_t bytes) {
  if (munmap(pointer, bytes) != 0) return fail(PD_IO, "unmap_file: %s", std::strerror(errno));
  return PD_OK;
}
