/* pd_paged_attention: every query row over its sequence's cached keys, decode and prefill rows in one batch.

   A piece of work is (sequence, KV head, some consecutive query tokens); its rows are those tokens times the query heads that share
   the KV head, so a key tile is read and converted to float32 once for all of them:

     for each tile of 64 keys, counted from position 0:   load keys, values -> score -> soften -> accumulate      (attention.h)

   Tiles that no row of the piece may see are skipped; a row that sees nothing of a tile keeps its state unchanged. So neither the window
   nor the blocking of rows changes a result. A sequence is never split along its keys: a fixed order matters more than the
   parallelism of a long single-sequence decode, which stays at KV-head count threads. */
#include "attention.h"
#include <algorithm>
#include <cmath>
#include <cstring>

namespace pd {
namespace {

constexpr int kPieceRows = 96;
constexpr int kDiagonalRows = 24;
constexpr int kMaxHeadDim = 256;
alignas(64) const float kZeroRow[kMaxHeadDim] = {};

struct Job {
  float *out;
  const float *q;
  int32_t q_row_stride;
  PdKvLayer layer;
  PdBatch batch;
  int32_t head_count, group; /* group: query heads per KV head */
  float scale;
  int32_t window;
  float softcap;
  const AttentionKernel *kernel;
};

struct Piece { int32_t sequence, kv_head, first_token, token_count; };

/* A thread's workspace, for at most `rows` rows. */
struct Workspace {
  float *keys_t, *values, *q, *out, *scores, *alpha;
  SoftmaxState *states;
};

size_t workspace_bytes(int rows, int head_dim) {
  const size_t stride = padded_dim(head_dim), row_count = rows;
  return sizeof(float) * (2 * kKeyTile * stride + 2 * row_count * stride + row_count * kKeyTile + row_count) + sizeof(SoftmaxState) * row_count;
}

Workspace place_workspace(void *memory, int rows, int head_dim) {
  const int stride = padded_dim(head_dim);
  float *at = static_cast<float *>(memory);
  Workspace space;
  space.keys_t = at;
  space.values = at += kKeyTile * stride;
  space.q = at += kKeyTile * stride;
  space.out = at += rows * stride;
  space.scores = at += rows * stride;
  space.alpha = at += rows * kKeyTile;
  space.states = reinterpret_cast<SoftmaxState *>(at + rows);
  return space;
}

int tokens_per_piece(const Job &job) { return std::max(1, kPieceRows / job.group); }

int32_t query_count(const Job &job, int32_t sequence) {
  return job.batch.kv_count[sequence] <= 0 ? 0 : job.batch.query_start[sequence + 1] - job.batch.query_start[sequence];
}

/* position of a sequence's first query token of this step */
int32_t first_position(const Job &job, int32_t sequence) { return job.batch.kv_count[sequence] - query_count(job, sequence); }

// ---- one tile

/* Where the 64 keys and values of one tile lie, for one KV head. */
struct TileRows { const void *keys[kKeyTile], *values[kKeyTile]; };

/* Rows past kv_count read as zero, so that stale cache contents cannot reach a result. */
void find_rows(const Job &job, const Piece &piece, int32_t tile, TileRows *rows) {
  const PdKvLayer &layer = job.layer;
  const uint64_t row_bytes = static_cast<uint64_t>(layer.head_dim) * dtype_bytes(layer.dtype);
  const int32_t *table = job.batch.block_table + static_cast<int64_t>(piece.sequence) * job.batch.block_table_stride;
  const int32_t slots = layer.block_token_count, first_key = tile * kKeyTile;
  const int32_t count = std::min(kKeyTile, job.batch.kv_count[piece.sequence] - first_key);
  int32_t block_index = first_key / slots, slot = first_key % slots;
  for (int32_t j = 0; j < count; block_index++, slot = 0) {
    const int32_t block = table[block_index], end = std::min(count, j + slots - slot);
    const uint8_t *row = static_cast<const uint8_t *>(layer.base) + static_cast<uint64_t>(std::max(block, 0)) * layer.block_bytes +
                         (static_cast<uint64_t>(piece.kv_head) * slots + slot) * row_bytes;
    for (; j < end; j++, row += row_bytes) {
      rows->keys[j] = block < 0 ? static_cast<const void *>(kZeroRow) : row + layer.key_offset;
      rows->values[j] = block < 0 ? static_cast<const void *>(kZeroRow) : row + layer.value_offset;
    }
  }
  for (int32_t j = std::max(count, 0); j < kKeyTile; j++) rows->keys[j] = rows->values[j] = kZeroRow;
}

/* The piece's tokens that see a key of the tile: early ones come before it, late ones have left it behind their window. */
struct TokenRange { int begin, end; };

TokenRange tokens_seeing(const Job &job, const Piece &piece, int32_t first_key) {
  const int32_t first_query = first_position(job, piece.sequence) + piece.first_token;
  const int begin = std::max(0, first_key - first_query);
  if (job.window <= 0) return {begin, piece.token_count};
  return {begin, static_cast<int>(std::min<int64_t>(piece.token_count, static_cast<int64_t>(first_key) + kKeyTile - 1 + job.window - first_query))};
}

/* A share of the next tile's rows towards the cache, so that they arrive while this tile is computed. */
void prefetch_share(const Job &job, const TileRows &next, int index, int count) {
  const int row_bytes = job.layer.head_dim * static_cast<int>(dtype_bytes(job.layer.dtype));
  for (int j = index * kKeyTile / count; j < (index + 1) * kKeyTile / count; j++) {
    for (int at = 0; at < row_bytes; at += 64) {
      __builtin_prefetch(static_cast<const uint8_t *>(next.keys[j]) + at, 0, 2);
      __builtin_prefetch(static_cast<const uint8_t *>(next.values[j]) + at, 0, 2);
    }
  }
}

/* Turns one token's scores into probabilities. */
void soften_token(const Job &job, const Piece &piece, int32_t first_key, int token, const Workspace &space) {
  const int32_t position = first_position(job, piece.sequence) + piece.first_token + token;
  const int first = job.window > 0 ? std::max(0, position - job.window + 1 - first_key) : 0;
  const int end = std::min(kKeyTile, position + 1 - first_key);
  for (int row = token * job.group; row < (token + 1) * job.group; row++)
    space.alpha[row] = job.kernel->soften(space.scores + row * kKeyTile, first, end, job.softcap, &space.states[row]);
}

/* Rows that see nothing of the tile: nothing is added, nothing is scaled. */
void hide_rows(const Job &job, int first_token, int end_token, const Workspace &space) {
  for (int row = first_token * job.group; row < end_token * job.group; row++) {
    std::fill(space.scores + row * kKeyTile, space.scores + (row + 1) * kKeyTile, 0.0f);
    space.alpha[row] = 1.0f;
  }
}

/* 1, 2, 4 or 8: what AttentionFew takes */
int few_rows(int row_count) { return row_count > 4 ? 8 : row_count > 2 ? 4 : row_count; }

void run_tile_few(const Job &job, const Piece &piece, int32_t first_key, const TileRows &rows, const TileRows &next, const Workspace &space) {
  const AttentionFew &few = *job.kernel->few;
  const int head_dim = job.layer.head_dim, row_count = few_rows(piece.token_count * job.group);
  const int key_count = std::min(kKeyTile, job.batch.kv_count[piece.sequence] - first_key);
  const TokenRange seeing = tokens_seeing(job, piece, first_key);
  few.score(space.scores, space.q, rows.keys, next.keys, job.layer.dtype, row_count, head_dim);
  hide_rows(job, 0, seeing.begin, space);
  for (int token = seeing.begin; token < seeing.end; token++) soften_token(job, piece, first_key, token, space);
  hide_rows(job, seeing.end, piece.token_count, space);
  few.accumulate(space.out, space.alpha, space.scores, rows.values, next.values, job.layer.dtype, row_count, head_dim, key_count);
}

/* Consecutive rows and how many of the tile's keys the last of them sees. On the diagonal rows go in small groups, so that little is
   computed for keys still to come; elsewhere all at once. */
struct RowGroup { int first_row, row_count, key_count; };

template <class Body>
void for_row_groups(const Job &job, const Piece &piece, int32_t first_key, TokenRange tokens, const Body &body) {
  const int32_t first_query = first_position(job, piece.sequence) + piece.first_token;
  const bool is_diagonal = first_query + tokens.begin < first_key + kKeyTile - 1;
  const int step = is_diagonal ? std::max(1, kDiagonalRows / job.group) : tokens.end - tokens.begin;
  for (int token = tokens.begin; token < tokens.end; token += step) {
    const int end = std::min(tokens.end, token + step);
    body(RowGroup{token * job.group, (end - token) * job.group, std::min(kKeyTile, first_query + end - first_key)});
  }
}

void run_tile_many(const Job &job, const Piece &piece, int32_t first_key, const TileRows &rows, const TileRows &next, const Workspace &space) {
  const AttentionKernel &kernel = *job.kernel;
  const int head_dim = job.layer.head_dim, stride = padded_dim(head_dim);
  const TokenRange tokens = tokens_seeing(job, piece, first_key);
  kernel.load_keys(space.keys_t, rows.keys, job.layer.dtype, head_dim);
  for_row_groups(job, piece, first_key, tokens, [&](const RowGroup &group) {
    kernel.score(space.scores + group.first_row * kKeyTile, space.q + group.first_row * stride, space.keys_t, group.row_count, head_dim, group.key_count);
  });
  for (int token = tokens.begin; token < tokens.end; token++) {
    soften_token(job, piece, first_key, token, space);
    prefetch_share(job, next, token - tokens.begin, tokens.end - tokens.begin);
  }
  kernel.load_values(space.values, rows.values, job.layer.dtype, head_dim, std::min(kKeyTile, job.batch.kv_count[piece.sequence] - first_key));
  for_row_groups(job, piece, first_key, tokens, [&](const RowGroup &group) {
    kernel.accumulate(space.out + group.first_row * stride, space.alpha + group.first_row, space.scores + group.first_row * kKeyTile, space.values,
                      group.row_count, head_dim, group.key_count);
  });
}

// ---- one piece

void read_queries(const Job &job, const Piece &piece, const Workspace &space) {
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
void write_results(const Job &job, const Piece &piece, const Workspace &space) {
  const int head_dim = job.layer.head_dim, stride = padded_dim(head_dim), row_count = piece.token_count * job.group;
  const int64_t first_row = job.batch.query_start[piece.sequence] + piece.first_token;
  for (int row = 0; row < row_count; row++) {
    float inverse = 1.0f / space.states[row].sum;
    float *out = job.out + ((first_row + row / job.group) * job.head_count + piece.kv_head * job.group + row % job.group) * head_dim;
    for (int d = 0; d < head_dim; d++) out[d] = space.out[row * stride + d] * inverse + 0.0f;
  }
}

int32_t first_tile(const Job &job, const Piece &piece) {
  const int32_t first_query = first_position(job, piece.sequence) + piece.first_token;
  return job.window > 0 ? std::max(0, first_query - job.window + 1) / kKeyTile : 0;
}

/* then: the piece this thread takes next, whose first tile is prefetched during the last one here; NULL when not known */
void run_piece(const Job &job, const Piece &piece, const Piece *then, const Workspace &space) {
  const bool is_few = job.kernel->few != nullptr && piece.token_count * job.group <= kFewRows;
  const int32_t first = first_tile(job, piece), last = (first_position(job, piece.sequence) + piece.first_token + piece.token_count - 1) / kKeyTile;
  TileRows rows, next;
  find_rows(job, piece, first, &next);
  read_queries(job, piece, space);
  for (int32_t tile = first; tile <= last; tile++) {
    rows = next;
    if (tile < last) find_rows(job, piece, tile + 1, &next);
    else if (then != nullptr) find_rows(job, *then, first_tile(job, *then), &next);
    if (is_few) run_tile_few(job, piece, tile * kKeyTile, rows, next, space);
    else run_tile_many(job, piece, tile * kKeyTile, rows, next, space);
  }
  write_results(job, piece, space);
}

// ---- all pieces

void zero_rows(const Job &job, int64_t begin, int64_t end) {
  int64_t columns = static_cast<int64_t>(job.head_count) * job.layer.head_dim;
  if (end > begin) std::memset(job.out + begin * columns, 0, static_cast<size_t>((end - begin) * columns) * sizeof(float));
}

/* Longest first: late tokens of long sequences see the most keys, and the pool hands out pieces in this order. */
int64_t cut_pieces(const Job &job, int32_t *order, Piece *pieces) {
  const PdBatch &batch = job.batch;
  for (int32_t s = 0; s < batch.sequence_count; s++) order[s] = s;
  std::sort(order, order + batch.sequence_count, [&](int32_t a, int32_t b) {
    return batch.kv_count[a] != batch.kv_count[b] ? batch.kv_count[a] > batch.kv_count[b] : a < b;
  });
  int64_t count = 0;
  const int step = tokens_per_piece(job);
  for (int32_t i = 0; i < batch.sequence_count; i++) {
    int32_t sequence = order[i], queries = query_count(job, sequence);
    for (int32_t first = (queries - 1) / step * step; queries > 0 && first >= 0; first -= step)
      for (int32_t head = 0; head < job.layer.kv_head_count; head++)
        pieces[count++] = {sequence, head, first, std::min(step, queries - first)};
  }
  return count;
}

void run_attention(Pool &pool, const Job &job) {
  const PdBatch &batch = job.batch;
  for (int32_t s = 0; s < batch.sequence_count; s++)
    if (batch.kv_count[s] <= 0) zero_rows(job, batch.query_start[s], batch.query_start[s + 1]);
  zero_rows(job, batch.query_start[batch.sequence_count], batch.row_count);
  const int64_t most_pieces = (static_cast<int64_t>(batch.row_count) / tokens_per_piece(job) + batch.sequence_count) * job.layer.kv_head_count;
  uint8_t *scratch = static_cast<uint8_t *>(
      pool.scratch(-1, static_cast<size_t>(most_pieces) * sizeof(Piece) + static_cast<size_t>(batch.sequence_count) * sizeof(int32_t)));
  Piece *pieces = reinterpret_cast<Piece *>(scratch);
  int32_t *order = reinterpret_cast<int32_t *>(scratch + static_cast<size_t>(most_pieces) * sizeof(Piece));
  const int64_t piece_count = cut_pieces(job, order, pieces);
  const int rows = std::max(kFewRows, tokens_per_piece(job) * job.group);
  /* Decode pieces are alike and go several at a time, which tells a thread what to prefetch; prefill pieces go singly, for balance. */
  const bool is_decode = batch.query_start[batch.sequence_count] <= batch.sequence_count;
  const int64_t grain = is_decode ? std::max<int64_t>(1, piece_count / (pool.thread_count() * int64_t{8})) : 1;
  pool.parallel_for(piece_count, grain, [&](int64_t begin, int64_t end, int thread) {
    Workspace space = place_workspace(pool.scratch(thread, workspace_bytes(rows, job.layer.head_dim)), rows, job.layer.head_dim);
    for (int64_t i = begin; i < end; i++) run_piece(job, pieces[i], i + 1 < end ? &pieces[i + 1] : nullptr, space);
  });
}

const AttentionKernel *attention_kernel(const IsaLevel &isa) {
  const AttentionKernel *kernel = attention_kernel_vector(isa);
  return kernel != nullptr ? kernel : attention_kernel_scalar();
}

}  // namespace
}  // namespace pd

using namespace pd;

extern "C" int pd_paged_attention(PdStream *stream, int32_t dtype, void *out, const void *q, int32_t q_row_stride, const PdKvLayer *layer,
                                  const PdBatch *batch, int32_t head_count, float scale, int32_t window, float softcap) {
  int status = check_activations("paged_attention", dtype);
  if (status != PD_OK) return status;
  if (layer->dtype != PD_F32 && layer->dtype != PD_BF16 && layer->dtype != PD_F16)
    return fail(PD_UNSUPPORTED, "paged_attention: KV dtype %s is not supported on the cpu", dtype_name(layer->dtype));
  if (layer->head_dim < 8 || layer->head_dim > kMaxHeadDim || layer->head_dim % 8 != 0)
    return fail(PD_UNSUPPORTED, "paged_attention: head_dim %d is not a multiple of 8 from 8 to %d", layer->head_dim, kMaxHeadDim);
  if (layer->kv_head_count < 1 || head_count < 1 || head_count % layer->kv_head_count != 0)
    return fail(PD_INVALID, "paged_attention: %d heads are not a multiple of %d KV heads", head_count, layer->kv_head_count);
  if (layer->block_token_count < 1) return fail(PD_INVALID, "paged_attention: block_token_count %d", layer->block_token_count);
  if (batch->row_count <= 0) return PD_OK;
  Job job = {static_cast<float *>(out), static_cast<const float *>(q), q_row_stride, *layer, *batch, head_count,
             head_count / layer->kv_head_count, scale, window, softcap, attention_kernel(isa_of(stream))};
  return enqueue(stream, [job](Pool &pool) { run_attention(pool, job); });
}
