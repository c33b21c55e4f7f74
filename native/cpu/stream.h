/* A stream of the CPU: a queue with its own thread, which runs ops in order and shares their pieces with the device's helpers; and the
   event, which counts records. Used by runtime.cc alone; ops see runtime.h.
   Invariant: a ticket is issued when a record is enqueued and reached when the stream gets there, failed or not. */
#pragma once
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "device.h"
#include "failure.h"
#include "runtime.h"

namespace pd {

using FailureRef = std::shared_ptr<const Failure>;
using OpList = std::vector<std::function<void(Pool &)>>;

struct EventState {
  void reach(uint64_t ticket, FailureRef with);
  FailureRef wait(uint64_t ticket);  // blocks; the failure that the record carried, if any

  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<uint64_t> issued{0}, reached{0};
  FailureRef failure;  // of the last record reached
  double at_ms = 0;    // monotonic
};

}  // namespace pd

struct PdStream : pd::Pool {
  explicit PdStream(PdDevice *device);
  ~PdStream() override;  // runs what is enqueued first

  int thread_count() const override;
  void parallel_for(int64_t count, int64_t grain, const pd::Body &body) override;
  void *scratch(int index, size_t bytes) override;

  /* When an item runs. Records and waits run after a failure too: they hand it on. */
  enum class After { success, failure };
  void push(std::function<void(pd::Pool &)> work, After after);
  bool is_recording();

  PdDevice *const device;
  pd::FailureRef failure;                  // touched by the stream's thread only
  std::mutex mutex;                        // guards what follows
  std::shared_ptr<pd::OpList> recording;   // while a graph is being recorded

 private:
  struct Item { std::function<void(pd::Pool &)> work; After after; };
  struct Block { void *pointer = nullptr; size_t bytes = 0; };
  void serve();
  void run(const Item &item);

  std::vector<Item> incoming_;
  bool is_sleeping_ = false, is_stopping_ = false;
  std::condition_variable wake_;
  std::atomic<uint64_t> arrived_{0};  // items ever pushed; polled before sleeping
  std::vector<Block> blocks_;         // scratch: shared, then one a thread
  std::thread thread_;
};
