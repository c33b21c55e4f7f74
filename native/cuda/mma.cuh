/* Tensor-core instructions that every GPU from sm_80 on has: mma.sync m16n8k16 on bf16 or f16 with float32 accumulation, ldmatrix, cp.async.
   fp8 has the same fragments by bytes, so twice the k: what walks a row in steps of 32 bytes serves all three.

   Fragments of one warp; g = lane / 4, t = lane % 4; each register holds two 16-bit elements:
     A [16 rows, 16 k]: a0 (g, 2t)  a1 (g + 8, 2t)  a2 (g, 2t + 8)  a3 (g + 8, 2t + 8)
     B [16 k, 8 cols]:  b0 (2t, g)  b1 (2t + 8, g)
     C [16 rows, 8 cols] float: c0 (g, 2t)  c1 (g, 2t + 1)  c2 (g + 8, 2t)  c3 (g + 8, 2t + 1) */
#pragma once
#include "fp8.cuh"

namespace pd {

/* c += A . B over 32 bytes of k. */
template <typename T>
__device__ __forceinline__ void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, fp8>) {
#if __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else /* f16 holds every e4m3; k is taken in another order, the same for A and B */
    const uint32_t first[4] = {halves_of(a[0]), halves_of(a[1]), halves_of(a[0] >> 16), halves_of(a[1] >> 16)};
    const uint32_t second[4] = {halves_of(a[2]), halves_of(a[3]), halves_of(a[2] >> 16), halves_of(a[3] >> 16)};
    mma16816<f16>(c, first, halves_of(b0), halves_of(b0 >> 16));
    mma16816<f16>(c, second, halves_of(b1), halves_of(b1 >> 16));
#endif
  } else if constexpr (std::is_same_v<T, bf16>)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t shared_address(const void *pointer) { return (uint32_t)__cvta_generic_to_shared(pointer); }

/* Four 8 x 8 matrices; lane i gives the address of row i % 8 of matrix i / 8. */
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

__device__ __forceinline__ void ldmatrix4_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

/* 16 bytes from global to shared memory behind the thread's back; zeros when !is_valid (then source is not read). */
__device__ __forceinline__ void copy_async16(uint32_t target, const void *source, bool is_valid) {
  const int bytes = is_valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory"); }

/* Two floats rounded into one register, `low` in the lower half. */
template <typename T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  if constexpr (std::is_same_v<T, bf16>) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
  } else {
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
  }
}

/* Four e4m3 times their scale, a power of two: exact in bf16. */
template <typename T>
__device__ __forceinline__ uint2 widen_fp8(uint32_t four, float scale) {
  const float2 low = floats_of(four), high = floats_of(four >> 16);
  return make_uint2(pack<T>(low.x * scale, low.y * scale), pack<T>(high.x * scale, high.y * scale));
}

__device__ __forceinline__ void store_shared16(uint32_t target, uint2 low, uint2 high) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(target), "r"(low.x), "r"(low.y), "r"(high.x), "r"(high.y) : "memory");
}

__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace pd
