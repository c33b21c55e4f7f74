/* pd.h: THE contract between TypeScript and the native libraries. cpu/ and cuda/ export the same symbols.

   Who calls it: src/device/native.ts, nobody else. What it knows: tensors, strides, streams. Never a request or a tokenizer.

   Rules
   - Every function returns a status (PD_OK = 0) unless it says otherwise; pd_last_error() tells the calling thread why it failed.
   - A function that takes a PdStream* first ENQUEUES and returns; it runs later, in order, on that stream. Structs and lists passed
     by host pointer (PdBatch, PdKvLayer, PdBlockPair, PdSlice) are copied at the call. Tensor pointers must stay valid until it ran.
   - Only pd_stream_wait, pd_event_wait, pd_device_* , pd_alloc/free, pd_map_* and *_create/_destroy may block. TypeScript calls the two waits off its event loop.
   - A failure while running is sticky on its stream: the next pd_stream_wait or pd_event_wait on work behind it returns it. Until
     pd_stream_wait has returned it, later work of the stream is skipped (events are still reached, and hand it to waiting streams).
   - Any thread may call; each entry sets its device.
   - Accumulation order of every output element is fixed whatever the number of rows, the chunking or the thread count:
     matrix products take K ascending with one accumulator per output, never split over threads; attention takes keys in tiles of
     PD_KEY_TILE counted from position 0, the same for decode and prefill. (CUDA: only in batch-invariant mode.)
   - What is not a number in one row stays in that row: scales, maxima and sums are of one row, and NaN is carried on, never dropped.
   - No id or index that lies on the device is trusted; one out of range costs its own row alone. A token id or row index: the row is NaN.
     An expert id or a position: clamped. A slot or block outside the cache: as -1. A bias's or history's token: left out.
   - dtype names the activations. Norm weights, biases, rope tables and logits are float32 always. Matrices are row-major. */
#ifndef PD_H
#define PD_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PD_API __attribute__((visibility("default")))
#define PD_ABI_VERSION 4
#define PD_KEY_TILE 64   /* keys per softmax step */
#define PD_TOP_MAX 20    /* most alternatives reported per sampled token */
#define PD_TOKEN_FORBIDDEN (-1)  /* sampled: mask, bias and penalties leave nothing to draw from, or the target is no token */
#define PD_TOKEN_NOT_FINITE (-2) /* sampled: the logits hold NaN or +infinity, or nothing above -infinity */

typedef enum { PD_OK = 0, PD_UNSUPPORTED = 1, PD_INVALID = 2, PD_OUT_OF_MEMORY = 3, PD_NO_DEVICE = 4, PD_IO = 5, PD_INTERNAL = 6 } PdStatus;
typedef enum { PD_F32 = 0, PD_BF16 = 1, PD_F16 = 2, PD_I8 = 3, PD_FP8_E4M3 = 4, PD_I32 = 5 } PdDtype;
/* How a file writes the numbers of a matrix: a PdDtype, or one of these. */
typedef enum {
  PD_U4 = 16, PD_U8 = 17, PD_E2M1 = 18, /* in 32-bit words, the first number lowest; E2M1: +-{0, 0.5, 1, 1.5, 2, 3, 4, 6} */
  PD_GGML = 32,                         /* + ggml's own number: blocks with their scales inside, along k */
  PD_Q4_0 = 34, PD_Q4_1 = 35, PD_Q5_0 = 38, PD_Q5_1 = 39, PD_Q8_0 = 40, PD_Q2_K = 42, PD_Q3_K = 43, PD_Q4_K = 44, PD_Q5_K = 45, PD_Q6_K = 46,
  PD_IQ4_NL = 52, PD_IQ4_XS = 55, PD_MXFP4 = 71
} PdEncoding;
/* Weights of a few bits as they are multiplied (cpu): PD_GROUPED | bits, and what else there is. cpu/grouped.h lists those with kernels. */
enum {
  PD_GROUPED = 0x100,
  PD_GROUPED_MINIMUM = 0x10,   /* a minimum beside each scale; else numbers lie around half their range */
  PD_GROUPED_16 = 0x20,        /* scales for 16 columns of a row; else for 32 */
  PD_GROUPED_IQ4 = 0x40, PD_GROUPED_E2M1 = 0x80 /* 4-bit numbers that stand for others */
};
typedef enum { PD_ISA_AUTO = 0, PD_ISA_SCALAR = 1, PD_ISA_AVX2 = 2, PD_ISA_AVX512 = 3 } PdIsa; /* cpu only */
typedef enum { PD_SILU = 0, PD_GELU_TANH = 1 } PdActivation;
typedef enum {
  PD_OP_EMBEDDING = 0, PD_OP_RMSNORM, PD_OP_LINEAR, PD_OP_ROPE_STORE, PD_OP_PAGED_ATTENTION, PD_OP_ACT_MUL, PD_OP_MOE_ROUTE,
  PD_OP_MOE_LINEAR, PD_OP_MOE_COMBINE, PD_OP_SOFTCAP, PD_OP_GATHER_ROWS, PD_OP_SAMPLE, PD_OP_COPY_SLICES, PD_OP_COUNT
} PdOp;

typedef struct PdDevice PdDevice;
typedef struct PdStream PdStream;
typedef struct PdEvent PdEvent;
typedef struct PdGraph PdGraph;
typedef struct PdWeight PdWeight;
typedef struct PdCache PdCache;

/* ---- device ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
  char name[96];          /* "AMD EPYC 9xx5" or "NVIDIA H200" */
  char isa[32];           /* "avx512-vnni", "sm_90a" */
  int32_t thread_count;   /* compute threads of the cpu pool; 0 on cuda */
  int32_t index;
  uint64_t total_bytes;   /* memory of the device */
  uint64_t free_bytes;
} PdDeviceInfo;

PD_API int pd_abi_version(void);                  /* returns PD_ABI_VERSION, no status */
PD_API const char *pd_last_error(void);           /* message for this thread's last failing call, no status; never NULL */
PD_API int pd_device_count(int32_t *count);
PD_API int pd_device_open(int32_t index, int32_t thread_count, int32_t isa, PdDevice **device); /* thread_count 0: all cores */
PD_API int pd_device_info(PdDevice *device, PdDeviceInfo *info);
PD_API int pd_device_close(PdDevice *device);
PD_API int pd_set_batch_invariant(PdDevice *device, int32_t is_on); /* cuda: before the first op; cpu: accepted, it always is */
PD_API int pd_supports(PdDevice *device, int32_t op, int32_t dtype); /* returns 1 or 0, no status; for LINEAR dtype is the weight format, for attention and store the cache's */
PD_API int pd_measure_read(PdDevice *device, uint64_t bytes, int32_t repeats, double *bytes_per_second); /* best of repeats, all threads; blocks */

/* ---- memory ---------------------------------------------------------------------------------------------------------------- */

PD_API int pd_alloc(PdDevice *device, uint64_t bytes, void **pointer);      /* device memory, 256-byte aligned, zeroed */
PD_API int pd_free(PdDevice *device, void *pointer);
PD_API int pd_host_alloc(PdDevice *device, uint64_t bytes, void **pointer); /* pinned host memory, zeroed */
PD_API int pd_host_free(PdDevice *device, void *pointer);
PD_API int pd_copy(PdStream *stream, void *target, const void *source, uint64_t bytes); /* any direction */
PD_API int pd_zero(PdStream *stream, void *target, uint64_t bytes);
PD_API int pd_convert(PdStream *stream, void *target, int32_t target_dtype, const void *source, int32_t source_dtype, uint64_t count); /* F32/BF16/F16 to each other; source may be mapped host memory */
PD_API int pd_map_file(const char *path, void **pointer, uint64_t *bytes);  /* read-only mmap */
PD_API int pd_unmap_file(void *pointer, uint64_t bytes);

/* ---- streams, events, graphs ----------------------------------------------------------------------------------------------- */

PD_API int pd_stream_create(PdDevice *device, PdStream **stream);
PD_API int pd_stream_destroy(PdStream *stream);    /* waits for what is enqueued */
PD_API int pd_stream_wait(PdStream *stream);       /* blocks until everything enqueued before has run */
PD_API int pd_stream_wait_event(PdStream *stream, PdEvent *event); /* later work of the stream waits for the event's last record */
PD_API int pd_event_create(PdDevice *device, PdEvent **event);
PD_API int pd_event_destroy(PdEvent *event);
PD_API int pd_event_record(PdStream *stream, PdEvent *event);
PD_API int pd_event_wait(PdEvent *event);          /* blocks; PD_OK at once if never recorded */
PD_API int pd_event_query(PdEvent *event);         /* returns 1 when reached (or never recorded), else 0; no status */
PD_API int pd_event_elapsed(PdEvent *start, PdEvent *end, double *milliseconds); /* both reached */
PD_API int pd_graph_begin(PdStream *stream);       /* ops enqueued until pd_graph_end are recorded, not run; events cannot be recorded */
PD_API int pd_graph_end(PdStream *stream, PdGraph **graph);
PD_API int pd_graph_launch(PdStream *stream, PdGraph *graph);
PD_API int pd_graph_destroy(PdGraph *graph);

/* ---- KV cache memory --------------------------------------------------------------------------------------------------------- */

typedef struct {          /* travels between processes of one host */
  int64_t process_id;     /* cpu: opened through /proc/PID/fd/N */
  int32_t file_descriptor;
  int32_t device_index;   /* -1: host memory, opened like the cpu's */
  uint64_t bytes;
  uint8_t ipc_handle[64]; /* cuda */
} PdCacheExport;

PD_API int pd_cache_create(PdDevice *device, uint64_t bytes, PdCache **cache);
PD_API int pd_cache_create_host(PdDevice *device, uint64_t bytes, PdCache **cache); /* host memory the device reads and writes, pinned where that matters; exported and imported the same way, by any device */
PD_API int pd_cache_export(PdCache *cache, PdCacheExport *out);
PD_API int pd_cache_import(PdDevice *device, const PdCacheExport *from, PdCache **cache);
PD_API int pd_cache_pointer(PdCache *cache, void **pointer);
PD_API int pd_cache_close(PdCache *cache);         /* owner: frees; importer: unmaps */

typedef struct {          /* where one layer's keys and values lie; byte offsets within a block come from KvLayout */
  void *base;             /* the cache */
  uint64_t block_bytes;
  uint64_t key_offset;    /* of [kvHead][slot][headDim] */
  uint64_t value_offset;
  int32_t dtype;          /* PD_F32, PD_BF16, PD_F16, PD_FP8_E4M3: then float32 scales [kvHead][slot] lie behind the data of each half, powers of two */
  int32_t block_token_count;
  int32_t kv_head_count;
  int32_t head_dim;
  int32_t block_count;    /* of the cache: slots and block tables name no others */
  int32_t reserved;
} PdKvLayer;

typedef struct { int32_t target_block; int32_t source_block; } PdBlockPair;
typedef struct { uint64_t target_offset; uint64_t source_offset; uint64_t bytes; } PdSlice; /* within a block */

/* For every pair and every slice: copies bytes. Serves copy-on-write, transfer (target: a mapped cache of another worker), swap. */
PD_API int pd_copy_slices(PdStream *stream, void *target_base, const void *source_base, uint64_t target_block_bytes, uint64_t source_block_bytes,
                          const PdBlockPair *pairs, int32_t pair_count, const PdSlice *slices, int32_t slice_count);

typedef struct {          /* where the K and V vectors of some tokens lie: a cache, or staging; block = [layer][K | V][head][slot][headDim] */
  void *base;
  uint64_t block_bytes;
  uint64_t layer_bytes;   /* from one layer of a block to the next */
  uint64_t value_offset;  /* from a layer's K to its V */
  uint64_t scale_offset;  /* FP8_E4M3, I8: from K (or V) of a layer to its float32 scales [head][slot]; other dtypes have none */
  int32_t dtype;          /* F32, BF16, F16; FP8_E4M3 or I8: value = element * scale, scale = largest magnitude / (448 or 127) */
  int32_t block_token_count;
  int32_t head_count;     /* in a block */
  int32_t first_head;     /* which head of the model its first one is */
} PdKvPlace;

typedef struct {
  int32_t target_start, source_start; /* of the first token, counted from the first slot of its block list */
  int32_t token_count;
  int32_t target_layer, source_layer, layer_count; /* within a block of each side */
  int32_t first_head, head_count;     /* of the model, held by both sides */
  int32_t head_dim;       /* at most 256 */
  int32_t reserved;
} PdKvRange;

/* Moves K and V of a range of tokens, layers and heads between places of different dtype, block size or heads. Block lists: as many as the
   tokens need, host memory. No token twice. Either side may be mapped or pinned host memory. Equal results on cpu and cuda. */
PD_API int pd_move_kv(PdStream *stream, const PdKvPlace *target, const int32_t *target_blocks, const PdKvPlace *source, const int32_t *source_blocks,
                      const PdKvRange *range);

/* out[i] = CRC-32C (Castagnoli) of the bytes of block blocks[i]. out: [block_count], host memory. cpu only. */
PD_API int pd_checksum_blocks(PdStream *stream, uint32_t *out, const void *base, uint64_t block_bytes, const int32_t *blocks, int32_t block_count);

/* ---- weights: matrices [n, k] packed once at load into what the GEMM likes ---------------------------------------------------- */

typedef struct {            /* a matrix as a file stores it: value = (number - zero) * scale, or what a block says */
  const void *data;         /* host or mapped memory, or what the device can read */
  const float *scales;      /* [rows, group_count], host memory; NULL: 1 */
  const float *zeros;       /* as scales; NULL: 0 */
  const int32_t *groups;    /* [k] the group of each column; NULL: column / group_columns */
  uint64_t data_bytes;      /* from data on: all that is read */
  uint64_t row_stride;      /* in elements; of packed numbers in words, between the rows that words hold; of blocks in bytes */
  uint64_t column_stride;   /* packed numbers only: in words, along k */
  int32_t encoding;         /* PdDtype (not I32) or PdEncoding */
  int32_t group_columns;    /* a multiple of 16 unless there is one group */
  int32_t group_count;
  int32_t word_rows;        /* packed numbers only: 1, and words go along k; else rows of a word, and they go along the rows */
  int32_t is_interleaved;   /* packed numbers only: eight of a word lie in the order 0 4 1 5 2 6 3 7 (AWQ) */
  int32_t paired_rows;      /* each so many rows are stored as pairs (i, i + half), as llama.cpp rotates them; 0: in order */
} PdMatrix;

/* Rows 0 .. row_count - 1 as plain float32, bfloat16 or float16, row-major. target: device memory. What source points to stays until it ran. */
PD_API int pd_read_matrix(PdStream *stream, void *target, int32_t target_dtype, const PdMatrix *source, int32_t row_count, int32_t k);

/* format: PD_F32, PD_BF16, PD_I8 (per-row scales, activations quantised per token on the fly), PD_FP8_E4M3 (cuda), PD_F16 (cuda).
   PD_GROUPED | …: numbers, scales and minima of quantised files as they are (scales rounded to 11 bits), activations quantised for each 32 columns.
   count > 1: a stack of equal matrices (experts). Several parts: rows of several grouped formats, the next where the last ends; all but the
   last are multiples of 32 rows. PD_BF16 on a cpu with AVX512-BF16: activations are rounded to bfloat16 for the product,
   elsewhere they stay float32 (docs/experiments/cpu-kernels.md). */
typedef struct { int32_t rows, format; } PdWeightPart;
PD_API int pd_weight_create(PdDevice *device, int32_t count, int32_t k, const PdWeightPart *parts, int32_t part_count, PdWeight **weight);
PD_API int pd_weight_fill(PdStream *stream, PdWeight *weight, int32_t index, int32_t first_row, int32_t row_count,
                          const PdMatrix *source); /* its row 0 becomes first_row; what it points to stays until it ran */
PD_API int pd_weight_fill_random(PdStream *stream, PdWeight *weight, uint64_t seed, float standard_deviation);
PD_API int pd_random(PdStream *stream, void *target, int32_t dtype, uint64_t count, uint64_t seed, float standard_deviation, float mean); /* plain tensors */
PD_API int pd_weight_bytes(PdWeight *weight, uint64_t *bytes);
PD_API int pd_weight_destroy(PdWeight *weight);

/* ---- one step's metadata, on the device ---------------------------------------------------------------------------------------- */

/* Counts are the caller's own: the cpu fails the stream over a sequence with more keys than its table holds, cuda trusts them. */
typedef struct {
  int32_t row_count;             /* query tokens in this step, padding included */
  int32_t sequence_count;
  int32_t block_table_stride;    /* entries per sequence in block_table */
  int32_t query_count_max;       /* upper bounds, for launch shapes */
  int32_t kv_count_max;
  int32_t single_query_count;    /* at least so many sequences have one query; 0 where nobody counted */
  const int32_t *positions;      /* [row_count] */
  const int32_t *slots;          /* [row_count] block * block_token_count + offset; -1: padding, nothing is stored */
  const int32_t *query_start;    /* [sequence_count + 1] rows of each sequence, ascending */
  const int32_t *kv_count;       /* [sequence_count] keys each sequence has, this step's included; 0: padding, output rows are zero */
  const int32_t *block_table;    /* [sequence_count, block_table_stride]; entries a window has left behind may be -1 and are not read */
} PdBatch;

/* ---- ops ------------------------------------------------------------------------------------------------------------------------ */

/* out[r] = table[id] * scale. id = ids[r] >= 0 ? ids[r] : last_tokens[-1 - ids[r]] (a token sampled on the device, not yet known to the host).
   An id that is not in 0 .. vocab - 1 makes the row NaN. out: [rows, hidden] dtype; table: [vocab, hidden] table_dtype (F32, BF16, F16), plain row-major, may be mapped host memory on cpu */
PD_API int pd_embedding(PdStream *stream, int32_t dtype, void *out, const void *table, int32_t table_dtype, const int32_t *ids,
                        const int32_t *last_tokens, int32_t row_count, int32_t hidden, int32_t vocab, float scale);

/* residual NULL: out = x / sqrt(mean(x^2) + eps) * weight.  Else residual += x, then out = rmsnorm(residual).
   out, x, residual: [rows, cols] dtype; out may be x; weight: [cols] */
PD_API int pd_rmsnorm(PdStream *stream, int32_t dtype, void *out, const void *x, void *residual, const float *weight, int32_t row_count,
                      int32_t cols, float eps);

/* residual += x.  [count] dtype */
PD_API int pd_add(PdStream *stream, int32_t dtype, void *residual, const void *x, uint64_t count);

/* out[r, n] = sum_k x[r, k] * weight[n, k] + bias[n].  x: [rows, k] dtype; out: [rows, n] out_dtype; bias: [n] or NULL */
PD_API int pd_linear(PdStream *stream, int32_t dtype, void *out, int32_t out_dtype, const void *x, PdWeight *weight, const float *bias,
                     int32_t row_count);

/* Per row: RMS-normalise each q and k head (when norms are given), rotate q and k, store k and v into the cache at slots[row].
   qkv: [rows, (heads + 2 * kvHeads) * headDim] dtype; q is rewritten in place, k and v may be. q_norm, k_norm: [headDim] or NULL.
   rope: [position_count, rotary] = cos[rotary/2] then sin[rotary/2]; pairs are (i, i + rotary/2) (NeoX); dims past rotary pass through. */
PD_API int pd_rope_store(PdStream *stream, int32_t dtype, void *qkv, const PdKvLayer *layer, const PdBatch *batch, int32_t head_count,
                         const float *q_norm, const float *k_norm, float eps, const float *rope, int32_t position_count, int32_t rotary);

/* Causal attention of every row over its sequence's cached keys (this step's included), decode and prefill rows mixed.
   q: first heads of qkv, [rows, q_row_stride] dtype; out: [rows, heads * headDim] dtype.
   window > 0: a token sees itself and the window - 1 before it. softcap > 0: s = softcap * tanh(s / softcap) after scaling. */
PD_API int pd_paged_attention(PdStream *stream, int32_t dtype, void *out, const void *q, int32_t q_row_stride, const PdKvLayer *layer,
                              const PdBatch *batch, int32_t head_count, float scale, int32_t window, float softcap);

/* out[r, i] = activation(gate_up[r, i]) * gate_up[r, inter + i].  gate_up: [rows, 2 * inter] dtype */
PD_API int pd_act_mul(PdStream *stream, int32_t dtype, void *out, const void *gate_up, int32_t row_count, int32_t inter, int32_t activation);

/* softmax over the experts, the best top_k per row (ties: lower index), weights normalised to 1 when normalise != 0.
   A row with NaN or +infinity, or with nothing above -infinity, takes experts 0 .. top_k - 1 with weights NaN.
   logits: [rows, experts] float32; expert_ids, expert_weights: [rows, top_k] */
PD_API int pd_moe_route(PdStream *stream, int32_t *expert_ids, float *expert_weights, const float *logits, int32_t row_count,
                        int32_t expert_count, int32_t top_k, int32_t normalise);

/* out[j] = x[j / divisor] . weight[expert_ids[j]]^T for j < pair_count.  divisor: top_k for the first product, 1 for the second */
PD_API int pd_moe_linear(PdStream *stream, int32_t dtype, void *out, const void *x, PdWeight *weight, const int32_t *expert_ids,
                         int32_t pair_count, int32_t divisor);

/* out[r] = sum over j ascending of expert_weights[r, j] * x[r * top_k + j].  x: [rows * top_k, hidden] dtype */
PD_API int pd_moe_combine(PdStream *stream, int32_t dtype, void *out, const void *x, const float *expert_weights, int32_t row_count,
                          int32_t top_k, int32_t hidden);

/* x = cap * tanh(x / cap), float32; infinity becomes NaN: capped it would pass for a number */
PD_API int pd_softcap(PdStream *stream, float *x, uint64_t count, float cap);

/* out[i] = x[indices[i]]; an index that is not in 0 .. x_row_count - 1 makes the row NaN.  out: [count, cols], x: [x_row_count, cols] dtype */
PD_API int pd_gather_rows(PdStream *stream, int32_t dtype, void *out, const void *x, const int32_t *indices, int32_t count,
                          int32_t x_row_count, int32_t cols);

/* ---- sampling ------------------------------------------------------------------------------------------------------------------- */

typedef struct {            /* one sampled row: 80 bytes, all fields 4 bytes */
  float temperature;        /* 0: greedy (ties: lower id) */
  float top_p;              /* 1: off; smallest set of best tokens whose probability reaches top_p */
  float min_p;              /* 0: off; keep tokens with p >= min_p * best p */
  int32_t top_k;            /* 0: off */
  float repetition;         /* 1: off; over prompt and output */
  float presence;           /* 0: off; over output */
  float frequency;          /* 0: off; over output */
  uint32_t seed_low;        /* the draw is a pure function of (seed, draw_index) */
  uint32_t seed_high;
  uint32_t draw_index;      /* how many tokens this sequence has sampled before */
  int32_t history_start;    /* in history: prompt ids then output ids */
  int32_t prompt_count;
  int32_t output_count;
  int32_t bias_start;       /* in bias_ids / bias_values, no id twice; added before the penalties' result is tempered; -infinity forbids */
  int32_t bias_count;
  int32_t mask_start;       /* word index in masks of ceil(vocab/32) words, bit set = allowed; -1: none */
  int32_t top_count;        /* alternatives to report, 0..PD_TOP_MAX */
  int32_t target;           /* >= 0: draw nothing, report this token's log-probability (prompt log-probabilities); -1: sample */
  int32_t slot;             /* where in last_tokens the token goes; -1: nowhere */
  int32_t reserved;
} PdSampleRow;

/* Order: logits -> mask, bias, repetition, frequency, presence -> temperature -> top-k -> top-p -> min-p -> draw.
   Log-probabilities are those of the raw logits (log-softmax before everything above).
   The draw: u * total walks the kept tokens' weights in ascending id, u from Philox 4x32-10 (cpu/philox.h).
   No token: PD_TOKEN_NOT_FINITE of raw logits that are not numbers (a target is not reported of them either), else PD_TOKEN_FORBIDDEN; then
   logprob -infinity, no alternatives of the former, and 0 in last_tokens, so that a step which is enqueued already reads a token.
   logits: [rows, vocab] float32, not changed; tokens: [rows]; logprobs: [rows]; top_ids, top_logprobs: [rows, PD_TOP_MAX], best first,
   then -1 and -infinity */
PD_API int pd_sample(PdStream *stream, const float *logits, int32_t row_count, int32_t vocab, const PdSampleRow *rows, const int32_t *history,
                     const int32_t *bias_ids, const float *bias_values, const uint32_t *masks, int32_t *last_tokens, int32_t *tokens,
                     float *logprobs, int32_t *top_ids, float *top_logprobs);

#ifdef __cplusplus
}
#endif
#endif
