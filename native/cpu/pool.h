/* The helper threads of one device. Used by runtime.cc alone; ops see them through Pool.
   Invariant: when run() returns no helper touches the body any more; a helper that slept through a run never delays it. */
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace pd {

using Body = std::function<void(int64_t begin, int64_t end, int thread)>;

/* Tells the processor that this is a waiting loop. */
inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/* For a thread that computes: names it, and lets event loops (tokens on their way to clients, new requests) go first where cores are
   scarce. Measured on 2 cores under full load: first tokens a third sooner, smaller bursts, the same throughput
   (docs/experiments/token-bursts.md). */
void become_compute_thread(const char *name);

/* Polls `done` for about 30 us: less than a futex sleep and wake cost, short enough not to starve other processes. */
bool spin_until(const std::function<bool()> &done);

class Helpers {
 public:
  explicit Helpers(int count);
  ~Helpers();
  int count() const { return (int)threads_.size(); }
  /* Shares [0, count) among the caller (thread 0) and the helpers (1..). False, with nothing done, when another stream runs here. */
  bool run(int64_t count, int64_t grain, const Body &body);

 private:
  static constexpr uint64_t kOpen = uint64_t(1) << 31;  // gate: epoch << 32 | open | helpers inside
  void serve(int thread);
  void work(int thread);
  bool enter(uint32_t epoch);

  alignas(64) std::atomic<uint32_t> epoch_{0};  // futex word
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<uint64_t> gate_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<bool> held_{false};
  int64_t count_ = 0, grain_ = 1;
  const Body *body_ = nullptr;
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;  // of the first piece that threw
  std::vector<std::thread> threads_;
};

}  // namespace pd
