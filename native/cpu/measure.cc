/* pd_measure_read: the memory bandwidth that a decode step can hope for. All threads sum one large buffer with the widest loads;
   the best of `repeats` passes counts. */
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include "runtime.h"
#include "vmath.h"

namespace pd {
namespace {

constexpr uint64_t kPiece = 1 << 20;

uint64_t read_scalar(const uint8_t *data, uint64_t bytes) {
  uint64_t sums[8] = {};
  for (uint64_t i = 0; i + 64 <= bytes; i += 64)
    for (int j = 0; j < 8; j++) {
      uint64_t word;
      std::memcpy(&word, data + i + 8 * j, 8);
      sums[j] ^= word;
    }
  uint64_t all = 0;
  for (uint64_t sum : sums) all ^= sum;
  return all;
}

#if defined(__x86_64__)
PD_TARGET_AVX512 uint64_t read_avx512(const uint8_t *data, uint64_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (uint64_t i = 0; i + 256 <= bytes; i += 256) {
    _mm_prefetch(reinterpret_cast<const char *>(data + i + 4096), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char *>(data + i + 4096 + 64), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char *>(data + i + 4096 + 128), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char *>(data + i + 4096 + 192), _MM_HINT_T0);
    a = _mm512_xor_si512(a, _mm512_loadu_si512(data + i));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(data + i + 64));
    c = _mm512_xor_si512(c, _mm512_loadu_si512(data + i + 128));
    d = _mm512_xor_si512(d, _mm512_loadu_si512(data + i + 192));
  }
  uint64_t words[8];
  _mm512_storeu_si512(words, _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d)));
  return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

PD_TARGET_AVX2 uint64_t read_avx2(const uint8_t *data, uint64_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (uint64_t i = 0; i + 128 <= bytes; i += 128) {
    _mm_prefetch(reinterpret_cast<const char *>(data + i + 4096), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char *>(data + i + 4096 + 64), _MM_HINT_T0);
    a = _mm256_xor_si256(a, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(data + i)));
    b = _mm256_xor_si256(b, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(data + i + 32)));
    c = _mm256_xor_si256(c, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(data + i + 64)));
    d = _mm256_xor_si256(d, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(data + i + 96)));
  }
  __m256i all = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
  uint64_t words[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(words), all);
  return words[0] ^ words[1] ^ words[2] ^ words[3];
}
#endif

uint64_t read_piece(int isa, const uint8_t *data, uint64_t bytes) {
#if defined(__x86_64__)
  if (isa == PD_ISA_AVX512) return read_avx512(data, bytes);
  if (isa == PD_ISA_AVX2) return read_avx2(data, bytes);
#endif
  (void)isa;
  return read_scalar(data, bytes);
}

/* One buffer of [pieces][kPiece] bytes, touched by the threads that will read it. */
void measure(Pool &pool, int isa, uint8_t *data, int64_t pieces, int32_t repeats, double *best_seconds) {
  std::atomic<uint64_t> sink{0};
  pool.parallel_for(pieces, 1, [&](int64_t begin, int64_t end, int) { std::memset(data + begin * kPiece, 1, (end - begin) * kPiece); });
  for (int32_t i = 0; i < repeats; i++) {
    auto start = std::chrono::steady_clock::now();
    pool.parallel_for(pieces, 1, [&](int64_t begin, int64_t end, int) {
      sink.fetch_xor(read_piece(isa, data + begin * kPiece, (end - begin) * kPiece), std::memory_order_relaxed);
    });
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    *best_seconds = i == 0 ? seconds : std::min(*best_seconds, seconds);
  }
}

}  // namespace
}  // namespace pd

using namespace pd;

extern "C" int pd_measure_read(PdDevice *device, uint64_t bytes, int32_t repeats, double *bytes_per_second) {
  int64_t pieces = static_cast<int64_t>(bytes / kPiece);
  if (pieces < 1 || repeats < 1)
    return fail(PD_INVALID, "measure_read: needs at least 1 MiB and 1 repeat (%llu bytes, %d repeats)", static_cast<unsigned long long>(bytes),
                repeats);
  void *data = nullptr;
  PdStream *stream = nullptr;
  int status = pd_alloc(device, static_cast<uint64_t>(pieces) * kPiece, &data);
  if (status == PD_OK) status = pd_stream_create(device, &stream);
  double seconds = 0.0;
  if (status == PD_OK) {
    int isa = isa_of(stream).isa;
    status = enqueue(stream, [&](Pool &pool) { measure(pool, isa, static_cast<uint8_t *>(data), pieces, repeats, &seconds); });
    int waited = pd_stream_wait(stream);
    if (status == PD_OK) status = waited;
  }
  if (stream != nullptr) pd_stream_destroy(stream);
  if (data != nullptr) pd_free(device, data);
  if (status == PD_OK) *bytes_per_second = static_cast<double>(pieces) * kPiece / seconds;
  return status;
}
