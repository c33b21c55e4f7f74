/* Times the heavy CPU ops through pd.h on shapes of a Qwen3-0.6B layer stack, beside the read bandwidth measured in the same run.
   Build and run:   g++ -O2 -std=c++17 native/bench/bench.cc -o build/bench -ldl && build/bench build/cpu/libpd_cpu.so [threads] [isa]
   Prints best of several repeats; numbers worth keeping go to docs/experiments/cpu-kernels.md. */
#include <dlfcn.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>
#include "../pd.h"

static void *library;
template <class F> static F symbol(const char *name, F) { return reinterpret_cast<F>(dlsym(library, name)); }
#define PD(name) symbol(#name, &name)

static void check(int status) {
  if (status == PD_OK) return;
  std::fprintf(stderr, "%s\n", PD(pd_last_error)());
  std::exit(1);
}

static double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/* Of all threads of this process: what the work costs when other processes share the cores. */
static double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int threads = 1;

struct Matrix { int n, k; };
static const Matrix kLayer[] = {{4096, 1024}, {1024, 2048}, {6144, 1024}, {1024, 3072}};
static const int kLayerCount = 28; /* far more than any cache holds */

struct Best { double wall, processor; }; /* processor: seconds of all threads / thread count */

template <class Run> static Best best_of(int repeats, PdStream *stream, const Run &run) {
  Best best = {1e30, 1e30};
  for (int i = 0; i < repeats; i++) {
    double start = seconds(), processor_start = processor_seconds();
    run();
    check(PD(pd_stream_wait)(stream));
    best.wall = std::min(best.wall, seconds() - start);
    best.processor = std::min(best.processor, (processor_seconds() - processor_start) / threads);
  }
  return best;
}

static void bench_linear(PdDevice *device, PdStream *stream, int format, const char *name, double bandwidth) {
  std::vector<PdWeight *> weights;
  uint64_t bytes = 0, parameters = 0;
  for (int layer = 0; layer < kLayerCount; layer++) {
    for (const Matrix &matrix : kLayer) {
      PdWeight *weight;
      uint64_t weight_bytes;
      const PdWeightPart part = {matrix.n, format};
      check(PD(pd_weight_create)(device, 1, matrix.k, &part, 1, &weight));
      check(PD(pd_weight_fill_random)(stream, weight, 1, 0.02f));
      check(PD(pd_weight_bytes)(weight, &weight_bytes));
      weights.push_back(weight);
      bytes += weight_bytes;
      parameters += static_cast<uint64_t>(matrix.n) * matrix.k;
    }
  }
  void *x, *out;
  check(PD(pd_alloc)(device, 512 * 3072 * 4, &x));
  check(PD(pd_alloc)(device, 512 * 6144 * 4, &out));
  check(PD(pd_random)(stream, x, PD_F32, 512 * 3072, 2, 1.0f, 0.0f));
  for (int rows : {1, 2, 4, 8, 12, 16, 32, 128, 512}) {
    Best best = best_of(rows >= 128 ? 3 : 9, stream, [&] {
      for (size_t i = 0; i < weights.size(); i++) check(PD(pd_linear)(stream, PD_F32, out, PD_F32, x, weights[i], nullptr, rows));
    });
    std::printf("%s rows %3d: %7.1f GFLOP/s (%7.1f by processor time)  %6.2f GB/s  %5.1f %% of read bandwidth\n", name, rows,
                2.0 * parameters * rows / best.wall / 1e9, 2.0 * parameters * rows / best.processor / 1e9, bytes / best.wall / 1e9,
                100.0 * bytes / best.wall / bandwidth);
  }
  for (PdWeight *weight : weights) PD(pd_weight_destroy)(weight);
  PD(pd_free)(device, x);
  PD(pd_free)(device, out);
}

/* heads 16, KV heads 8, head_dim 128; sequences of `keys` keys with `queries` query tokens each */
static void bench_attention(PdDevice *device, PdStream *stream, int dtype, const char *name, int sequences, int keys, int queries) {
  const int heads = 16, kv_heads = 8, head_dim = 128, slots = 16, columns = heads * head_dim;
  const uint64_t element = dtype == PD_F32 ? 4 : 2, half = static_cast<uint64_t>(kv_heads) * slots * head_dim * element;
  const int blocks = (keys + slots - 1) / slots;
  const int copies = queries > 1 ? 1 : std::max(1, static_cast<int>((256u << 20) / (2 * half * blocks * sequences))); /* layers */
  PdCache *cache;
  void *base, *q, *out;
  const uint64_t cache_bytes = 2 * half * blocks * sequences * copies;
  check(PD(pd_cache_create)(device, cache_bytes, &cache));
  check(PD(pd_cache_pointer)(cache, &base));
  check(PD(pd_random)(stream, base, dtype, cache_bytes / element, 3, 1.0f, 0.0f));
  check(PD(pd_alloc)(device, sizeof(float) * columns * sequences * queries, &q));
  check(PD(pd_alloc)(device, sizeof(float) * columns * sequences * queries, &out));
  check(PD(pd_random)(stream, q, PD_F32, static_cast<uint64_t>(columns) * sequences * queries, 4, 1.0f, 0.0f));
  std::vector<int32_t> starts, counts(sequences, keys), table;
  for (int s = 0; s <= sequences; s++) starts.push_back(s * queries);
  for (int b = 0; b < blocks * sequences; b++) table.push_back(b);
  PdBatch batch = {sequences * queries, sequences, blocks, queries, keys, 0, nullptr, nullptr, starts.data(), counts.data(), table.data()};
  Best best = best_of(queries > 1 ? 3 : 7, stream, [&] {
    for (int c = 0; c < copies; c++) {
      PdKvLayer layer = {static_cast<uint8_t *>(base) + c * 2 * half * blocks * sequences, 2 * half, 0, half, dtype, slots, kv_heads, head_dim};
      check(PD(pd_paged_attention)(stream, PD_F32, out, q, columns, &layer, &batch, heads, 0.088f, 0, 0.0f));
    }
  });
  double pairs = 0;
  for (int i = 0; i < queries; i++) pairs += keys - queries + i + 1;
  std::printf("attention %s sequences %d keys %5d queries %4d: %6.1f GFLOP/s (%6.1f by processor time)  %6.2f GB/s of KV  %8.3f ms\n", name,
              sequences, keys, queries, 4.0 * pairs * sequences * columns * copies / best.wall / 1e9,
              4.0 * pairs * sequences * columns * copies / best.processor / 1e9, cache_bytes / best.wall / 1e9, best.wall / copies * 1e3);
  PD(pd_cache_close)(cache);
  PD(pd_free)(device, q);
  PD(pd_free)(device, out);
}

int main(int count, char **arguments) {
  if (count < 2 || (library = dlopen(arguments[1], RTLD_NOW)) == nullptr) {
    std::fprintf(stderr, "usage: bench path/to/libpd_cpu.so [threads] [isa] [linear|attention]\n");
    return 2;
  }
  const int isa = count > 3 ? std::atoi(arguments[3]) : 0;
  const char which = count > 4 ? arguments[4][0] : 'b';
  PdDevice *device;
  PdStream *stream;
  PdDeviceInfo info;
  double bandwidth;
  check(PD(pd_device_open)(0, count > 2 ? std::atoi(arguments[2]) : 0, isa, &device));
  check(PD(pd_stream_create)(device, &stream));
  check(PD(pd_device_info)(device, &info));
  threads = info.thread_count;
  check(PD(pd_measure_read)(device, 512ull << 20, 5, &bandwidth));
  std::printf("%s, %s, %d threads, read %.2f GB/s\n", info.name, info.isa, info.thread_count, bandwidth / 1e9);
  if (which != 'a') {
    bench_linear(device, stream, PD_BF16, "bf16", bandwidth);
    bench_linear(device, stream, PD_I8, "int8", bandwidth);
    bench_linear(device, stream, PD_GROUPED | 8, "q8  ", bandwidth);
    bench_linear(device, stream, PD_GROUPED | 4, "q4  ", bandwidth);
    bench_linear(device, stream, PD_GROUPED | 4 | PD_GROUPED_MINIMUM, "q4+m", bandwidth);
    bench_linear(device, stream, PD_GROUPED | 6 | PD_GROUPED_16, "q6  ", bandwidth);
    bench_linear(device, stream, PD_F32, "f32 ", bandwidth);
  }
  if (which != 'l') {
    bench_attention(device, stream, PD_BF16, "bf16", 1, 512, 512);
    bench_attention(device, stream, PD_BF16, "bf16", 1, 2048, 2048);
    bench_attention(device, stream, PD_F32, "f32 ", 1, 2048, 2048);
    bench_attention(device, stream, PD_BF16, "bf16", 1, 2048, 1);
    bench_attention(device, stream, PD_BF16, "bf16", 8, 2048, 1);
    bench_attention(device, stream, PD_F16, "f16 ", 8, 2048, 1);
    bench_attention(device, stream, PD_F32, "f32 ", 8, 2048, 1);
  }
  PD(pd_stream_destroy)(stream);
  PD(pd_device_close)(device);
}
