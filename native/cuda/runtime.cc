/* Streams, events and graphs: thin names for CUDA's. A graph is a stream capture, so TypeScript records a decode step by running it once. */
#include <new>
#include "runtime.h"

using namespace pd;

struct PdEvent {
  PdDevice *device;
  cudaEvent_t cuda;
};

struct PdGraph {
  PdDevice *device;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
};

namespace pd {

int kernel_facts(PdDevice *device, const char *op, const void *kernel, size_t shared_bytes, bool *overlaps) {
  constexpr size_t kSharedBytesFree = 48 * 1024; /* of dynamic shared memory, for any kernel */
  constexpr int kWaitVersion = 90;               /* of the code that grid_wait is compiled into; older PTX runs on newer devices without it */
  std::lock_guard<std::mutex> lock(device->kernels_mutex);
  auto found = device->kernels.find(kernel);
  if (found == device->kernels.end()) {
    cudaFuncAttributes attributes{};
    if (int status = check(cudaFuncGetAttributes(&attributes, kernel), op)) return status;
    found = device->kernels.emplace(kernel, KernelFacts{attributes.ptxVersion >= kWaitVersion, kSharedBytesFree}).first;
  }
  KernelFacts &facts = found->second;
  if (shared_bytes > facts.shared_bytes) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return check(error, op);
    facts.shared_bytes = shared_bytes;
  }
  *overlaps = facts.overlaps;
  return PD_OK;
}

}  // namespace pd

namespace {

int refuse_recording(const PdStream *stream, const char *what) {
  return stream->is_recording ? fail(PD_INVALID, "%s: not while a graph is being recorded", what) : PD_OK;
}

}  // namespace

// ---- streams

extern "C" int pd_stream_create(PdDevice *device, PdStream **stream) {
  if (int status = enter(device)) return status;
  PdStream *made = new (std::nothrow) PdStream{};
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "stream_create: out of host memory");
  made->device = device;
  if (int status = check(cudaStreamCreateWithFlags(&made->cuda, cudaStreamNonBlocking), "stream_create")) {
    delete made;
    return status;
  }
  *stream = made;
  return PD_OK;
}

extern "C" int pd_stream_destroy(PdStream *stream) {
  if (int status = enter(stream->device)) return status;
  int status = check(cudaStreamSynchronize(stream->cuda), "stream_destroy");
  cudaStreamDestroy(stream->cuda);
  for (auto &piece : stream->scratch) cudaFree(piece.pointer);
  for (void *pointer : stream->retired) cudaFree(pointer);
  delete stream;
  return status;
}

extern "C" int pd_stream_wait(PdStream *stream) {
  if (int status = enter(stream->device)) return status;
  if (int status = refuse_recording(stream, "stream_wait")) return status;
  return check(cudaStreamSynchronize(stream->cuda), "stream_wait: work on the stream failed");
}

extern "C" int pd_stream_wait_event(PdStream *stream, PdEvent *event) {
  if (int status = enter(stream->device)) return status;
  if (int status = refuse_recording(stream, "stream_wait_event")) return status;
  return check(cudaStreamWaitEvent(stream->cuda, event->cuda, 0), "stream_wait_event");
}

// ---- events

extern "C" int pd_event_create(PdDevice *device, PdEvent **event) {
  if (int status = enter(device)) return status;
  PdEvent *made = new (std::nothrow) PdEvent{device, nullptr};
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "event_create: out of host memory");
  if (int status = check(cudaEventCreate(&made->cuda), "event_create")) {
    delete made;
    return status;
  }
  *event = made;
  return PD_OK;
}

extern "C" int pd_event_destroy(PdEvent *event) {
  if (int status = enter(event->device)) return status;
  int status = check(cudaEventDestroy(event->cuda), "event_destroy");
  delete event;
  return status;
}

extern "C" int pd_event_record(PdStream *stream, PdEvent *event) {
  if (int status = enter(stream->device)) return status;
  if (int status = refuse_recording(stream, "event_record")) return status;
  return check(cudaEventRecord(event->cuda, stream->cuda), "event_record");
}

extern "C" int pd_event_wait(PdEvent *event) {
  if (int status = enter(event->device)) return status;
  return check(cudaEventSynchronize(event->cuda), "event_wait: work before the event failed");
}

extern "C" int pd_event_query(PdEvent *event) {
  if (enter(event->device) != PD_OK) return 1;
  return cudaEventQuery(event->cuda) == cudaErrorNotReady ? 0 : 1; /* a failure counts as reached: the wait reports it */
}

extern "C" int pd_event_elapsed(PdEvent *start, PdEvent *end, double *milliseconds) {
  if (int status = enter(start->device)) return status;
  float elapsed = 0.0f;
  cudaError_t error = cudaEventElapsedTime(&elapsed, start->cuda, end->cuda);
  if (error == cudaErrorNotReady || error == cudaErrorInvalidResourceHandle) {
    cudaGetLastError();
    return fail(PD_INVALID, "event_elapsed: an event is not reached yet");
  }
  if (int status = check(error, "event_elapsed")) return status;
  *milliseconds = elapsed;
  return PD_OK;
}

// ---- graphs

extern "C" int pd_graph_begin(PdStream *stream) {
  if (int status = enter(stream->device)) return status;
  if (stream->is_recording) return fail(PD_INVALID, "graph_begin: the stream is recording a graph already");
  /* relaxed: growing scratch and trying GEMM algorithms (on the side stream) stay allowed while recording */
  if (int status = check(cudaStreamBeginCapture(stream->cuda, cudaStreamCaptureModeRelaxed), "graph_begin")) return status;
  stream->is_recording = true;
  stream->has_moved_keys = false; /* a graph starts when all work before it has ended */
  return PD_OK;
}

extern "C" int pd_graph_end(PdStream *stream, PdGraph **graph) {
  if (int status = enter(stream->device)) return status;
  if (!stream->is_recording) return fail(PD_INVALID, "graph_end: the stream is not recording a graph");
  stream->is_recording = false;
  PdGraph *made = new (std::nothrow) PdGraph{stream->device, nullptr, nullptr};
  if (made == nullptr) return fail(PD_OUT_OF_MEMORY, "graph_end: out of host memory");
  int status = check(cudaStreamEndCapture(stream->cuda, &made->graph), "graph_end");
  if (status == PD_OK) status = check(cudaGraphInstantiate(&made->executable, made->graph, 0), "graph_end");
  if (status == PD_OK) status = check(cudaGraphUpload(made->executable, stream->cuda), "graph_end");
  if (status != PD_OK) {
    if (made->executable != nullptr) cudaGraphExecDestroy(made->executable);
    if (made->graph != nullptr) cudaGraphDestroy(made->graph);
    delete made;
    return status;
  }
  *graph = made;
  return PD_OK;
}

extern "C" int pd_graph_launch(PdStream *stream, PdGraph *graph) {
  if (int status = enter(stream->device)) return status;
  if (int status = refuse_recording(stream, "graph_launch")) return status;
  return check(cudaGraphLaunch(graph->executable, stream->cuda), "graph_launch");
}

extern "C" int pd_graph_destroy(PdGraph *graph) {
  if (int status = enter(graph->device)) return status;
  cudaGraphExecDestroy(graph->executable);
  cudaGraphDestroy(graph->graph);
  delete graph;
  return PD_OK;
}
