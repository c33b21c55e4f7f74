/* out[r, n] = x[r] . weight[n] + bias[n] for up to 8 rows in 16 bits, at the speed of memory: the decode step's products. Hopper only; the
   twin for other GPUs and dtypes is gemv.cu.

   Two blocks per multiprocessor take groups of 16 rows of the matrix. A copying warp keeps a ring of panels full with bulk copies, 512 k of
   the 16 rows and of x at a time; eight warps share out a panel's k and multiply on tensor cores, the matrix as the left operand, x as the
   right one of 8 columns. Their sums meet once per group. The ring fills before the previous kernel has ended, because weights depend on
   nothing: as blocks of one product end, the next one's are already reading.

     ring   [W 16 x 512 | x 8 x 512] [W | x] [W | x] …        rows padded by 16 bytes: no bank conflicts                            */
#include "gemm.h"
#include "mma.cuh"
#include "wgmma.cuh"

namespace pd {
namespace {

constexpr int kWarps = 8, kThreads = 32 * (kWarps + 1);
constexpr int kGroup = 16, kPanel = 512;
[[maybe_unused]] constexpr int kWarpPanel = kPanel / kWarps;
constexpr int kPitch = kPanel * 2 + 16;

constexpr int kInputs = 8;
constexpr int kStages = 4;
constexpr int kStageBytes = (kGroup + kInputs) * kPitch;
constexpr int kSums = kGroup * kInputs;
constexpr int kSharedBytes = kStages * kStageBytes + 2 * kWarps * kSums * 4 + 2 * kStages * 8;

// ---- kernels

#if __CUDA_ARCH__ >= 900

/* The copying warp: fills the ring for every panel of every group of this block. */
template <typename T>
__device__ void copy_panels(uint32_t ring, uint32_t full, uint32_t free, const T *x, const T *weight, int row_count, int n, int k) {
  const int lane = threadIdx.x % 32, panels = (k + kPanel - 1) / kPanel, groups = (n + kGroup - 1) / kGroup;
  const int fills = blockIdx.x < groups ? (groups - blockIdx.x + gridDim.x - 1) / gridDim.x * panels : 0;
  const auto copy = [&](int fill, bool takes_weights, bool takes_inputs) {
    const int stage = fill % kStages, first = (blockIdx.x + fill / panels * gridDim.x) * kGroup, k_first = fill % panels * kPanel;
    const uint32_t bytes = min(kPanel, k - k_first) * 2;
    const int rows = min(kGroup, n - first);
    if (takes_weights) {
      if (lane == 0) barrier_expect(full + stage * 8, bytes * (rows + row_count));
      __syncwarp();
      if (lane < rows) copy_run(ring + stage * kStageBytes + lane * kPitch, weight + (size_t)(first + lane) * k + k_first, bytes, full + stage * 8);
    }
    const int row = lane - kGroup;
    if (takes_inputs && row >= 0 && row < row_count)
      copy_run(ring + stage * kStageBytes + lane * kPitch, x + (size_t)row * k + k_first, bytes, full + stage * 8);
  };
  const int early = min(fills, kStages);
  for (int fill = 0; fill < early; fill++) copy(fill, true, false);
  grid_release();
  grid_wait();
  for (int fill = 0; fill < early; fill++) copy(fill, false, true);
  for (int fill = early; fill < fills; fill++) {
    barrier_wait(free + fill % kStages * 8, fill / kStages % 2 ^ 1);
    copy(fill, true, true);
  }
}

template <typename T, typename Out>
__device__ void multiply_panels(uint32_t ring, uint32_t full, uint32_t free, float *sums, Out *out, const float *bias, int row_count, int n, int k) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int panels = (k + kPanel - 1) / kPanel, groups = (n + kGroup - 1) / kGroup;
  int fill = 0, buffer = 0;
  for (int group = blockIdx.x; group < groups; group += gridDim.x, buffer ^= 1) {
    float c[4] = {};
    for (int panel = 0; panel < panels; panel++, fill++) {
      const int stage = fill % kStages, steps = (min(kWarpPanel, k - panel * kPanel - warp * kWarpPanel) + 15) / 16;
      const uint32_t base = ring + stage * kStageBytes + warp * kWarpPanel * 2;
      barrier_wait(full + stage * 8, fill / kStages % 2);
#pragma unroll
      for (int step = 0; step < kWarpPanel / 16; step += 2) {
        if (step >= steps) break;
        uint32_t weights[2][4], inputs[4];
#pragma unroll
        for (int i = 0; i < 2; i++) ldmatrix4(weights[i], base + (lane % 16) * kPitch + (step + i) * 32 + lane / 16 * 16);
        ldmatrix4(inputs, base + (kGroup + lane % 8) * kPitch + step * 32 + lane / 8 * 16);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          if (step + i >= steps) break;
          mma16816<T>(c, weights[i], inputs[2 * i], inputs[2 * i + 1]);
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(free + stage * 8);
    }
    float *mine = sums + (buffer * kWarps + warp) * kSums; /* [8 rows of x][16] */
#pragma unroll
    for (int i = 0; i < 4; i++) mine[(2 * t + i % 2) * kGroup + g + i / 2 * 8] = c[i];
    named_barrier(1, 32 * kWarps);
    for (int i = threadIdx.x; i < row_count * kGroup; i += 32 * kWarps) {
      const int row = i / kGroup, col = group * kGroup + i % kGroup;
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; w++) sum += sums[(buffer * kWarps + w) * kSums + i];
      if (col < n) out[(size_t)row * n + col] = from_float<Out>(sum + (bias != nullptr ? bias[col] : 0.0f));
    }
  }
}

#endif

template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads, 2) gemm_stream_kernel(Out *out, const T *x, const T *weight, const float *bias, int row_count, int n, int k) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char shared[];
  const uint32_t ring = shared_address(shared);
  float *sums = (float *)(shared + kStages * kStageBytes);
  const uint32_t full = shared_address(sums + 2 * kWarps * kSums), free = full + kStages * 8;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; stage++) {
      barrier_init(full + stage * 8, 1);
      barrier_init(free + stage * 8, kWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x / 32 == kWarps) {
    copy_panels<T>(ring, full, free, x, weight, row_count, n, k);
  } else {
    grid_release();
    grid_wait();
    multiply_panels<T, Out>(ring, full, free, sums, out, bias, row_count, n, k);
  }
#endif
}

// ---- launchers

template <typename T, typename Out>
int launch_stream(PdStream *stream, const Product &p) {
  const int groups = ceil_div(p.n, kGroup), most = 2 * stream->device->multiprocessor_count;
  return launch(stream, "linear (stream)", gemm_stream_kernel<T, Out>, (unsigned)(groups < most ? groups : most), kThreads, (size_t)kSharedBytes,
                (Out *)p.out, (const T *)p.x, (const T *)p.weight, p.bias, p.row_count, p.n, p.k);
}

template <typename T>
int launch_stream_out(PdStream *stream, const Product &p) {
  return p.out_dtype == PD_F32 ? launch_stream<T, float>(stream, p) : launch_stream<T, T>(stream, p);
}

}  // namespace

int gemm_stream(PdStream *stream, const Product &p) {
  return p.dtype == PD_BF16 ? launch_stream_out<bf16>(stream, p) : launch_stream_out<f16>(stream, p);
}

}  // namespace pd
