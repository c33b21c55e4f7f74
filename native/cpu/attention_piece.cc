/* Computes one piece of paged attention, tile by tile:

     for each tile of 64 keys, counted from position 0:   load keys, values -> score -> soften -> accumulate      (attention.h)

   Tiles that no row of the piece may see are skipped; a row that sees nothing of a tile keeps its state unchanged. So neither the window
   nor the blocking of rows changes a result. */
#include "attention_piece.h"
#include "fp8.h"
#include <algorithm>
#include <cmath>
#include <cstring>

namespace pd {
namespace {

constexpr int kDiagonalRows = 24;
alignas(64) const float kZeroRow[kMaxHeadDim] = {};

// ---- one tile

/* Where the 64 keys and values of one tile lie, for one KV head. */
struct TileRows { const void *keys[kKeyTile], *values[kKeyTile]; };

int32_t known_block(const PdKvLayer &layer, int32_t block) { return block < layer.block_count ? block : -1; }

/* Rows past kv_count read as zero, so that stale cache contents cannot reach a result. */
void find_rows(const AttentionJob &job, const AttentionPiece &piece, int32_t tile, TileRows *rows) {
  const PdKvLayer &layer = job.layer;
  const uint64_t row_bytes = static_cast<uint64_t>(layer.head_dim) * dtype_bytes(layer.dtype);
  const int32_t *table = job.batch.block_table + static_cast<int64_t>(piece.sequence) * job.batch.block_table_stride;
  const int32_t slots = layer.block_token_count, first_key = tile * kKeyTile;
  const int32_t count = std::min(kKeyTile, job.batch.kv_count[piece.sequence] - first_key);
  int32_t block_index = first_key / slots, slot = first_key % slots;
  for (int32_t j = 0; j < count; block_index++, slot = 0) {
    const int32_t block = known_block(layer, table[block_index]), end = std::min(count, j + slots - slot);
    const uint8_t *row = static_cast<const uint8_t *>(layer.base) + static_cast<uint64_t>(std::max(block, 0)) * layer.block_bytes +
                         (static_cast<uint64_t>(piece.kv_head) * slots + slot) * row_bytes;
    for (; j < end; j++, row += row_bytes) {
      rows->keys[j] = block < 0 ? static_cast<const void *>(kZeroRow) : row + layer.key_offset;
      rows->values[j] = block < 0 ? static_cast<const void *>(kZeroRow) : row + layer.value_offset;
    }
  }
  for (int32_t j = std::max(count, 0); j < kKeyTile; j++) rows->keys[j] = rows->values[j] = kZeroRow;
}

/* The tile's rows of an fp8 cache as float32. Each has its scale behind the codes of its half of the block, [kvHead][slot]. */
void widen_rows(const AttentionJob &job, const AttentionPiece &piece, int32_t tile, const AttentionWorkspace &space, TileRows *rows) {
  const PdKvLayer &layer = job.layer;
  const int32_t slots = layer.block_token_count, dim = layer.head_dim, kv_count = job.batch.kv_count[piece.sequence];
  const int32_t *table = job.batch.block_table + static_cast<int64_t>(piece.sequence) * job.batch.block_table_stride;
  for (int32_t j = 0; j < kKeyTile; j++) {
    const int32_t key = tile * kKeyTile + j, block = key < kv_count ? known_block(layer, table[key / slots]) : -1;
    if (block < 0) continue; /* a row of zeros */
    const int64_t scale_at = static_cast<int64_t>(layer.kv_head_count) * slots * dim + (static_cast<int64_t>(piece.kv_head) * slots + key % slots) * 4;
    const uint8_t *base = static_cast<const uint8_t *>(layer.base) + static_cast<uint64_t>(block) * layer.block_bytes + scale_at;
    const auto widen_row = [&](const void *codes, uint64_t offset, int32_t row) {
      float scale, *target = space.widened + static_cast<int64_t>(row) * dim;
      std::memcpy(&scale, base + offset, sizeof scale);
      for (int32_t d = 0; d < dim; d++) target[d] = e4m3_to_float(static_cast<const uint8_t *>(codes)[d]) * scale;
      return target;
    };
    rows->keys[j] = widen_row(rows->keys[j], layer.key_offset, j);
    rows->values[j] = widen_row(rows->values[j], layer.value_offset, kKeyTile + j);
  }
}

/* The piece's tokens that see a key of the tile: early ones come before it, late ones have left it behind their window. */
struct TokenRange { int begin, end; };

TokenRange tokens_seeing(const AttentionJob &job, const AttentionPiece &piece, int32_t first_key) {
  const int32_t first_query = first_position(job, piece.sequence) + piece.first_token;
  const int begin = std::max(0, first_key - first_query);
  if (job.window <= 0) return {begin, piece.token_count};
  const int64_t end = static_cast<int64_t>(first_key) + kKeyTile - 1 + job.window - first_query; /* sees the tile's last key no more */
  return {begin, static_cast<int>(std::min<int64_t>(piece.token_count, end))};
}

/* A share of the next tile's rows towards the cache, so that they arrive while this tile is computed. */
void prefetch_share(const AttentionJob &job, const TileRows &next, int index, int count) {
  const int row_bytes = job.layer.head_dim * static_cast<int>(dtype_bytes(job.layer.dtype));
  for (int j = index * kKeyTile / count; j < (index + 1) * kKeyTile / count; j++) {
    for (int at = 0; at < row_bytes; at += 64) {
      __builtin_prefetch(static_cast<const uint8_t *>(next.keys[j]) + at, 0, 2);
      __builtin_prefetch(static_cast<const uint8_t *>(next.values[j]) + at, 0, 2);
    }
  }
}

/* Turns one token's scores into probabilities. */
void soften_token(const AttentionJob &job, const AttentionPiece &piece, int32_t first_key, int token, const AttentionWorkspace &space) {
  const int32_t position = first_position(job, piece.sequence) + piece.first_token + token;
  const int first = job.window > 0 ? std::max(0, position - job.window + 1 - first_key) : 0;
  const int end = std::min(kKeyTile, position + 1 - first_key);
  for (int row = token * job.group; row < (token + 1) * job.group; row++)
    space.alpha[row] = job.kernel->soften(space.scores + row * kKeyTile, first, end, job.softcap, &space.states[row]);
}

/* Rows that see nothing of the tile: nothing is added, nothing is scaled. */
void hide_rows(const AttentionJob &job, int first_token, int end_token, const AttentionWorkspace &space) {
  for (int row = first_token * job.group; row < end_token * job.group; row++) {
    std::fill(space.scores + row * kKeyTile, space.scores + (row + 1) * kKeyTile, 0.0f);
    space.alpha[row] = 1.0f;
  }
}

/* 1, 2, 4 or 8: what AttentionFew takes */
int few_rows(int row_count) { return row_count > 4 ? 8 : row_count > 2 ? 4 : row_count; }

void run_tile_few(const AttentionJob &job, const AttentionPiece &piece, int32_t first_key, const TileRows &rows, const TileRows &next,
                  const AttentionWorkspace &space) {
  const AttentionFew &few = *job.kernel->few;
  const int head_dim = job.layer.head_dim, row_count = few_rows(piece.token_count * job.group);
  const int key_count = std::min(kKeyTile, job.batch.kv_count[piece.sequence] - first_key);
  const TokenRange seeing = tokens_seeing(job, piece, first_key);
  few.score(space.scores, space.q, rows.keys, next.keys, job.row_dtype, row_count, head_dim);
  hide_rows(job, 0, seeing.begin, space);
  for (int token = seeing.begin; token < seeing.end; token++) soften_token(job, piece, first_key, token, space);
  hide_rows(job, seeing.end, piece.token_count, space);
  few.accumulate(space.out, space.alpha, space.scores, rows.values, next.values, job.row_dtype, row_count, head_dim, key_count);
}

/* Consecutive rows and how many of the tile's keys the last of them sees. On the diagonal rows go in small groups, so that little is
   computed for keys still to come; elsewhere all at once. */
struct RowGroup { int first_row, row_count, key_count; };

template <class Body>
void for_row_groups(const AttentionJob &job, const AttentionPiece &piece, int32_t first_key, TokenRange tokens, const Body &body) {
  const int32_t first_query = first_position(job, piece.sequence) + piece.first_token;
  const bool is_diagonal = first_query + tokens.begin < first_key + kKeyTile - 1;
  const int step = is_diagonal ? std::max(1, kDiagonalRows / job.group) : tokens.end - tokens.begin;
  for (int token = tokens.begin; token < tokens.end; token += step) {
    const int end = std::min(tokens.end, token + step);
    body(RowGroup{token * job.group, (end - token) * job.group, std::min(kKeyTile, first_query + end - first_key)});
  }
}

void run_tile_many(const AttentionJob &job, const AttentionPiece &piece, int32_t first_key, const TileRows &rows, const TileRows &next,
                   const AttentionWorkspace &space) {
  const AttentionKernel &kernel = *job.kernel;
  const int head_dim = job.layer.head_dim, stride = padded_dim(head_dim);
  const TokenRange tokens = tokens_seeing(job, piece, first_key);
  kernel.load_keys(space.keys_t, rows.keys, job.row_dtype, head_dim);
  for_row_groups(job, piece, first_key, tokens, [&](const RowGroup &group) {
    kernel.score(space.scores + group.first_row * kKeyTile, space.q + group.first_row * stride, space.keys_t, group.row_count, head_dim,
                 group.key_count);
  });
  for (int token = tokens.begin; token < tokens.end; token++) {
    soften_token(job, piece, first_key, token, space);
    prefetch_share(job, next, token - tokens.begin, tokens.end - tokens.begin);
  }
  kernel.load_values(space.values, rows.values, job.row_dtype, head_dim, std::min(kKeyTile, job.batch.kv_count[piece.sequence] - first_key));
  for_row_groups(job, piece, first_key, tokens, [&](const RowGroup &group) {
    kernel.accumulate(space.out + group.first_row * stride, space.alpha + group.first_row, space.scores + group.first_row * kKeyTile,
                      space.values, group.row_count, head_dim, group.key_count);
  });
}

// ---- one piece

void read_queries(const AttentionJob &job, const AttentionPiece &piece, const AttentionWorkspace &space) {
  const int head_dim = job.layer.head_dim, stride = padded_dim(head_dim), row_count = piece.token_count * job.group;
  const int64_t first_row = job.batch.query_start[piece.sequence] + piece.first_token;
  for (int row = 0; row < row_count; row++) {
    const float *q = job.q + (first_row + row / job.group) * job.q_row_stride + (piece.kv_head * job.group + row % job.group) * head_dim;
    for (int d = 0; d < head_dim; d++) space.q[row * stride + d] = q[d] * job.scale;
    space.states[row] = {-INFINITY, 0.0f};
  }
  std::memset(space.out, 0, static_cast<size_t>(row_count) * stride * sizeof(float));
}

/* Adding +0 turns -0 into +0: whether a hidden key's p = 0 was added or the tile skipped leaves no trace. */
void write_results(const AttentionJob &job, const AttentionPiece &piece, const AttentionWorkspace &space) {
  const int head_dim = job.layer.head_dim, stride = padded_dim(head_dim), row_count = piece.token_count * job.group;
  const int64_t first_row = job.batch.query_start[piece.sequence] + piece.first_token;
  for (int row = 0; row < row_count; row++) {
    float inverse = 1.0f / space.states[row].sum;
    float *out = job.out + ((first_row + row / job.group) * job.head_count + piece.kv_head * job.group + row % job.group) * head_dim;
    for (int d = 0; d < head_dim; d++) out[d] = space.out[row * stride + d] * inverse + 0.0f;
  }
}

int32_t first_tile(const AttentionJob &job, const AttentionPiece &piece) {
  const int32_t first_query = first_position(job, piece.sequence) + piece.first_token;
  return job.window > 0 ? std::max(0, first_query - job.window + 1) / kKeyTile : 0;
}

}  // namespace

size_t workspace_bytes(int rows, int head_dim) {
  const size_t stride = padded_dim(head_dim), row_count = rows;
  return sizeof(float) * (4 * kKeyTile * stride + 2 * row_count * stride + row_count * kKeyTile + row_count) + sizeof(SoftmaxState) * row_count;
}

AttentionWorkspace place_workspace(void *memory, int rows, int head_dim) {
  const int stride = padded_dim(head_dim);
  float *at = static_cast<float *>(memory);
  AttentionWorkspace space;
  space.keys_t = at;
  space.values = at += kKeyTile * stride;
  space.widened = at += kKeyTile * stride;
  space.q = at += 2 * kKeyTile * stride;
  space.out = at += rows * stride;
  space.scores = at += rows * stride;
  space.alpha = at += rows * kKeyTile;
  space.states = reinterpret_cast<SoftmaxState *>(at + rows);
  return space;
}

void run_piece(const AttentionJob &job, const AttentionPiece &piece, const AttentionPiece *then, const AttentionWorkspace &space) {
  const bool is_few = job.kernel->few != nullptr && piece.token_count * job.group <= kFewRows;
  const int32_t last_query = first_position(job, piece.sequence) + piece.first_token + piece.token_count - 1;
  const int32_t first = first_tile(job, piece), last = last_query / kKeyTile;
  TileRows rows, next;
  find_rows(job, piece, first, &next);
  read_queries(job, piece, space);
  for (int32_t tile = first; tile <= last; tile++) {
    rows = next;
    if (tile < last) find_rows(job, piece, tile + 1, &next);
    else if (then != nullptr) find_rows(job, *then, first_tile(job, *then), &next);
    if (job.layer.dtype == PD_FP8_E4M3) widen_rows(job, piece, tile, space, &rows);
    if (is_few) run_tile_few(job, piece, tile * kKeyTile, rows, next, space);
    else run_tile_many(job, piece, tile * kKeyTile, rows, next, space);
  }
  write_results(job, piece, space);
}

}  // namespace pd
