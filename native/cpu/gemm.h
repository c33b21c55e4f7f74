/* The matrix product under pd_linear and pd_moe_linear.   Kernels: gemm_scalar.cc (oracle), gemm_float.cc,
   gemm_avx2.cc (int8), gemm_dot.cc (AVX-512 dot products), gemm_grouped_*.cc (4 to 8 bits with scales of groups).

   x rows are first rewritten ("staged") as 4-byte words in the kernel's number format, row tiles interleaved:

     tile of R rows:  [word][R]       word = 1 float32, 2 bfloat16 or 4 int8 along k

   so a kernel reads x and the weight panel as two forward streams. Each output has one accumulator that takes k ascending; rows are
   grouped into tiles for speed only, so a row's result does not depend on which rows it is computed with (invariant I3). */
#pragma once
#include <cstdint>
#include "runtime.h"
#include "weight.h"

namespace pd {

constexpr int kMaxTileRows = 12;
/* Tiles of few rows wait for memory, not for arithmetic: they ask for the panel this far ahead. Measured: docs/experiments/cpu-kernels.md */
constexpr int kPrefetchBytes = 8192;
constexpr int kPrefetchRows = 8;

enum class XFormat { F32, BF16, I8, Grouped };

/* One instruction set's way to multiply by one weight format. */
struct GemmKernel {
  XFormat x_format;
  int tile_rows; /* most rows of a tile, <= kMaxTileRows */
  /* acc[row][32] += sum over units ascending of x . panel. start: what the accumulators begin with, [32] for all rows; NULL: from acc.
     acc holds float32, or int32 for int8 weights. x: [word][rows], panel: [unit][32][4 bytes], or grouped units (grouped.h). */
  void (*tile)(int rows, const uint32_t *x, const uint8_t *panel, int64_t unit_count, void *acc, const void *start);
  bool uses_offsets; /* int8: x is stored as x + 128, accumulators start at weight->offsets */
};

/* The rows of one tile, to be rewritten as words. x = int8 * scale with scale = max |x| / 127. */
struct StageJob {
  uint32_t *words;            /* [word][row_count] */
  const float *const *rows;   /* [row_count] pointers to k floats */
  float *scales;              /* [row_count], written for int8 only */
  int64_t k;
  int row_count;
  XFormat format;
  uint8_t flip;               /* xored into each int8 */
};

/* What surrounds the tiles. */
struct GemmEdges {
  void (*stage)(const StageJob &job);
  /* out[columns] = acc (times scales[c] * x_scale when scales are given) + bias; acc: int32 with scales, else float32; acc, scales: [32] */
  void (*finish)(float *out, const void *acc, int columns, const float *bias, const float *scales, float x_scale);
  /* likewise of float32: acc * scales[c] + bias */
  void (*finish_grouped)(float *out, const void *acc, int columns, const float *bias, const float *scales, float);
};

struct Gemm {
  GemmKernel kernel; /* of the first part; the others differ in their tile only */
  GemmEdges edges;
  decltype(GemmKernel::tile) tiles[kPartsMax];
};
Gemm choose_gemm(const IsaLevel &isa, const PdWeight *weight);

GemmEdges gemm_edges(const IsaLevel &isa);                                        /* gemm_edges.cc */
/* NULL: not for this instruction set and format */
const GemmKernel *gemm_kernel_dot(const IsaLevel &isa, int32_t weight_format);    /* gemm_dot.cc */
const GemmKernel *gemm_kernel_float(const IsaLevel &isa, int32_t weight_format);  /* gemm_float.cc */
const GemmKernel *gemm_kernel_avx2(const IsaLevel &isa, int32_t weight_format);   /* gemm_avx2.cc */
const GemmKernel *gemm_kernel_scalar(int32_t weight_format);                      /* gemm_scalar.cc: always */

const GemmKernel *gemm_kernel_grouped_dot(const IsaLevel &isa, int32_t weight_format);   /* gemm_grouped_dot.cc */
const GemmKernel *gemm_kernel_grouped_avx2(const IsaLevel &isa, int32_t weight_format);  /* gemm_grouped_avx2.cc */
const GemmKernel *gemm_kernel_grouped_scalar(int32_t weight_format);                     /* gemm_grouped_scalar.cc: always */

/* Rows that meet the same matrix of the stack. */
struct GemmBlock { int32_t weight_index, first_row, row_count; };

struct GemmJob {
  const PdWeight *weight;
  const float *x;            /* row r starts at x + source(r) * k */
  float *out;                /* row r goes to out + target(r) * n */
  const float *bias;         /* [n] or NULL */
  const int32_t *targets;    /* [row_count], NULL: r */
  int32_t source_divisor;    /* source(r) = target(r) / source_divisor */
  const GemmBlock *blocks;
  int64_t block_count;
  int32_t row_count;
};

int64_t gemm_row_bytes(const Gemm &gemm, const PdWeight *weight); /* of a staged row */
/* Scratch of the whole op that run_gemm needs besides what its caller keeps there. */
size_t gemm_scratch_bytes(const Gemm &gemm, const PdWeight *weight, int32_t row_count);
void run_gemm(Pool &pool, const Gemm &gemm, const GemmJob &job, void *scratch);

}  // namespace pd
