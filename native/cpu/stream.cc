/* Streams and events: see stream.h. The stream's thread spins briefly for work, then sleeps; a failed stream skips its ops. */
#include "stream.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

using namespace pd;

// ---- events

void EventState::reach(uint64_t ticket, FailureRef with) {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  std::lock_guard<std::mutex> lock(mutex);
  if (ticket > reached.load()) {
    at_ms = t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
    failure = std::move(with);
    reached.store(ticket);
  }
  changed.notify_all();
}

FailureRef EventState::wait(uint64_t ticket) {
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return reached.load() >= ticket; });
  return failure;
}

// ---- streams

PdStream::PdStream(PdDevice *device) : device(device), blocks_(device->helpers.count() + 2) {
  sigset_t all, before;  // signals are for the host's threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { serve(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  device->stream_count++;
}

PdStream::~PdStream() {
  {
    std::lock_guard<std::mutex> lock(mutex);
    is_stopping_ = true;
    arrived_.fetch_add(1);
  }
  wake_.notify_one();
  thread_.join();
  for (Block &block : blocks_) unmap_memory(block.pointer, block.bytes);
  device->stream_count--;
}

int PdStream::thread_count() const { return device->helpers.count() + 1; }

void PdStream::parallel_for(int64_t count, int64_t grain, const Body &body) {
  if (count <= 0) return;
  if (grain < 1) grain = 1;
  if (count > grain && device->helpers.count() > 0 && device->helpers.run(count, grain, body)) return;
  for (int64_t begin = 0; begin < count; begin += grain) body(begin, begin + grain < count ? begin + grain : count, 0);
}

void *PdStream::scratch(int index, size_t bytes) {
  Block &block = blocks_[index + 1];
  if (block.bytes >= bytes && block.pointer != nullptr) return block.pointer;
  unmap_memory(block.pointer, block.bytes);
  const size_t wanted = bytes + bytes / 2 + 4096;  // room, so that growing batches do not map each time
  block.pointer = map_memory(wanted);
  block.bytes = block.pointer == nullptr ? 0 : wanted;
  if (block.pointer == nullptr) raise(PD_OUT_OF_MEMORY, "no memory for %zu bytes of scratch", wanted);
  return block.pointer;
}

void PdStream::push(std::function<void(Pool &)> work, After after) {
  bool was_sleeping;
  {
    std::lock_guard<std::mutex> lock(mutex);
    incoming_.push_back({std::move(work), after});
    arrived_.fetch_add(1, std::memory_order_release);
    was_sleeping = is_sleeping_;
  }
  if (was_sleeping) wake_.notify_one();
}

bool PdStream::is_recording() {
  std::lock_guard<std::mutex> lock(mutex);
  return recording != nullptr;
}

void PdStream::serve() {
  become_compute_thread("pd-stream");
  std::vector<Item> taken;
  for (uint64_t seen = 0;;) {
    spin_until([&] { return arrived_.load(std::memory_order_acquire) != seen; });
    {
      std::unique_lock<std::mutex> lock(mutex);
      is_sleeping_ = true;
      wake_.wait(lock, [&] { return !incoming_.empty() || is_stopping_; });
      is_sleeping_ = false;
      taken.swap(incoming_);
      seen = arrived_.load();
      if (taken.empty()) return;
    }
    for (Item &item : taken) {
      run(item);
      item.work = nullptr;  // what it captured ends now
    }
    taken.clear();
  }
}

void PdStream::run(const Item &item) {
  if (failure && item.after == After::success) return;
  try {
    item.work(*this);
  } catch (const Failure &caught) {
    failure = std::make_shared<Failure>(caught);
  } catch (const std::bad_alloc &) {
    failure = std::make_shared<Failure>(Failure{PD_OUT_OF_MEMORY, "no memory while an op was running"});
  } catch (const std::exception &caught) {
    failure = std::make_shared<Failure>(Failure{PD_INTERNAL, caught.what()});
  }
}
