/* What lies behind PdDevice on the CPU. Used by device.cc, runtime.cc, memory.cc and cache.cc; ops see runtime.h only. */
#pragma once
#include <atomic>
#include <mutex>
#include <unordered_map>

#include "pool.h"
#include "runtime.h"

struct PdDevice {
  PdDevice(int32_t index, int thread_count, pd::IsaLevel isa) : index(index), isa(isa), helpers(thread_count - 1) {}
  int32_t index;
  pd::IsaLevel isa;
  pd::Helpers helpers;
  std::atomic<int> stream_count{0};
  std::mutex allocations_mutex;
  std::unordered_map<void *, size_t> allocations;  // live pd_alloc and pd_host_alloc memory, bytes asked for
};
