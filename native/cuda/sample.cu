/* Sampling: one token per row, its log-probability and the best alternatives. Semantics in ../pd.h. Twin: ../cpu/sample.cc, whose draw this
   repeats: Philox 4x32-10 of (seed, draw_index) gives u, and u * total walks the kept tokens' weights in ascending id.

   sample_scan.cu has read every logit once. A block here takes one row after another:
     greedy                    the best of the chunks' bests
     temperature alone         the chunk in which u falls, then one chunk of logits
     top-k, top-p              the best few hundred candidates, sorted in shared memory; long prefixes by thresholds over the row
     mask, bias, penalties     on a copy of the row first */
#include "sample_pick.cuh"

namespace pd {
namespace {

constexpr int kFew = 256; /* candidates that reach top_p nearly always */

// ---- kernels

__device__ inline double uniform_of(const PdSampleRow &row) {
  uint32_t counter[4] = {row.draw_index, 0, 0, 0}, key[2] = {row.seed_low, row.seed_high};
  for (int i = 0; i < 10; i++) {
    const uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
    const uint32_t next[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ counter[3] ^ key[1], (uint32_t)a};
    for (int j = 0; j < 4; j++) counter[j] = next[j];
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return (double)(((uint64_t)counter[1] << 32 | counter[0]) >> 11) * 0x1p-53;
}

__device__ inline bool has_changes(const PdSampleRow &row) {
  const bool repeats = row.repetition != 1.0f && row.prompt_count + row.output_count > 0;
  return row.mask_start >= 0 || row.bias_count > 0 || repeats || ((row.presence != 0.0f || row.frequency != 0.0f) && row.output_count > 0);
}

/* changed = logits after mask, bias and penalties. counts is zero before and after. */
__device__ void change_row(const SampleArguments &a, const PdSampleRow &row, const float *logits, float *changed, uint32_t *counts) {
  for (int i = threadIdx.x; i < a.vocab; i += kSampleThreads) {
    const bool is_allowed = row.mask_start < 0 || (a.masks[row.mask_start + i / 32] >> (i % 32) & 1u) != 0;
    changed[i] = is_allowed ? logits[i] : -INFINITY;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < row.bias_count; i += kSampleThreads) { /* no id twice */
    const int id = a.bias_ids[row.bias_start + i];
    if (id >= 0 && id < a.vocab) changed[id] += a.bias_values[row.bias_start + i];
  }
  __syncthreads();
  if (row.repetition == 1.0f && row.presence == 0.0f && row.frequency == 0.0f) return;
  constexpr uint32_t kSeen = 1u << 31;
  const int32_t *history = a.history + row.history_start;
  const int total = row.prompt_count + row.output_count;
  for (int i = threadIdx.x; i < total; i += kSampleThreads) {
    if (history[i] < 0 || history[i] >= a.vocab) continue;
    if (i >= row.prompt_count) atomicAdd(&counts[history[i]], 1u);
    atomicOr(&counts[history[i]], kSeen);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < total; i += kSampleThreads) {
    if (history[i] < 0 || history[i] >= a.vocab) continue;
    const uint32_t count = atomicExch(&counts[history[i]], 0u); /* one thread gets it */
    if (count == 0) continue;
    const uint32_t outputs = count & ~kSeen;
    float value = changed[history[i]];
    value = value > 0.0f ? value / row.repetition : value * row.repetition;
    changed[history[i]] = value - (row.frequency * (float)outputs + (outputs > 0 ? row.presence : 0.0f));
  }
  __syncthreads();
}

/* Best value and its lowest id, over a whole row. */
__device__ uint64_t best_of_row(const float *x, int vocab, uint64_t below, PickShared &shared) {
  uint64_t best = ~0ull; /* (~key, id): lowest is best */
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) {
    const uint64_t candidate = (uint64_t)~order_key(x[i]) << 32 | (uint32_t)i;
    if (candidate < best && (below == 0 || candidate > below)) best = candidate;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(~0u, best, step);
    best = other < best ? other : best;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.candidates[kCandidatesMax - 32 + threadIdx.x / 32] = best;
  __syncthreads();
  for (int w = 0; w < 32; w++) best = shared.candidates[kCandidatesMax - 32 + w] < best ? shared.candidates[kCandidatesMax - 32 + w] : best;
  __syncthreads();
  return best;
}

/* Draws from the first `kept` of the sorted candidates. */
__device__ int draw_candidates(const DrawRow &row, int kept, double uniform, PickShared &shared) {
  __syncthreads();
  for (int i = threadIdx.x; i < kept; i += kSampleThreads) {
    const uint64_t candidate = shared.candidates[i];
    shared.candidates[i] = candidate << 32 | __float_as_uint(row.weight(candidate_value(candidate)));
  }
  sort_candidates(kept, shared); /* by id now */
  constexpr int kEach = kCandidatesMax / kSampleThreads;
  const int first = threadIdx.x * kEach;
  double sum = 0.0, total;
  for (int i = first; i < first + kEach && i < kept; i++) sum += (double)__uint_as_float((uint32_t)shared.candidates[i]);
  double before = block_scan_double(sum, &total, shared);
  if (threadIdx.x == 0) shared.found = kept;
  __syncthreads();
  const double goal = uniform * total;
  for (int i = first; i < first + kEach && i < kept; i++) {
    before += (double)__uint_as_float((uint32_t)shared.candidates[i]);
    if (before > goal) {
      atomicMin(&shared.found, i);
      break;
    }
  }
  __syncthreads();
  int at = shared.found < kept ? shared.found : kept - 1;
  while (at > 0 && (uint32_t)shared.candidates[at] == 0u) at--; /* rounding walked past the end onto weightless tokens */
  return (int)(shared.candidates[at] >> 32);
}

/* How many of the `count` sorted candidates top-p and min-p leave. total: what top_p is a share of; 0: the candidates' own sum. */
__device__ int cut_candidates(const DrawRow &row, const PdSampleRow &settings, int count, double total, double *sum, PickShared &shared) {
  constexpr int kEach = kCandidatesMax / kSampleThreads;
  const int first = threadIdx.x * kEach;
  double mine = 0.0;
  for (int i = first; i < first + kEach && i < count; i++) mine += (double)row.weight(candidate_value(shared.candidates[i]));
  double before = block_scan_double(mine, sum, shared);
  const double enough = settings.top_p < 1.0f ? (double)settings.top_p * (total > 0.0 ? total : *sum) : INFINITY;
  if (threadIdx.x == 0) shared.found = count;
  __syncthreads();
  for (int i = first; i < first + kEach && i < count; i++) {
    const float weight = row.weight(candidate_value(shared.candidates[i]));
    if (i > 0 && (weight < settings.min_p || before >= enough)) {
      atomicMin(&shared.found, i);
      break;
    }
    before += (double)weight;
  }
  __syncthreads();
  return shared.found;
}

/* Draws from a kept set of any length: weights per chunk, then the chunk in which the goal lies. statistics: the chunks' weights when
   nothing is cut, or NULL to sum here. */
__device__ int draw_row(const DrawRow &row, const Kept &kept, float min_p, double uniform, const ChunkStatistics *statistics, PickShared &shared) {
  const int chunks = (row.vocab + kSampleChunk - 1) / kSampleChunk, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto weight_of = [&](float value) {
    const float weight = row.weight(value);
    return weight >= min_p || value == row.best ? weight : 0.0f;
  };
  __syncthreads();
  if (statistics != nullptr) {
    for (int chunk = threadIdx.x; chunk < chunks; chunk += kSampleThreads) {
      shared.chunks.sums[chunk] = statistics[chunk].best == -INFINITY ? 0.0 : (double)statistics[chunk].tempered_sum * (double)row.weight(statistics[chunk].best);
      shared.chunks.ties[chunk] = 0;
    }
  } else {
    for (int chunk = warp; chunk < chunks; chunk += kSampleThreads / 32) {
      double sum = 0.0;
      int ties = 0;
      for (int base = chunk * kSampleChunk + lane; base < min(row.vocab, (chunk + 1) * kSampleChunk); base += 8 * 32) {
        float values[8];
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] = base + i * 32 < row.vocab ? row.x[base + i * 32] : NAN;
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const uint32_t key = order_key(values[i]);
          if (key > kept.threshold && key >= kLowestKey) sum += (double)weight_of(values[i]);
          ties += key == kept.threshold;
        }
      }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        sum += __shfl_xor_sync(~0u, sum, step);
        ties += __shfl_xor_sync(~0u, ties, step);
      }
      if (lane == 0) {
        shared.chunks.sums[chunk] = sum;
        shared.chunks.ties[chunk] = ties;
      }
    }
  }
  __syncthreads();
  const double tie_weight = kept.tie_count > 0 ? (double)weight_of(key_value(kept.threshold)) : 0.0;
  const auto sum_of = [&](int chunk, int ties_before) {
    return shared.chunks.sums[chunk] + tie_weight * max(0, min(kept.tie_count - ties_before, shared.chunks.ties[chunk]));
  };
  double total = 0.0, passed = 0.0;
  for (int chunk = 0, ties = 0; chunk < chunks; ties += shared.chunks.ties[chunk++]) total += sum_of(chunk, ties);
  const double goal = uniform * total;
  int chosen_chunk = -1, chosen_ties = 0;
  for (int chunk = 0, ties = 0; chunk < chunks; ties += shared.chunks.ties[chunk++]) {
    const double sum = sum_of(chunk, ties);
    if (sum <= 0.0) continue;
    chosen_chunk = chunk; /* the goal's, or the last with any weight when rounding walks past the end */
    chosen_ties = ties;
    if (passed + sum > goal) break;
    passed += sum;
  }
  if (chosen_chunk < 0) return PD_TOKEN_FORBIDDEN;
  /* within the chunk: the first value whose inclusive sum exceeds the rest; the last weighty one should none do */
  constexpr int kEach = kSampleChunk / kSampleThreads;
  const int id_first = chosen_chunk * kSampleChunk + threadIdx.x * kEach;
  float values[kEach], weights[kEach];
  double ties = 0.0, ignored, sum = 0.0;
  for (int i = 0; i < kEach; i++) {
    values[i] = id_first + i < row.vocab ? row.x[id_first + i] : -INFINITY;
    ties += order_key(values[i]) == kept.threshold;
  }
  int rank = chosen_ties + (kept.tie_count > 0 ? (int)block_scan_double(ties, &ignored, shared) : 0);
  for (int i = 0; i < kEach; i++) {
    const uint32_t key = order_key(values[i]);
    const bool is_kept = key > kept.threshold || (key == kept.threshold && rank++ < kept.tie_count);
    weights[i] = is_kept && key >= kLowestKey ? weight_of(values[i]) : 0.0f;
    sum += (double)weights[i];
  }
  double before = passed + block_scan_double(sum, &ignored, shared);
  constexpr int kNone = 0x7fffffff;
  if (threadIdx.x == 0) {
    shared.count = kNone;
    shared.found = -1;
  }
  __syncthreads();
  for (int i = 0; i < kEach; i++) {
    before += (double)weights[i];
    if (weights[i] <= 0.0f) continue;
    atomicMax(&shared.found, id_first + i);
    if (before > goal) {
      atomicMin(&shared.count, id_first + i);
      break;
    }
  }
  __syncthreads();
  return shared.count != kNone ? shared.count : shared.found;
}

__device__ int choose(const SampleArguments &a, const PdSampleRow &row, const float *logits, float raw_best, int raw_best_id,
                      const ChunkStatistics *statistics, PickShared &shared) {
  DrawRow draw{logits, a.vocab, raw_best, 0.0f};
  int best_id = raw_best_id;
  if (has_changes(row)) {
    float *changed = a.changed + (size_t)blockIdx.x * a.vocab;
    change_row(a, row, logits, changed, a.counts + (size_t)blockIdx.x * a.vocab);
    const uint64_t best = best_of_row(changed, a.vocab, 0, shared);
    const uint32_t key = ~(uint32_t)(best >> 32);
    draw.x = changed;
    draw.best = key < kLowestKey ? -INFINITY : key_value(key);
    best_id = (int)(uint32_t)best;
    statistics = nullptr;
  }
  if (draw.best == -INFINITY) return PD_TOKEN_FORBIDDEN;
  draw.scale = 1.0f / row.temperature;
  if (row.temperature <= 0.0f || draw.best == INFINITY || isinf(draw.scale)) return best_id;
  const double uniform = uniform_of(row);
  const bool cuts_k = row.top_k > 0 && row.top_k < a.vocab, cuts_p = row.top_p < 1.0f;
  if (!cuts_k && !cuts_p) return draw_row(draw, Kept{}, row.min_p, uniform, row.min_p > 0.0f ? nullptr : statistics, shared);
  double total = 0.0, sum;
  if (!cuts_k) total = measure<true>(draw, 0, Kept{}, shared);
  const int wanted = cuts_k ? row.top_k : min(kFew, a.vocab);
  if (wanted <= kWantedMax) {
    const int found = best_candidates(draw.x, a.vocab, wanted, shared);
    if (found >= 0) {
      const int count = cuts_k ? min(found, wanted) : found;
      const int kept = cut_candidates(draw, row, count, total, &sum, shared);
      if (cuts_k || kept < count || sum >= (double)row.top_p * total) return draw_candidates(draw, kept, uniform, shared);
    }
  }
  Kept kept;
  if (cuts_k) kept = shortest_prefix<false>(draw, row.top_k, kept, shared);
  if (cuts_p) {
    if (cuts_k) total = measure<true>(draw, 0, kept, shared);
    const double goal = (double)row.top_p * total;
    if (cuts_k || !bucket_prefix(draw, goal, &kept, shared)) kept = shortest_prefix<true>(draw, goal, kept, shared);
  }
  return draw_row(draw, kept, row.min_p, uniform, nullptr, shared);
}

__device__ void report_alternatives(const SampleArguments &a, int index, int count, const float *logits, double log_sum, PickShared &shared) {
  if (a.top_ids == nullptr) return;
  const int wanted = min(max(count, 0), min(PD_TOP_MAX, a.vocab));
  int found = wanted > 0 ? best_candidates(logits, a.vocab, wanted, shared) : 0;
  if (found < 0) { /* thousands of equal values: one pass each */
    uint64_t below = 0;
    for (found = 0; found < wanted; found++) {
      below = best_of_row(logits, a.vocab, below, shared);
      if (threadIdx.x == 0) shared.candidates[found] = below;
      __syncthreads();
    }
  }
  __syncthreads();
  for (int j = threadIdx.x; j < PD_TOP_MAX; j += kSampleThreads) {
    const bool is_real = j < min(found, wanted);
    a.top_ids[(size_t)index * PD_TOP_MAX + j] = is_real ? (int)(uint32_t)shared.candidates[j] : -1;
    a.top_logprobs[(size_t)index * PD_TOP_MAX + j] = is_real ? (float)((double)candidate_value(shared.candidates[j]) - log_sum) : -INFINITY;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kSampleThreads) sample_kernel(const SampleArguments a) {
  __shared__ PickShared shared;
  const int lane = threadIdx.x % 32;
  grid_wait();
  for (int index = blockIdx.x; index < a.row_count; index += gridDim.x) {
    const PdSampleRow row = a.rows[index];
    const float *logits = a.logits + (size_t)index * a.vocab;
    const ChunkStatistics *statistics = a.statistics + (size_t)index * a.chunk_count;
    uint64_t highest = 0; /* (order key, ~id); every warp finds the same */
    for (int chunk = lane; chunk < a.chunk_count; chunk += 32) {
      const uint64_t candidate = (uint64_t)order_key(statistics[chunk].best) << 32 | (uint32_t)~statistics[chunk].best_id;
      highest = candidate > highest ? candidate : highest;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const uint64_t other = __shfl_xor_sync(~0u, highest, step);
      highest = other > highest ? other : highest;
    }
    const float best = key_value((uint32_t)(highest >> 32));
    const int best_id = (int)~(uint32_t)highest;
    double exponentials = 0.0;
    bool is_finite = best != -INFINITY;
    for (int chunk = lane; chunk < a.chunk_count; chunk += 32) {
      is_finite &= !isnan(statistics[chunk].sum);
      if (statistics[chunk].best != -INFINITY) exponentials += (double)statistics[chunk].sum * (double)expf(statistics[chunk].best - best);
    }
    is_finite = __all_sync(~0u, is_finite); /* every warp finds the same */
#pragma unroll
    for (int step = 16; step > 0; step /= 2) exponentials += __shfl_xor_sync(~0u, exponentials, step);
    const double log_sum = (double)best + log(exponentials);
    report_alternatives(a, index, is_finite ? row.top_count : 0, logits, log_sum, shared);
    int token = PD_TOKEN_NOT_FINITE;
    if (is_finite && row.target >= 0) token = row.target < a.vocab ? row.target : PD_TOKEN_FORBIDDEN;
    else if (is_finite) token = choose(a, row, logits, best, best_id, statistics, shared);
    if (threadIdx.x == 0) {
      a.tokens[index] = token;
      if (a.logprobs != nullptr) a.logprobs[index] = token < 0 ? -INFINITY : (float)((double)logits[token] - log_sum);
      if (row.slot >= 0) a.last_tokens[row.slot] = token < 0 ? 0 : token;
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace pd

using namespace pd;

// ---- launchers

extern "C" int pd_sample(PdStream *stream, const float *logits, int32_t row_count, int32_t vocab, const PdSampleRow *rows,
                         const int32_t *history, const int32_t *bias_ids, const float *bias_values, const uint32_t *masks,
                         int32_t *last_tokens, int32_t *tokens, float *logprobs, int32_t *top_ids, float *top_logprobs) {
  if (int status = enter(stream->device)) return status;
  if (vocab < 1) return fail(PD_INVALID, "sample: a vocabulary of %d", vocab);
  if (vocab > kSampleChunk * kChunksMax) return fail(PD_UNSUPPORTED, "sample: a vocabulary of %d; at most %d", vocab, kSampleChunk * kChunksMax);
  if (row_count == 0) return PD_OK;
  const int chunk_count = ceil_div(vocab, kSampleChunk);
  const int most = stream->device->multiprocessor_count / 2, blocks = row_count < most ? row_count : most;
  const size_t statistics_bytes = ((size_t)row_count * chunk_count * sizeof(ChunkStatistics) + 255) / 256 * 256;
  const size_t vocab_bytes = (size_t)vocab * 4, blocks_bytes = (size_t)blocks * vocab_bytes;
  void *counts = nullptr, *memory = nullptr;
  if (int status = scratch(stream, Scratch::kSampleCounts, (size_t)most * vocab_bytes, &counts)) return status;
  if (int status = scratch(stream, Scratch::kSampleRows, statistics_bytes + blocks_bytes, &memory)) return status;
  const SampleArguments arguments{logits, row_count, vocab, chunk_count, rows, history, bias_ids, bias_values, masks, last_tokens, tokens,
                                  logprobs, top_ids, top_logprobs, (ChunkStatistics *)memory, (float *)((char *)memory + statistics_bytes),
                                  (uint32_t *)counts};
  if (int status = sample_scan(stream, arguments)) return status;
  return launch(stream, "sample", sample_kernel, blocks, kSampleThreads, 0, arguments);
}
