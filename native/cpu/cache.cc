/* KV cache memory on the CPU: one memfd, which other workers of this host open through /proc/PID/fd/N. Nothing has a name, so nothing is
   left behind when a process is killed. Twin: ../cuda/cache.cu */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "runtime.h"

using namespace pd;

struct PdCache { void *base; uint64_t bytes; int file; };  // file: -1 when imported

namespace {

const char *const kName = "twostroke-kv";

int map_shared(const char *call, int file, uint64_t bytes, int owned_file, PdCache **cache) {
  void *base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (base == MAP_FAILED) return fail(PD_OUT_OF_MEMORY, "%s: cannot map %llu bytes: %s", call, (unsigned long long)bytes, strerror(errno));
  madvise(base, bytes, MADV_HUGEPAGE);
  *cache = new PdCache{base, bytes, owned_file};
  return PD_OK;
}

/* The link's text proves that the descriptor is still a cache, not something else of a reused process id. */
bool is_cache(const char *path) {
  char target[128];
  const ssize_t count = readlink(path, target, sizeof target - 1);
  if (count < 0) return false;
  target[count] = 0;
  return strstr(target, kName) != nullptr;
}

}  // namespace

extern "C" int pd_cache_create(PdDevice *, uint64_t bytes, PdCache **cache) {
  if (bytes == 0) return fail(PD_INVALID, "cache_create: 0 bytes");
  const uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
  if (bytes > total)  // a memfd takes any size and its user dies later, so the check is here
    return fail(PD_OUT_OF_MEMORY, "cache_create: %llu bytes; this machine has %llu", (unsigned long long)bytes, (unsigned long long)total);
  const int file = memfd_create(kName, MFD_CLOEXEC);
  if (file < 0) return fail(PD_IO, "cache_create: memfd_create: %s", strerror(errno));
  const int status = ftruncate(file, (off_t)bytes) != 0
                         ? fail(PD_OUT_OF_MEMORY, "cache_create: %llu bytes: %s", (unsigned long long)bytes, strerror(errno))
                         : map_shared("cache_create", file, bytes, file, cache);
  if (status != PD_OK) close(file);
  return status;
}

/* Host memory is what there is. */
extern "C" int pd_cache_create_host(PdDevice *device, uint64_t bytes, PdCache **cache) { return pd_cache_create(device, bytes, cache); }

extern "C" int pd_cache_export(PdCache *cache, PdCacheExport *out) {
  if (cache->file < 0) return fail(PD_INVALID, "cache_export: only the owner exports a cache, this one is imported");
  memset(out, 0, sizeof *out);
  out->process_id = getpid();
  out->file_descriptor = cache->file;
  out->bytes = cache->bytes;
  return PD_OK;
}

extern "C" int pd_cache_import(PdDevice *, const PdCacheExport *from, PdCache **cache) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)from->process_id, from->file_descriptor);
  const long long process = from->process_id;
  const int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) {
    const bool is_gone = errno == ENOENT || errno == ESRCH;
    return fail(PD_IO, "cache_import: %s (%s: %s)", is_gone ? "the owner process is gone or has closed its cache" : "the owner's cache cannot be opened",
                path, strerror(errno));
  }
  struct stat info;
  int status;
  if (!is_cache(path) || fstat(file, &info) != 0)
    status = fail(PD_IO, "cache_import: process %lld no longer holds a cache at %s", process, path);
  else if ((uint64_t)info.st_size != from->bytes)
    status = fail(PD_INVALID, "cache_import: the cache of process %lld has %lld bytes, not %llu", process, (long long)info.st_size,
                  (unsigned long long)from->bytes);
  else
    status = map_shared("cache_import", file, from->bytes, -1, cache);
  close(file);
  return status;
}

extern "C" int pd_cache_pointer(PdCache *cache, void **pointer) {
  *pointer = cache->base;
  return PD_OK;
}

extern "C" int pd_cache_close(PdCache *cache) {
  munmap(cache->base, cache->bytes);
  if (cache->file >= 0) close(cache->file);
  delete cache;
  return PD_OK;
}

extern "C" int pd_copy_slices(PdStream *stream, void *target_base, const void *source_base, uint64_t target_block_bytes,
                              uint64_t source_block_bytes, const PdBlockPair *pairs, int32_t pair_count, const PdSlice *slices,
                              int32_t slice_count) {
  if (pair_count < 0 || slice_count < 0) return fail(PD_INVALID, "copy_slices: %d pairs, %d slices", pair_count, slice_count);
  for (int32_t i = 0; i < slice_count; i++) {
    const PdSlice &slice = slices[i];
    if (slice.bytes > target_block_bytes || slice.target_offset > target_block_bytes - slice.bytes || slice.bytes > source_block_bytes ||
        slice.source_offset > source_block_bytes - slice.bytes)
      return fail(PD_INVALID, "copy_slices: slice %d (%llu bytes) leaves its block", i, (unsigned long long)slice.bytes);
  }
  for (int32_t i = 0; i < pair_count; i++)
    if (pairs[i].target_block < 0 || pairs[i].source_block < 0)
      return fail(PD_INVALID, "copy_slices: pair %d names block %d -> %d", i, pairs[i].source_block, pairs[i].target_block);
  return enqueue(stream, [=, pair_list = std::vector<PdBlockPair>(pairs, pairs + pair_count),
                          slice_list = std::vector<PdSlice>(slices, slices + slice_count)](Pool &) {
    for (const PdBlockPair &pair : pair_list) {
      char *target = (char *)target_base + pair.target_block * target_block_bytes;
      const char *source = (const char *)source_base + pair.source_block * source_block_bytes;
      for (const PdSlice &slice : slice_list) memcpy(target + slice.target_offset, source + slice.source_offset, slice.bytes);
    }
  });
}
