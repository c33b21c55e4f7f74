/* Drives the tile kernels: stages x, cuts the output into (row block, panel) pieces for the pool, rounds up with scales and bias.
   Used by linear.cc and moe_linear.cc. Which thread takes a piece, and how k is cut for the caches, changes no result. */
#include "gemm.h"
#include <algorithm>
#include "grouped.h"

namespace pd {
namespace {

constexpr int64_t kPassBytes = 1 << 16;   /* of a panel per pass: stays in L2 while the tiles go over it */
constexpr int64_t kStageAlone = 1 << 15; /* elements of x that one thread stages sooner than two */
constexpr int64_t kPieceBytes = 1 << 18; /* weights per piece of work when rows are few: long enough to stream, short enough to balance */

int64_t words_per_row(const GemmKernel &kernel, const PdWeight *weight) {
  const int per_unit = kernel.x_format == XFormat::Grouped ? kGroupedWords : kernel.x_format == XFormat::F32 ? weight->unit_elements : 1;
  return static_cast<int64_t>(weight->unit_count) * per_unit;
}

struct Tile { int first_row, rows; }; /* within its block */

/* Block rows cut into equal tiles, so that no tile is left with a row or two. */
Tile tile_at(int row_count, int tile_rows, int index) {
  int tiles = (row_count + tile_rows - 1) / tile_rows;
  int base = row_count / tiles, extra = row_count % tiles;
  return {index * base + std::min(index, extra), base + (index < extra ? 1 : 0)};
}

int tile_count(int row_count, int tile_rows) { return (row_count + tile_rows - 1) / tile_rows; }

struct Staged {
  uint32_t *words;  /* tile by tile, block by block: row tiles start at row * word_count */
  float *scales;    /* [row_count], of int8 rows */
  int64_t word_count;
};

int64_t target_of(const GemmJob &job, int row) { return job.targets == nullptr ? row : job.targets[row]; }

void stage_tile(const Gemm &gemm, const GemmJob &job, const Staged &staged, int first_row, int row_count) {
  const float *rows[kMaxTileRows];
  uint32_t *words = staged.words + first_row * staged.word_count;
  for (int r = 0; r < row_count; r++) {
    rows[r] = job.x + target_of(job, first_row + r) / job.source_divisor * job.weight->k;
    words[(staged.word_count - 1) * row_count + r] = 0; /* stays when it lies past k */
  }
  gemm.edges.stage({words, rows, staged.scales + first_row, job.weight->k, row_count, gemm.kernel.x_format,
                    static_cast<uint8_t>(gemm.kernel.uses_offsets ? 0x80 : 0)});
}

void stage(Pool &pool, const Gemm &gemm, const GemmJob &job, const Staged &staged) {
  for (int64_t b = 0; b < job.block_count; b++) {
    const GemmBlock &block = job.blocks[b];
    const int tile_rows = gemm.kernel.tile_rows, tiles = tile_count(block.row_count, tile_rows);
    auto body = [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++) {
        Tile tile = tile_at(block.row_count, tile_rows, static_cast<int>(t));
        stage_tile(gemm, job, staged, block.first_row + tile.first_row, tile.rows);
      }
    };
    if (static_cast<int64_t>(block.row_count) * job.weight->k < kStageAlone) body(0, tiles, 0);
    else pool.parallel_for(tiles, 1, body);
  }
}

// ---- one panel for one block of rows

void finish(const Gemm &gemm, const GemmJob &job, const Staged &staged, const GemmBlock &block, int32_t panel_index, const uint8_t *acc) {
  const PdWeight *weight = job.weight;
  const int64_t column = static_cast<int64_t>(panel_index) * kPanelRows;
  const int columns = static_cast<int>(std::min<int64_t>(kPanelRows, weight->n - column));
  const float *scales = weight->scales == nullptr ? nullptr : weight->scales + block.weight_index * weight->padded_rows() + column;
  const float *bias = job.bias == nullptr ? nullptr : job.bias + column;
  for (int r = 0; r < block.row_count; r++) {
    const int row = block.first_row + r;
    const auto finish_row = gemm.kernel.x_format == XFormat::Grouped ? gemm.edges.finish_grouped : gemm.edges.finish;
    finish_row(job.out + target_of(job, row) * weight->n + column, acc + r * kPanelUnitBytes, columns, bias, scales, staged.scales[row]);
  }
}

/* acc: [block.row_count][32] of this thread */
void multiply_panel(const Gemm &gemm, const GemmJob &job, const Staged &staged, const GemmBlock &block, int32_t panel_index, void *acc) {
  const PdWeight *weight = job.weight;
  const GemmKernel &kernel = gemm.kernel;
  static const int32_t zeros[kPanelRows] = {};
  const void *start = zeros;
  if (kernel.uses_offsets) start = weight->offsets + block.weight_index * weight->padded_rows() + panel_index * kPanelRows;
  const uint8_t *panel = weight->panel(block.weight_index, panel_index);
  const int32_t part = weight->part_of(panel_index);
  const int64_t unit_bytes = weight->parts[part].unit_bytes;
  const int tiles = tile_count(block.row_count, kernel.tile_rows);
  const int64_t words_per_unit = staged.word_count / weight->unit_count;
  const int64_t pass = tiles == 1 ? weight->unit_count : std::max<int64_t>(1, kPassBytes / unit_bytes);
  for (int64_t unit = 0; unit < weight->unit_count; unit += pass) {
    int64_t units = std::min(pass, weight->unit_count - unit);
    for (int t = 0; t < tiles; t++) {
      Tile tile = tile_at(block.row_count, kernel.tile_rows, t);
      const uint32_t *x = staged.words + (block.first_row + tile.first_row) * staged.word_count + unit * words_per_unit * tile.rows;
      uint8_t *tile_acc = static_cast<uint8_t *>(acc) + tile.first_row * kPanelRows * 4;
      gemm.tiles[part](tile.rows, x, panel + unit * unit_bytes, units, tile_acc, unit == 0 ? start : nullptr);
    }
  }
  finish(gemm, job, staged, block, panel_index, static_cast<const uint8_t *>(acc));
}

int64_t panels_per_piece(const Pool &pool, const GemmJob &job) {
  int64_t panels = job.block_count * job.weight->panel_count;
  int64_t balanced = panels / (static_cast<int64_t>(pool.thread_count()) * 8);
  int64_t streaming = kPieceBytes * panels / std::max<int64_t>(1, static_cast<int64_t>(job.block_count * job.weight->matrix_bytes));
  return std::max<int64_t>(1, std::min(balanced, std::max<int64_t>(1, streaming)));
}

}  // namespace

namespace {

const GemmKernel *choose_kernel(const IsaLevel &isa, int32_t format) {
  if (is_grouped(format)) {
    const GemmKernel *kernel = gemm_kernel_grouped_dot(isa, format);
    if (kernel == nullptr) kernel = gemm_kernel_grouped_avx2(isa, format);
    return kernel == nullptr ? gemm_kernel_grouped_scalar(format) : kernel;
  }
  const GemmKernel *kernel = gemm_kernel_dot(isa, format);
  if (kernel == nullptr) kernel = gemm_kernel_float(isa, format);
  if (kernel == nullptr) kernel = gemm_kernel_avx2(isa, format);
  return kernel == nullptr ? gemm_kernel_scalar(format) : kernel;
}

}  // namespace

Gemm choose_gemm(const IsaLevel &isa, const PdWeight *weight) {
  Gemm gemm = {*choose_kernel(isa, weight->format), gemm_edges(isa), {}};
  for (int32_t part = 0; part < weight->part_count; part++) gemm.tiles[part] = choose_kernel(isa, weight->parts[part].format)->tile;
  return gemm;
}

int64_t gemm_row_bytes(const Gemm &gemm, const PdWeight *weight) { return words_per_row(gemm.kernel, weight) * 4; }

size_t gemm_scratch_bytes(const Gemm &gemm, const PdWeight *weight, int32_t row_count) {
  return static_cast<size_t>(row_count) * (static_cast<size_t>(words_per_row(gemm.kernel, weight)) * 4 + sizeof(float)) + 128;
}

void run_gemm(Pool &pool, const Gemm &gemm, const GemmJob &job, void *scratch) {
  Staged staged = {static_cast<uint32_t *>(scratch), nullptr, words_per_row(gemm.kernel, job.weight)};
  staged.scales = reinterpret_cast<float *>(staged.words + staged.word_count * job.row_count);
  stage(pool, gemm, job, staged);
  int32_t most_rows = 0;
  for (int64_t b = 0; b < job.block_count; b++) most_rows = std::max(most_rows, job.blocks[b].row_count);
  const int64_t panels = job.weight->panel_count;
  pool.parallel_for(job.block_count * panels, panels_per_piece(pool, job), [&](int64_t begin, int64_t end, int thread) {
    void *acc = pool.scratch(thread, static_cast<size_t>(most_rows) * kPanelUnitBytes);
    for (int64_t i = begin; i < end; i++)
      multiply_panel(gemm, job, staged, job.blocks[i / panels], static_cast<int32_t>(i % panels), acc);
  });
}

}  // namespace pd
