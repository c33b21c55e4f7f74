/* out[r, n] = x[r] . weight[n] + bias[n] for up to 8 rows, 16-bit or fp8 weights, at the speed of memory: the decode step's products. Hopper
   only; elsewhere gemv.cu or gemm_tensor.cu, which adds in the same order.

   Two blocks per multiprocessor take groups of 16 rows of the matrix. A copying warp keeps a ring of panels full with bulk copies, 2 KB of k of 16
   rows at a time (a multiprocessor starts a copy every 30 ns, so they have to be long); eight warps share out a panel's k and multiply on tensor
   cores, the matrix as the left operand, x as the right one of 8 columns. Their sums meet once per group. The ring fills before the previous kernel has ended, because weights depend on nothing: as
   blocks of one product end, the next one's are already reading.

     ring   [W 16 x 2 KB | x 8 x 2 KB] [W | x] …        rows padded by 16 bytes: no bank conflicts

   With fp8 weights x is not in the ring: each block quantises all of it once, while its ring fills, and keeps it. */
#include "gemm.h"
#include "mma.cuh"
#include "wgmma.cuh"

namespace pd {
namespace {

constexpr int kWarps = kSlices, kComputeThreads = 32 * kWarps, kThreads = kComputeThreads + 32;
constexpr int kPanelBytes = kSlices * kSliceBytes, kPitch = kPanelBytes + 16;
constexpr int kGroup = 16, kInputs = 8;
constexpr int kSums = kGroup * kInputs; /* of a warp */
constexpr int kStagesMax = 8;
constexpr int kFixedBytes = 2 * kWarps * kSums * 4 + 2 * kStagesMax * 8;

/* How the shared memory of a block is laid out: ring, x in fp8, sums, barriers. */
struct Layout {
  int stages, stage_bytes, x_pitch, x_bytes;
  int sums_at() const { return stages * stage_bytes + x_bytes; }
};

// ---- kernels

#if __CUDA_ARCH__ >= 900

/* A place in the ring. */
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/* The copying warp: fills the ring for every panel of every group of this block. */
template <typename T>
__device__ void copy_panels(const Product &p, const Layout &layout, uint32_t ring, uint32_t full, uint32_t free) {
  constexpr bool kHasInputs = !std::is_same_v<T, fp8>;
  const int64_t row_bytes = (int64_t)p.k * sizeof(T);
  const int lane = threadIdx.x % 32, panels = (int)((row_bytes + kPanelBytes - 1) / kPanelBytes), groups = (p.n + kGroup - 1) / kGroup;
  const int fills = (int)blockIdx.x < groups ? (groups - blockIdx.x + gridDim.x - 1) / gridDim.x * panels : 0;
  int panel = 0, first = blockIdx.x * kGroup;
  const auto next = [&]() {
    if (++panel == panels) {
      panel = 0;
      first += gridDim.x * kGroup;
    }
  };
  const auto copy_weights = [&](int stage) {
    const uint32_t bytes = (uint32_t)min((int64_t)kPanelBytes, row_bytes - (int64_t)panel * kPanelBytes);
    const int rows = min(kGroup, p.n - first);
    if (lane == 0) barrier_expect(full + stage * 8, bytes * (rows + (kHasInputs ? p.row_count : 0)));
    __syncwarp();
    if (lane < rows)
      copy_run(ring + stage * layout.stage_bytes + lane * kPitch, (const char *)p.weight + (first + lane) * row_bytes + (int64_t)panel * kPanelBytes, bytes,
               full + stage * 8);
  };
  const auto copy_inputs = [&](int stage, int panel) {
    const uint32_t bytes = (uint32_t)min((int64_t)kPanelBytes, row_bytes - (int64_t)panel * kPanelBytes);
    if (kHasInputs && lane < p.row_count)
      copy_run(ring + stage * layout.stage_bytes + (kGroup + lane) * kPitch, (const char *)p.x + lane * row_bytes + (int64_t)panel * kPanelBytes, bytes,
               full + stage * 8);
  };
  const int early = min(fills, layout.stages);
  for (int fill = 0; fill < early; fill++, next()) copy_weights(fill);
  grid_release();
  grid_wait();
  for (int fill = 0; fill < early; fill++) copy_inputs(fill, fill % panels);
  Turn turn;
  for (int fill = early; fill < fills; fill++, next(), turn.advance(layout.stages)) {
    barrier_wait(free + turn.stage * 8, turn.parity);
    copy_weights(turn.stage);
    copy_inputs(turn.stage, panel);
  }
}

/* All of x to fp8 in shared memory, by the computing warps, which share the rows. x: [rows, k] of X; scales: [rows] */
template <typename X>
__device__ void quantise_inputs(const Product &p, const Layout &layout, char *target, float *scales, int *largest_bits) {
  const int row_teams = p.row_count > 4 ? 8 : p.row_count > 2 ? 4 : p.row_count, team = kComputeThreads / row_teams;
  const int row = threadIdx.x / team, member = threadIdx.x % team;
  const bool has_row = row < p.row_count;
  const X *x = (const X *)p.x + (size_t)row * p.k;
  if (threadIdx.x < kInputs) largest_bits[threadIdx.x] = 0;
  named_barrier(1, kComputeThreads);
  if (has_row) {
    float largest = 0.0f;
#pragma unroll 8
    for (int i = member * 8; i < p.k; i += team * 8) {
      const Vector<X> values = load_vector(x + i);
#pragma unroll
      for (int j = 0; j < 8; j++) largest = fmaxf(largest, fabsf(to_float(values.at[j])));
    }
    largest = warp_max(largest);
    if (threadIdx.x % 32 == 0) atomicMax(&largest_bits[row], __float_as_int(largest)); /* not negative: bits order as numbers do */
  }
  named_barrier(1, kComputeThreads);
  if (has_row) {
    const float scale = product_scale(__int_as_float(largest_bits[row])), inverse = inverse_scale(scale);
    if (member == 0) scales[row] = scale;
#pragma unroll 8
    for (int i = member * 8; i < p.k; i += team * 8) {
      const Vector<X> values = load_vector(x + i);
      float v[8];
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = to_float(values.at[j]) * inverse;
      *(uint2 *)(target + row * layout.x_pitch + i) = make_uint2(pack_fp8(v[0], v[1], v[2], v[3]), pack_fp8(v[4], v[5], v[6], v[7]));
    }
  }
  named_barrier(1, kComputeThreads);
}

template <typename T>
__device__ void multiply_panels(const Product &p, const Layout &layout, uint32_t ring, uint32_t x_shared, uint32_t full, uint32_t free, float *sums) {
  constexpr bool kHasInputs = !std::is_same_v<T, fp8>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int row_bytes = p.k * (int)sizeof(T), panels = (row_bytes + kPanelBytes - 1) / kPanelBytes, groups = (p.n + kGroup - 1) / kGroup;
  const int input_row = min(lane % 8, p.row_count - 1);
  Turn turn;
  int buffer = 0;
  for (int group = blockIdx.x; group < groups; group += gridDim.x, buffer ^= 1) {
    float c[4] = {};
    for (int panel = 0; panel < panels; panel++, turn.advance(layout.stages)) {
      const int steps = (min(kSliceBytes, row_bytes - panel * kPanelBytes - warp * kSliceBytes) + 31) / 32;
      const uint32_t stage = ring + turn.stage * layout.stage_bytes + warp * kSliceBytes;
      const uint32_t inputs_at = kHasInputs ? stage + (kGroup + input_row) * kPitch : x_shared + input_row * layout.x_pitch + panel * kPanelBytes + warp * kSliceBytes;
      barrier_wait(full + turn.stage * 8, turn.parity);
#pragma unroll
      for (int step = 0; step < kSliceBytes / 32; step += 2) {
        if (step >= steps) break;
        uint32_t weights[2][4], inputs[4];
#pragma unroll
        for (int i = 0; i < 2; i++) ldmatrix4(weights[i], stage + (lane % 16) * kPitch + (step + i) * 32 + lane / 16 * 16);
        ldmatrix4(inputs, inputs_at + step * 32 + lane / 8 * 16);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          if (step + i >= steps) break;
          mma16816<T>(c, weights[i], inputs[2 * i], inputs[2 * i + 1]);
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(free + turn.stage * 8);
    }
    float *mine = sums + (buffer * kWarps + warp) * kSums; /* [8 rows of x][16] */
#pragma unroll
    for (int i = 0; i < 4; i++) mine[(2 * t + i % 2) * kGroup + g + i / 2 * 8] = c[i];
    named_barrier(1, kComputeThreads);
    for (int i = threadIdx.x; i < p.row_count * kGroup; i += kComputeThreads) {
      const int row = i / kGroup, col = group * kGroup + i % kGroup;
      const float *parts = sums + buffer * kWarps * kSums + i;
      float sum = 0.0f;
#pragma unroll
      for (int s = 0; s < kSlices; s++) sum += parts[s * kSums];
      if (col < p.n) Epilogue<T>(p, 0, row).store(col, sum);
    }
  }
}

#endif

/* X: of the activations; T: of the matrix */
template <typename X, typename T>
__global__ void __launch_bounds__(kThreads, 2) gemm_stream_kernel(Product p, const Layout layout) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char shared[];
  __shared__ float x_scales[kInputs];
  __shared__ int largest_bits[kInputs];
  const uint32_t ring = shared_address(shared);
  char *inputs = shared + layout.stages * layout.stage_bytes;
  float *sums = (float *)(inputs + layout.x_bytes);
  const uint32_t full = shared_address(sums + 2 * kWarps * kSums), free = full + kStagesMax * 8;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < layout.stages; stage++) {
      barrier_init(full + stage * 8, 1);
      barrier_init(free + stage * 8, kWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x / 32 == kWarps) {
    copy_panels<T>(p, layout, ring, full, free);
  } else {
    grid_release();
    grid_wait();
    if constexpr (std::is_same_v<T, fp8>) {
      quantise_inputs<X>(p, layout, inputs, x_scales, largest_bits);
      p.x_scales = x_scales;
    }
    multiply_panels<T>(p, layout, ring, shared_address(inputs), full, free, sums);
  }
#endif
}

// ---- launchers

template <typename X, typename T>
int launch_stream(PdStream *stream, const Product &p) {
  constexpr bool kIsFp8 = std::is_same_v<T, fp8>;
  const PdDevice *device = stream->device;
  Layout layout{};
  layout.stage_bytes = (kGroup + (kIsFp8 ? 0 : p.row_count)) * kPitch;
  layout.x_pitch = p.k + 16;
  layout.x_bytes = kIsFp8 ? ceil_div(layout.x_pitch * p.row_count, 128) * 128 : 0;
  const auto stages_in = [&](size_t bytes) { return ((int)bytes - kFixedBytes - layout.x_bytes) / layout.stage_bytes; };
  const size_t all = device->shared_bytes_max - 1024, half = (device->shared_bytes_max - 1024) / 2 - 512;
  const int blocks = stages_in(half) >= 2 ? 2 : 1; /* per multiprocessor */
  layout.stages = stages_in(blocks == 2 ? half : all);
  layout.stages = layout.stages < kStagesMax ? layout.stages : kStagesMax;
  if (layout.stages < 2) return fail(PD_UNSUPPORTED, "linear: %d rows of k %d in fp8 do not fit shared memory", p.row_count, p.k);
  const int groups = ceil_div(p.n, kGroup), most = blocks * device->multiprocessor_count;
  return launch(stream, "linear (stream)", gemm_stream_kernel<X, T>, (unsigned)(groups < most ? groups : most), kThreads,
                (size_t)(layout.sums_at() + kFixedBytes), p, layout);
}

}  // namespace

int gemm_stream(PdStream *stream, const Product &p) {
  const bool is_fp8 = p.format == PD_FP8_E4M3;
  if (p.dtype == PD_BF16) return is_fp8 ? launch_stream<bf16, fp8>(stream, p) : launch_stream<bf16, bf16>(stream, p);
  return is_fp8 ? launch_stream<f16, fp8>(stream, p) : launch_stream<f16, f16>(stream, p);
}

}  // namespace pd
