/* Helper threads: spin briefly for the next run, then sleep on a futex. A run is a gate that helpers enter while it is open;
   its owner closes the gate when the pieces are gone and waits only for those inside. */
#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace pd {
namespace {

constexpr int64_t kSpinNs = 30000;
constexpr int kComputeNice = 10;  // of -20 (first) to 19 (last)

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * int64_t(1000000000) + t.tv_nsec;
}

template <class Done>
bool spin(const Done &done) {
  if (done()) return true;
  const int64_t until = now_ns() + kSpinNs;
  do {
    for (int i = 0; i < 32; i++) {
      pause_cpu();
      if (done()) return true;
    }
  } while (now_ns() < until);
  return false;
}

void futex_sleep(std::atomic<uint32_t> &word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t> &word, int count) {
  syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

}  // namespace

void become_compute_thread(const char *name) {
  pthread_setname_np(pthread_self(), name);
  setpriority(PRIO_PROCESS, 0, kComputeNice);  // on Linux: this thread alone
}

bool spin_until(const std::function<bool()> &done) { return spin(done); }

Helpers::Helpers(int count) {
  sigset_t all, before;  // signals are for the host's threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int i = 0; i < count; i++) threads_.emplace_back([this, i] { serve(i + 1); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Helpers::~Helpers() {
  stopping_.store(true);
  epoch_.fetch_add(1);
  futex_wake(epoch_, INT_MAX);
  for (std::thread &thread : threads_) thread.join();
}

bool Helpers::run(int64_t count, int64_t grain, const Body &body) {
  if (held_.exchange(true, std::memory_order_acquire)) return false;
  body_ = &body;
  count_ = count;
  grain_ = grain;
  failed_.store(false, std::memory_order_relaxed);
  failure_ = nullptr;
  next_.store(0, std::memory_order_relaxed);
  const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
  gate_.store(uint64_t(epoch) << 32 | kOpen, std::memory_order_release);
  epoch_.store(epoch);  // sequentially consistent with sleepers_: a helper either sees it or is seen asleep
  const int64_t others = (count + grain - 1) / grain - 1;
  if (sleepers_.load() > 0) futex_wake(epoch_, (int)(others < INT_MAX ? others : INT_MAX));

  work(0);
  gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto is_empty = [this] { return (uint32_t)gate_.load(std::memory_order_acquire) == 0; };
  if (!spin(is_empty))
    while (!is_empty()) sched_yield();
  std::exception_ptr failure = failure_;
  failure_ = nullptr;
  held_.store(false, std::memory_order_release);
  if (failure) std::rethrow_exception(failure);
  return true;
}

void Helpers::work(int thread) {
  try {
    for (;;) {
      const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= count_) return;
      (*body_)(begin, begin + grain_ < count_ ? begin + grain_ : count_, thread);
    }
  } catch (...) {
    next_.store(count_, std::memory_order_relaxed);
    if (!failed_.exchange(true)) failure_ = std::current_exception();
  }
}

bool Helpers::enter(uint32_t epoch) {
  uint64_t gate = gate_.load(std::memory_order_acquire);
  while ((gate & kOpen) != 0 && (uint32_t)(gate >> 32) == epoch)
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void Helpers::serve(int thread) {
  become_compute_thread("pd-helper");
  uint32_t seen = 0;
  for (;;) {
    const auto has_news = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
    while (!spin(has_news)) {
      sleepers_.fetch_add(1);
      if (epoch_.load() == seen) futex_sleep(epoch_, seen);
      sleepers_.fetch_sub(1);
    }
    if (stopping_.load()) return;
    seen = epoch_.load(std::memory_order_acquire);
    if (!enter(seen)) continue;
    work(thread);
    gate_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace pd
