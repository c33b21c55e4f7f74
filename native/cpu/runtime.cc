/* Streams, events and graphs on the CPU. A stream is a queue with its own thread; ops run on it in order and share its pieces with the
   device's helpers. An event counts records: a ticket is issued when a record is enqueued and reached when the stream gets there.
   A failure makes a stream skip its later ops (events still pass, carrying the failure) until pd_stream_wait has reported it. */
#include "runtime.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "device.h"
#include "failure.h"

using namespace pd;

namespace {

using FailureRef = std::shared_ptr<const Failure>;
using OpList = std::vector<std::function<void(Pool &)>>;

struct EventState {
  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<uint64_t> issued{0}, reached{0};
  FailureRef failure;  // of the last record reached
  double at_ms = 0;

  void reach(uint64_t ticket, FailureRef with) {
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
  FailureRef wait(uint64_t ticket) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return reached.load() >= ticket; });
    return failure;
  }
};

struct Block { void *pointer = nullptr; size_t bytes = 0; };

}  // namespace

struct PdEvent { std::shared_ptr<EventState> state = std::make_shared<EventState>(); };
struct PdGraph { std::shared_ptr<const OpList> ops; };

struct PdStream : Pool {
  explicit PdStream(PdDevice *device) : device(device), blocks(device->helpers.count() + 2) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = std::thread([this] { serve(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    device->stream_count++;
  }
  ~PdStream() override {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
      arrived.store(arrived.load() + 1);
    }
    wake.notify_one();
    thread.join();
    for (Block &block : blocks) unmap_memory(block.pointer, block.bytes);
    device->stream_count--;
  }

  int thread_count() const override { return device->helpers.count() + 1; }

  void parallel_for(int64_t count, int64_t grain, const Body &body) override {
    if (count <= 0) return;
    if (grain < 1) grain = 1;
    if (count > grain && device->helpers.count() > 0 && device->helpers.run(count, grain, body)) return;
    for (int64_t begin = 0; begin < count; begin += grain) body(begin, begin + grain < count ? begin + grain : count, 0);
  }

  void *scratch(int index, size_t bytes) override {
    Block &block = blocks[index + 1];
    if (block.bytes >= bytes && block.pointer != nullptr) return block.pointer;
    unmap_memory(block.pointer, block.bytes);
    block.bytes = bytes + bytes / 2 + 4096;
    block.pointer = map_memory(block.bytes);
    if (block.pointer == nullptr) {
      const size_t wanted = block.bytes;
      block.bytes = 0;
      raise(PD_OUT_OF_MEMORY, "no memory for %zu bytes of scratch", wanted);
    }
    return block.pointer;
  }

  struct Item {
    std::function<void(Pool &)> work;
    bool runs_after_failure;  // records and waits pass a failure on
  };

  void push(std::function<void(Pool &)> work, bool runs_after_failure) {
    bool is_asleep;
    {
      std::lock_guard<std::mutex> lock(mutex);
      incoming.push_back({std::move(work), runs_after_failure});
      arrived.store(arrived.load(std::memory_order_relaxed) + 1, std::memory_order_release);
      is_asleep = sleeping;
    }
    if (is_asleep) wake.notify_one();
  }

  void serve() {
    pthread_setname_np(pthread_self(), "pd-stream");
    std::vector<Item> taken;
    for (uint64_t seen = 0;;) {
      spin_until([&] { return arrived.load(std::memory_order_acquire) != seen; });
      {
        std::unique_lock<std::mutex> lock(mutex);
        sleeping = true;
        wake.wait(lock, [&] { return !incoming.empty() || stopping; });
        sleeping = false;
        taken.swap(incoming);
        seen = arrived.load();
        if (taken.empty()) return;
      }
      for (Item &item : taken) {
        run(item);
        item.work = nullptr;  // what it captured ends now
      }
      taken.clear();
    }
  }

  void run(const Item &item) {
    if (failure && !item.runs_after_failure) return;
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

  PdDevice *device;
  std::vector<Block> blocks;  // scratch: shared, then one a thread
  FailureRef failure;         // touched by the stream's thread only
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> arrived{0};
  std::vector<Item> incoming;
  std::shared_ptr<OpList> recording;  // while a graph is being recorded
  bool sleeping = false, stopping = false;
  std::thread thread;
};

namespace {

int report(const FailureRef &failure) {
  return failure == nullptr ? PD_OK : fail(failure->status, "%s", failure->message.c_str());
}

bool is_recording(PdStream *stream) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  return stream->recording != nullptr;
}

}  // namespace

namespace pd {

const IsaLevel &isa_of(PdStream *stream) { return stream->device->isa; }
PdDevice *device_of(PdStream *stream) { return stream->device; }

int enqueue(PdStream *stream, std::function<void(Pool &)> work) {
  {
    std::lock_guard<std::mutex> lock(stream->mutex);
    if (stream->recording != nullptr) {
      stream->recording->push_back(std::move(work));
      return PD_OK;
    }
  }
  stream->push(std::move(work), false);
  return PD_OK;
}

}  // namespace pd

// ---- streams

extern "C" int pd_stream_create(PdDevice *device, PdStream **stream) {
  try {
    *stream = new PdStream(device);
  } catch (const std::exception &error) {
    return fail(PD_OUT_OF_MEMORY, "stream_create: %s", error.what());
  }
  return PD_OK;
}

extern "C" int pd_stream_destroy(PdStream *stream) {
  delete stream;
  return PD_OK;
}

extern "C" int pd_stream_wait(PdStream *stream) {
  if (is_recording(stream)) return fail(PD_INVALID, "stream_wait: the stream is recording a graph");
  auto event = std::make_shared<EventState>();
  stream->push(
      [event, stream](Pool &) {
        FailureRef failure = std::move(stream->failure);  // reported now, so later work runs again
        stream->failure = nullptr;
        event->reach(1, std::move(failure));
      },
      true);
  return report(event->wait(1));
}

extern "C" int pd_stream_wait_event(PdStream *stream, PdEvent *event) {
  if (is_recording(stream)) return fail(PD_INVALID, "stream_wait_event: not while a graph is being recorded");
  const uint64_t ticket = event->state->issued.load();
  if (ticket == 0) return PD_OK;
  stream->push(
      [state = event->state, ticket, stream](Pool &) {
        spin_until([&] { return state->reached.load(std::memory_order_acquire) >= ticket; });
        FailureRef failure = state->wait(ticket);
        if (failure && !stream->failure) stream->failure = std::move(failure);
      },
      true);
  return PD_OK;
}

// ---- events

extern "C" int pd_event_create(PdDevice *, PdEvent **event) {
  *event = new PdEvent;
  return PD_OK;
}

extern "C" int pd_event_destroy(PdEvent *event) {
  delete event;
  return PD_OK;
}

extern "C" int pd_event_record(PdStream *stream, PdEvent *event) {
  if (is_recording(stream)) return fail(PD_INVALID, "event_record: not while a graph is being recorded");
  const uint64_t ticket = event->state->issued.fetch_add(1) + 1;
  stream->push([state = event->state, ticket, stream](Pool &) { state->reach(ticket, stream->failure); }, true);
  return PD_OK;
}

extern "C" int pd_event_wait(PdEvent *event) {
  const std::shared_ptr<EventState> state = event->state;
  return report(state->wait(state->issued.load()));
}

extern "C" int pd_event_query(PdEvent *event) { return event->state->reached.load() >= event->state->issued.load() ? 1 : 0; }

extern "C" int pd_event_elapsed(PdEvent *start, PdEvent *end, double *milliseconds) {
  if (pd_event_query(start) == 0 || pd_event_query(end) == 0) return fail(PD_INVALID, "event_elapsed: an event is not reached yet");
  const auto reached_at = [](PdEvent *event) {
    std::lock_guard<std::mutex> lock(event->state->mutex);
    return event->state->at_ms;
  };
  *milliseconds = reached_at(end) - reached_at(start);
  return PD_OK;
}

// ---- graphs

extern "C" int pd_graph_begin(PdStream *stream) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  if (stream->recording != nullptr) return fail(PD_INVALID, "graph_begin: the stream is recording a graph already");
  stream->recording = std::make_shared<OpList>();
  return PD_OK;
}

extern "C" int pd_graph_end(PdStream *stream, PdGraph **graph) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  if (stream->recording == nullptr) return fail(PD_INVALID, "graph_end: the stream is not recording a graph");
  *graph = new PdGraph{std::move(stream->recording)};
  stream->recording = nullptr;
  return PD_OK;
}

extern "C" int pd_graph_launch(PdStream *stream, PdGraph *graph) {
  return enqueue(stream, [ops = graph->ops](Pool &pool) {
    for (const auto &op : *ops) op(pool);
  });
}

extern "C" int pd_graph_destroy(PdGraph *graph) {
  delete graph;
  return PD_OK;
}
