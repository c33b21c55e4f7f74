/* pd_cache_*: KV memory that another worker on this host can map. One plain cudaMalloc with an IPC handle; within one process (which
   may not open its own handles) an importer finds the owner's memory through a table of live caches, keyed by the export's descriptor field. */
#include <unistd.h>
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
  int32_t id;   /* in the table of live caches; -1: an import */
  bool is_mapped; /* opened from another process's IPC handle */
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

}  // namespace

extern "C" int pd_cache_create(PdDevice *device, uint64_t bytes, PdCache **cache) {
  if (int status = enter(device)) return status;
  void *pointer = nullptr;
  if (int status = allocate(device, bytes, &pointer)) return status;
  PdCache *made = new (std::nothrow) PdCache{device, pointer, bytes, -1, false};
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
  if (cache->id < 0) return fail(PD_INVALID, "cache_export: only the owner of a cache can export it");
  if (int status = enter(cache->device)) return status;
  cudaIpcMemHandle_t handle;
  if (int status = check(cudaIpcGetMemHandle(&handle, cache->pointer), "cache_export")) return status;
  static_assert(sizeof handle == sizeof out->ipc_handle, "an IPC handle is 64 bytes");
  std::memset(out, 0, sizeof *out);
  out->process_id = getpid();
  out->file_descriptor = cache->id;
  out->device_index = cache->device->index;
  out->bytes = cache->bytes;
  std::memcpy(out->ipc_handle, &handle, sizeof handle);
  return PD_OK;
}

extern "C" int pd_cache_import(PdDevice *device, const PdCacheExport *from, PdCache **cache) {
  if (int status = enter(device)) return status;
  PdCache imported{device, nullptr, from->bytes, -1, false};
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
  if (cache->id >= 0) {
    std::lock_guard<std::mutex> lock(live_mutex);
    live_caches.erase(cache->id);
    status = check(cudaFree(cache->pointer), "cache_close");
  } else if (cache->is_mapped) {
    status = check(cudaIpcCloseMemHandle(cache->pointer), "cache_close");
  }
  delete cache;
  return status;
}
