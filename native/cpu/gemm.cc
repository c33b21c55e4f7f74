/* Drives the tile kernels: stages x, cuts the output into (row block, panel) pieces for the pool, rounds up with scales and bias.
   Used by linear.cc and moe_linear.cc. Which thread takes a piece, and how k is cut for the caches, changes no result. */
#include "gemm.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include "half.h"

namespace pd {
namespace {

constexpr int64_t kUnitsPerPass = 256;   /* units of a panel per pass: 32 KiB, stays in L1 while the tiles go over it */
constexpr int64_t kPieceBytes = 1 << 18; /* weights per piece of work when rows are few: long enough to stream, short enough to balance */

int64_t words_per_row(const GemmKernel &kernel, const PdWeight *weight) {
  return static_cast<int64_t>(weight->unit_count) * (kernel.x_format == XFormat::F32 ? weight->unit_elements : 1);
}

struct Tile { int first_row, rows; }; /* within its block */

/* Block rows cut into equal tiles, so that no tile is left with a row or two. */
Tile tile_at(int row_count, int tile_rows, int index) {
  int tiles = (row_count + tile_rows - 1) / tile_rows;
  int base = row_count / tiles, extra = row_count % tiles;
  return {index * base + std::min(index, extra), base + (index < extra ? 1 : 0)};
}

int tile_count(int row_count, int tile_rows) { return (row_count + tile_rows - 1) / tile_rows; }

// ---- staging x: words + [r + stride * word]

void stage_f32(uint32_t *words, int stride, const float *x, int64_t k, int64_t word_count) {
  for (int64_t i = 0; i < k; i++) words[i * stride] = float_to_bits(x[i]);
  for (int64_t i = k; i < word_count; i++) words[i * stride] = 0;
}

void stage_bf16(uint32_t *words, int stride, const float *x, int64_t k, int64_t word_count) {
  for (int64_t i = 0; i < k / 2; i++)
    words[i * stride] = float_to_bf16(x[2 * i]) | static_cast<uint32_t>(float_to_bf16(x[2 * i + 1])) << 16;
  if (k % 2 != 0) words[(word_count - 1) * stride] = float_to_bf16(x[k - 1]);
}

/* x = int8 * scale, scale = max |x| / 127; flip: 0x80808080 stores int8 + 128 as unsigned. Returns the scale. */
float stage_i8(uint32_t *words, int stride, const float *x, int64_t k, int64_t word_count, uint32_t flip) {
  float largest = 0.0f;
  for (int64_t i = 0; i < k; i++) {
    float magnitude = std::fabs(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  for (int64_t w = 0; w < word_count; w++) {
    uint32_t word = 0;
    for (int64_t i = 4 * w; i < std::min(4 * w + 4, k); i++) {
      uint32_t rounded = float_to_bits(x[i] * inverse + 12582912.0f); /* low byte: the nearest integer, ties to even */
      word |= (rounded & 0xFFu) << (8 * (i - 4 * w));
    }
    words[w * stride] = word ^ flip;
  }
  return largest / 127.0f;
}

struct Staged {
  uint32_t *words;  /* tile by tile, block by block: row tiles start at row * word_count */
  float *scales;    /* [row_count], int8 only */
  int64_t word_count;
};

void stage_row(const GemmKernel &kernel, const GemmJob &job, const Staged &staged, int row, int tile_first_row, int tile_rows) {
  const int64_t k = job.weight->k;
  int64_t target = job.targets == nullptr ? row : job.targets[row];
  const float *x = job.x + target / job.source_divisor * k;
  uint32_t *words = staged.words + tile_first_row * staged.word_count + (row - tile_first_row);
  if (kernel.x_format == XFormat::F32) return stage_f32(words, tile_rows, x, k, staged.word_count);
  if (kernel.x_format == XFormat::BF16) return stage_bf16(words, tile_rows, x, k, staged.word_count);
  staged.scales[row] = stage_i8(words, tile_rows, x, k, staged.word_count, kernel.uses_offsets ? 0x80808080u : 0u);
}

void stage(Pool &pool, const GemmKernel &kernel, const GemmJob &job, const Staged &staged) {
  for (int64_t b = 0; b < job.block_count; b++) {
    const GemmBlock &block = job.blocks[b];
    auto body = [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++) {
        Tile tile = tile_at(block.row_count, kernel.tile_rows, static_cast<int>(t));
        int first = block.first_row + tile.first_row;
        for (int r = 0; r < tile.rows; r++) stage_row(kernel, job, staged, first + r, first, tile.rows);
      }
    };
    int tiles = tile_count(block.row_count, kernel.tile_rows);
    if (static_cast<int64_t>(block.row_count) * job.weight->k < (1 << 15)) body(0, tiles, 0);
    else pool.parallel_for(tiles, 1, body);
  }
}

// ---- one panel for one block of rows

void finish_row(const GemmJob &job, const Staged &staged, const GemmBlock &block, int32_t panel_index, int row, const void *acc) {
  const PdWeight *weight = job.weight;
  int64_t first_column = static_cast<int64_t>(panel_index) * kPanelRows;
  int columns = static_cast<int>(std::min<int64_t>(kPanelRows, weight->n - first_column));
  int32_t packed_row = block.first_row + row;
  int64_t target = job.targets == nullptr ? packed_row : job.targets[packed_row];
  float *out = job.out + target * weight->n + first_column;
  float values[kPanelRows];
  if (weight->format == PD_I8) {
    const int32_t *sums = static_cast<const int32_t *>(acc) + row * kPanelRows;
    const float *scales = weight->scales + block.weight_index * weight->padded_rows() + first_column;
    float x_scale = staged.scales[packed_row];
    for (int c = 0; c < kPanelRows; c++) values[c] = static_cast<float>(sums[c]) * (x_scale * scales[c]);
  } else {
    std::memcpy(values, static_cast<const float *>(acc) + row * kPanelRows, sizeof(values));
  }
  if (job.bias != nullptr) for (int c = 0; c < columns; c++) values[c] += job.bias[first_column + c];
  std::memcpy(out, values, static_cast<size_t>(columns) * sizeof(float));
}

/* acc: [block.row_count][32] of this thread */
void multiply_panel(const GemmKernel &kernel, const GemmJob &job, const Staged &staged, const GemmBlock &block, int32_t panel_index, void *acc) {
  const PdWeight *weight = job.weight;
  static const int32_t zeros[kPanelRows] = {};
  const void *start = zeros;
  if (kernel.uses_offsets) start = weight->offsets + block.weight_index * weight->padded_rows() + panel_index * kPanelRows;
  const uint8_t *panel = weight->panel(block.weight_index, panel_index);
  const int tiles = tile_count(block.row_count, kernel.tile_rows);
  const int64_t words_per_unit = staged.word_count / weight->unit_count;
  const int64_t pass = tiles == 1 ? weight->unit_count : kUnitsPerPass;
  for (int64_t unit = 0; unit < weight->unit_count; unit += pass) {
    int64_t units = std::min(pass, weight->unit_count - unit);
    for (int t = 0; t < tiles; t++) {
      Tile tile = tile_at(block.row_count, kernel.tile_rows, t);
      const uint32_t *x = staged.words + (block.first_row + tile.first_row) * staged.word_count + unit * words_per_unit * tile.rows;
      uint8_t *tile_acc = static_cast<uint8_t *>(acc) + tile.first_row * kPanelRows * 4;
      kernel.tile(tile.rows, x, panel + unit * kPanelUnitBytes, units, tile_acc, unit == 0 ? start : nullptr);
    }
  }
  for (int r = 0; r < block.row_count; r++) finish_row(job, staged, block, panel_index, r, acc);
}

int64_t panels_per_piece(const Pool &pool, const GemmJob &job) {
  int64_t panels = job.block_count * job.weight->panel_count;
  int64_t balanced = panels / (static_cast<int64_t>(pool.thread_count()) * 8);
  int64_t streaming = kPieceBytes / static_cast<int64_t>(job.weight->panel_bytes());
  return std::max<int64_t>(1, std::min(balanced, std::max<int64_t>(1, streaming)));
}

}  // namespace

const GemmKernel &gemm_kernel(const IsaLevel &isa, int32_t weight_format) {
  const GemmKernel *kernel = gemm_kernel_dot(isa, weight_format);
  if (kernel == nullptr) kernel = gemm_kernel_float(isa, weight_format);
  if (kernel == nullptr) kernel = gemm_kernel_avx2(isa, weight_format);
  return kernel != nullptr ? *kernel : *gemm_kernel_scalar(weight_format);
}

size_t gemm_scratch_bytes(const GemmKernel &kernel, const PdWeight *weight, int32_t row_count) {
  return static_cast<size_t>(row_count) * (static_cast<size_t>(words_per_row(kernel, weight)) * 4 + sizeof(float)) + 128;
}

void run_gemm(Pool &pool, const GemmKernel &kernel, const GemmJob &job, void *scratch) {
  Staged staged = {static_cast<uint32_t *>(scratch), nullptr, words_per_row(kernel, job.weight)};
  staged.scales = reinterpret_cast<float *>(staged.words + staged.word_count * job.row_count);
  stage(pool, kernel, job, staged);
  int32_t most_rows = 0;
  for (int64_t b = 0; b < job.block_count; b++) most_rows = std::max(most_rows, job.blocks[b].row_count);
  const int64_t panels = job.weight->panel_count;
  pool.parallel_for(job.block_count * panels, panels_per_piece(pool, job), [&](int64_t begin, int64_t end, int thread) {
    void *acc = pool.scratch(thread, static_cast<size_t>(most_rows) * kPanelUnitBytes);
    for (int64_t i = begin; i < end; i++)
      multiply_panel(kernel, job, staged, job.blocks[i / panels], static_cast<int32_t>(i % panels), acc);
  });
}

}  // namespace pd
