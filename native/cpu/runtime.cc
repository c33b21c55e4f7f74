/* The C calls for streams, events and graphs on the CPU: see stream.h. Twin: ../cuda/runtime.cc
   A failure makes a stream skip its later ops (events still pass, carrying the failure) until pd_stream_wait has reported it. */
#include "runtime.h"

#include <memory>

#include "stream.h"

using namespace pd;

struct PdEvent { std::shared_ptr<EventState> state = std::make_shared<EventState>(); };
struct PdGraph { std::shared_ptr<const OpList> ops; };

namespace {

int report(const FailureRef &failure) {
  return failure == nullptr ? PD_OK : fail(failure->status, "%s", failure->message.c_str());
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
  stream->push(std::move(work), PdStream::After::success);
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
  if (stream->is_recording()) return fail(PD_INVALID, "stream_wait: the stream is recording a graph");
  auto event = std::make_shared<EventState>();
  stream->push(
      [event, stream](Pool &) {
        FailureRef failure = std::move(stream->failure);  // reported now, so later work runs again
        stream->failure = nullptr;
        event->reach(1, std::move(failure));
      },
      PdStream::After::failure);
  return report(event->wait(1));
}

extern "C" int pd_stream_wait_event(PdStream *stream, PdEvent *event) {
  if (stream->is_recording()) return fail(PD_INVALID, "stream_wait_event: not while a graph is being recorded");
  const uint64_t ticket = event->state->issued.load();
  if (ticket == 0) return PD_OK;
  stream->push(
      [state = event->state, ticket, stream](Pool &) {
        spin_until([&] { return state->reached.load(std::memory_order_acquire) >= ticket; });
        FailureRef failure = state->wait(ticket);
        if (failure && !stream->failure) stream->failure = std::move(failure);
      },
      PdStream::After::failure);
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
  if (stream->is_recording()) return fail(PD_INVALID, "event_record: not while a graph is being recorded");
  const uint64_t ticket = event->state->issued.fetch_add(1) + 1;
  stream->push([state = event->state, ticket, stream](Pool &) { state->reach(ticket, stream->failure); },
               PdStream::After::failure);
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
