/* What an op on the CPU needs: enqueue work on a stream, run it on the pool's threads.
   Used by every op in this folder; implemented in runtime.cc and memory.cc. */
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include "../pd.h"

namespace pd {

/* The threads of one device. The stream's own thread takes part, so thread_count 1 has no helper thread. */
struct Pool {
  virtual int thread_count() const = 0;
  /* Runs body(begin, end, thread) over [0, count) cut into pieces of at most `grain`. Which thread runs a piece is not fixed:
     results must not depend on it. Returns when all are done. While another stream holds the helpers, all pieces run here, as thread 0. */
  virtual void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end, int thread)> &body) = 0;
  /* Scratch that lives until the next op of the same stream; thread -1: shared by the op, else one per thread. 64-byte aligned.
     One piece per thread: asking again with more bytes ends the life of the piece given before. Not zeroed. */
  virtual void *scratch(int thread, size_t bytes) = 0;
  virtual ~Pool() = default;
};

/* The instruction set chosen for the device: PD_ISA_SCALAR (the oracle), PD_ISA_AVX2, PD_ISA_AVX512. vnni/bf16: extra bits of the latter. */
struct IsaLevel { int isa; bool vnni; bool bf16; };
const IsaLevel &isa_of(PdStream *stream);
const IsaLevel &isa_of(PdDevice *device);

PdDevice *device_of(PdStream *stream);

/* Puts work behind what the stream already has; while a graph is being recorded, records it instead. `work` is copied.
   Work that fails while running calls raise(); the failure sticks to the stream. */
int enqueue(PdStream *stream, std::function<void(Pool &)> work);

/* Records the message for pd_last_error and returns status. For the calling thread, before anything is enqueued. */
int fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Ends the running op with a failure. For work that runs on a stream or inside parallel_for. */
[[noreturn]] void raise(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Refuses activations other than float32: the message names op and dtype. PD_OK or PD_UNSUPPORTED. */
int check_activations(const char *op, int32_t dtype);
const char *dtype_name(int32_t dtype);
size_t dtype_bytes(int32_t dtype);

/* Zeroed memory; from 1 MiB on 2 MiB-aligned with huge pages. NULL when there is none. Give map_memory's bytes to unmap_memory. */
void *map_memory(size_t bytes);
void unmap_memory(void *pointer, size_t bytes);

}  // namespace pd
