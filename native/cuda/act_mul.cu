/* Gated activation of the MLP: out = activation(gate) * up, SiLU or tanh-GELU. Twin: ../cpu/act_mul.cc */
#include "kernel.cuh"

namespace pd {
namespace {

// ---- kernels

template <int kActivation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kActivation == PD_SILU) return x / (1.0f + __expf(-x));
  const float inner = 0.7978845608f * (x + 0.044715f * x * x * x);  // sqrt(2 / pi)
  return 0.5f * x * (1.0f + tanhf(inner));
}

template <typename T, int kActivation, int kWidth>
__global__ void act_mul_kernel(T *out,            // [rows, inter]
                               const T *gate_up,  // [rows, 2 * inter]
                               int rows, int inter) {
  grid_release();
  grid_wait();
  const int per_row = inter / kWidth;
  const uint64_t at = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x;
  if (at >= (uint64_t)rows * per_row) return;
  const uint64_t row = at / per_row;
  const int col = (int)(at % per_row) * kWidth;
  const T *gate = gate_up + row * 2 * inter + col;
  if constexpr (kWidth == 1) {
    out[row * inter + col] = from_float<T>(activate<kActivation>(to_float(gate[0])) * to_float(gate[inter]));
  } else {
    const Vector<T> g = load_vector(gate), u = load_vector(gate + inter);
    Vector<T> result;
#pragma unroll
    for (int j = 0; j < kWidth; j++) result.at[j] = from_float<T>(activate<kActivation>(to_float(g.at[j])) * to_float(u.at[j]));
    store_vector(out + row * inter + col, result);
  }
}

template <typename T, int kActivation>
int launch_act_mul(PdStream *stream, void *out, const void *gate_up, int rows, int inter) {
  constexpr int kWidth = Vector<T>::kCount;
  const bool is_aligned = inter % kWidth == 0;
  const uint64_t threads = (uint64_t)rows * (is_aligned ? inter / kWidth : inter);
  auto kernel = is_aligned ? act_mul_kernel<T, kActivation, kWidth> : act_mul_kernel<T, kActivation, 1>;
  return launch(stream, "act_mul", kernel, (unsigned)ceil_div<uint64_t>(threads, 256), 256, 0, (T *)out, (const T *)gate_up, rows, inter);
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_act_mul(PdStream *stream, int32_t dtype, void *out, const void *gate_up, int32_t row_count, int32_t inter, int32_t activation) {
  if (int status = enter(stream->device)) return status;
  if (activation != PD_SILU && activation != PD_GELU_TANH) return fail(PD_UNSUPPORTED, "act_mul: activation %d is unknown", activation);
  return with_dtype("act_mul", dtype, [&](auto zero) {
    using T = decltype(zero);
    return activation == PD_SILU ? launch_act_mul<T, PD_SILU>(stream, out, gate_up, row_count, inter)
                                 : launch_act_mul<T, PD_GELU_TANH>(stream, out, gate_up, row_count, inter);
  });
}
