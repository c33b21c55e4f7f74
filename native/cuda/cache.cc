/* pd_cache_*: KV memory that another worker on this host can map. One plain cudaMalloc with an IPC handle; within one process (which
   may not open its own handles) an importer finds the owner's memory through a table of live caches, keyed by the export's descriptor field.
   Host memory (pd_cache_create_host) is one memfd, opened by others through /proc/PID/fd/N as on the CPU, and pinned by each who maps it. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include "runtime.h"

using namespace pd;

struct PdCache {
  PdDevice *device;
  void *pointer;
  uint64_t bytes;
  int32_t id;   /* in the table of live caches; -1: an import, or host memory */
  bool is_mapped; /* opened from another process's IPC handle */
  bool is_host;
  int file;     /* the owner's memfd; -1: none */
};

namespace {

std::mutex live_mutex;
std::map<int32_t, PdCache *> live_caches;
int32_t next_cache_id = 1;

/* The importer's device may write the owner's memory. Already enabled is fine. */
int enable_peer_access(int from, int to) {
  if (from == to) return PD_OK;
  int can_access = 0;
  if (int status = check(cudaDeviceCanAccessPeer(&can_access, from, to), "cache_import")) return status;
  if (!can_access) return fail(PD_UNSUPPORTED, "cache_import: GPU %d cannot reach the memory of GPU %d; use the host-relay connector", from, to);
  if (int status = check(cudaSetDevice(from), "cache_import")) return status;
  cudaError_t error = cudaDeviceEnablePeerAccess(to, 0);
  if (error == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();
    return PD_OK;
  }
  return check(error, "cache_import");
}

/* Maps and pins. Takes over `owned_file` (-1: an import) only when it succeeds. */
int map_host(PdDevice *device, const char *call, int file, uint64_t bytes, int owned_file, PdCache **cache) {
  void *base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (base == MAP_FAILED) return fail(PD_OUT_OF_MEMORY, "%s: cannot map %llu bytes: %s", call, (unsigned long long)bytes, std::strerror(errno));
  int status = check(cudaHostRegister(base, bytes, cudaHostRegisterPortable), call);
  PdCache *made = status == PD_OK ? new (std::nothrow) PdCache{device, base, bytes, -1, false, true, owned_file} : nullptr;
  if (made != nullptr) {
    *cache = made;
    return PD_OK;
  }
  if (status == PD_OK) cudaHostUnregister(base);
  munmap(base, bytes);
  return status != PD_OK ? status : fail(PD_OUT_OF_MEMORY, "%s: out of host memory", call);
}

int import_host(PdDevice *device, const PdCacheExport *from, PdCache **cache) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)from->process_id, from->file_descriptor);
  const int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return fail(PD_IO, "cache_import: the owner's host memory cannot be opened (%s: %s)", path, std::strerror(errno));
  const off_t file_bytes = lseek(file, 0, SEEK_END);
  const int status = file_bytes == (off_t)from->bytes
                         ? map_host(device, "cache_import", file, from->bytes, -1, cache)
                         : fail(PD_INVALID, "cache_import: %s has %lld bytes, not %llu", path, (long long)file_bytes, (unsigned long long)from->bytes);
  close(file);
  return status;
}

}  // namespace

extern "C" int pd_cache_create_host(PdDevice *device, uint64_t bytes, PdCache **cache) {
  if (int status = enter(device)) return status;
  if (bytes == 0) return fail(PD_INVALID, "cache_create_host: 0 bytes");
  const int file = memfd_create("twostroke-kv", MFD_CLOEXEC);
  if (file < 0) return fail(PD_IO, "cache_create_host: memfd_create: %s", std::strerror(errno));
  const int status = ftruncate(file, (off_t)bytes) != 0
                         ? fail(PD_OUT_OF_MEMORY, "cache_create_host: %llu bytes: %s", (unsigned long long)bytes, std::strerror(errno))
                         : map_host(device, "cache_create_host", file, bytes, file, cache);
  if (status != PD_OK) close(file);
  return status;
}

extern "C" int pd_cache_create(PdDevice *device, uint64_t bytes, PdCache **cache) {
  if (int status = enter(device)) return status;
  void *pointer = nullptr;
  if (int status = allocate(device, bytes, &pointer)) return status;
  PdCache *made = new (std::nothrow) PdCache{device, pointer, bytes, -1, false, false, -1};
  if (made == nullptr) {
    cudaFree(pointer);
    return fail(PD_OUT_OF_MEMORY, "cache_create: out of host memory");
  }
  std::lock_guard<std::mutex> lock(live_mutex);
  made->id = next_cache_id++;
  live_caches[made->id] = made;
  *cache = made;
  return PD_OK;
}

extern "C" int pd_cache_export(PdCache *cache, PdCacheExport *out) {
  if (cache->id < 0 && cache->file < 0) return fail(PD_INVALID, "cache_export: only the owner of a cache can export it");
  if (int status = enter(cache->device)) return status;
  std::memset(out, 0, sizeof *out);
  out->process_id = getpid();
  out->bytes = cache->bytes;
  if (cache->is_host) {
    out->file_descriptor = cache->file;
    out->device_index = -1;
    return PD_OK;
  }
  cudaIpcMemHandle_t handle;
  if (int status = check(cudaIpcGetMemHandle(&handle, cache->pointer), "cache_export")) return status;
  static_assert(sizeof handle == sizeof out->ipc_handle, "an IPC handle is 64 bytes");
  out->file_descriptor = cache->id;
  out->device_index = cache->device->index;
  std::memcpy(out->ipc_handle, &handle, sizeof handle);
  return PD_OK;
}

extern "C" int pd_cache_import(PdDevice *device, const PdCacheExport *from, PdCache **cache) {
  if (int status = enter(device)) return status;
  if (from->device_index < 0) return import_host(device, from, cache);
  PdCache imported{device, nullptr, from->bytes, -1, false, false, -1};
  if (from->process_id == getpid()) {
    std::lock_guard<std::mutex> lock(live_mutex);
    auto found = live_caches.find(from->file_descriptor);
    if (found == live_caches.end()) return fail(PD_INVALID, "cache_import: cache %d of this process is closed", from->file_descriptor);
    if (int status = enable_peer_access(device->index, found->second->device->index)) return status;
    imported.pointer = found->second->pointer;
  } else {
    cudaIpcMemHandle_t handle;
    std::memcpy(&handle, from->ipc_handle, sizeof handle);
    int status = check(cudaIpcOpenMemHandle(&imported.pointer, handle, cudaIpcMemLazyEnablePeerAccess), "cache_import");
    if (status != PD_OK) return status;
    imported.is_mapped = true;
  }
  PdCache *made = new (std::nothrow) PdCache(imported);
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "cache_import: out of host memory");
  *cache = made;
  return PD_OK;
}

extern "C" int pd_cache_pointer(PdCache *cache, void **pointer) {
  *pointer = cache->pointer;
  return PD_OK;
}

extern "C" int pd_cache_close(PdCache *cache) {
  if (int status = enter(cache->device)) return status;
  int status = PD_OK;
  if (cache->is_host) {
    status = check(cudaHostUnregister(cache->pointer), "cache_close");
    munmap(cache->pointer, cache->bytes);
    if (cache->file >= 0) close(cache->file);
  } else if (cache->id >= 0) {
    std::lock_guard<std::mutex> lock(live_mutex);
    live_caches.erase(cache->id);
    status = check(cudaFree(cache->pointer), "cache_close");
  } else if (cache->is_mapped) {
    status = check(cudaIpcCloseMemHandle(cache->pointer), "cache_close");
  }
  delete cache;
  return status;
}
