/* One sampled row: from logits to a token, its log-probability and the best alternatives. Used by sample.cc; semantics in ../pd.h.

   The vocabulary is never sorted. The k-th largest group maximum bounds the k-th largest value from below, so one pass collects a
   small superset of the best k; only that is sorted. Kept tokens are drawn from in ascending id: u * total walks their weights, u being
   Philox 4x32-10 of (key: seed, counter: draw_index), 53 bits. Everything is a function of the row alone. */
#include "sample_row.h"

#include <float.h>
#include <string.h>

#include <algorithm>
#include <cmath>

#include "philox.h"
#include "runtime.h"
#include "sample_scratch.h"

using namespace pd;

namespace {

class RowSampler {
 public:
  RowSampler(const SampleScan &scan, const SampleArguments &arguments, const Scratch &scratch, int64_t index)
      : scan_(scan), a_(arguments), s_(scratch), index_(index), row_(arguments.rows[index]), vocab_(arguments.vocab),
        logits_(arguments.logits + index * arguments.vocab), x_(logits_) {}

  void run() {
    bool is_finite;
    best_ = scan_.group_maxima(s_.group_max, &is_finite, logits_, vocab_);
    if (!is_finite) {
      write_alternatives(0);
      return write(PD_TOKEN_NOT_FINITE);
    }
    if (a_.logprobs != nullptr || row_.top_count > 0)
      log_sum_ = best_ + log(scan_.exp_sums(s_.chunk_sums, logits_, vocab_, best_, 1.0f));
    const int64_t wanted = row_.top_count < PD_TOP_MAX ? row_.top_count : PD_TOP_MAX;
    write_alternatives(wanted > 0 && a_.top_ids != nullptr ? best_candidates(wanted) : 0);
    write(row_.target < 0 ? choose() : is_token(row_.target) ? row_.target : PD_TOKEN_FORBIDDEN);
  }

 private:
  void write(int32_t token) const {
    a_.tokens[index_] = token;
    if (a_.logprobs != nullptr) a_.logprobs[index_] = token < 0 ? -INFINITY : logprob(token);
    if (row_.slot >= 0) a_.last_tokens[row_.slot] = token < 0 ? 0 : token;
  }

  float logprob(int32_t id) const { return (float)((double)logits_[id] - log_sum_); }

  /* The first `found` candidates. */
  void write_alternatives(int64_t found) const {
    if (a_.top_ids == nullptr) return;
    for (int64_t j = 0; j < PD_TOP_MAX; j++) {
      a_.top_ids[index_ * PD_TOP_MAX + j] = j < found ? s_.candidates[j].id : -1;
      a_.top_logprobs[index_ * PD_TOP_MAX + j] = j < found ? logprob(s_.candidates[j].id) : -INFINITY;
    }
  }

  int32_t choose() {
    if (has_changes()) change_row();
    if (best_ == -INFINITY) return PD_TOKEN_FORBIDDEN;
    if (row_.temperature <= 0 || best_ == INFINITY) return first_best();
    scale_ = 1.0f / row_.temperature;
    if (std::isinf(scale_)) return first_best();
    const bool cuts_k = row_.top_k > 0 && row_.top_k < vocab_, cuts_p = row_.top_p < 1;
    if (cuts_k) {
      const int64_t count = best_candidates(row_.top_k);
      return draw_from_best(cut(count, weigh(count)));
    }
    if (cuts_p) return draw_nucleus();
    if (row_.min_p > 0) return draw_from_ascending(collect_min_p());
    return draw_from_all();
  }

  // ---- changes: mask, bias, penalties

  bool has_changes() const {
    const bool repeats = row_.repetition != 1 && row_.prompt_count + row_.output_count > 0;
    return row_.mask_start >= 0 || row_.bias_count > 0 || repeats || ((row_.presence != 0 || row_.frequency != 0) && row_.output_count > 0);
  }

  void change_row() {
    memcpy(s_.values, logits_, (size_t)vocab_ * sizeof(float));
    if (row_.mask_start >= 0) scan_.apply_mask(s_.values, a_.masks + row_.mask_start, vocab_);
    for (int32_t i = row_.bias_start; i < row_.bias_start + row_.bias_count; i++)
      if (is_token(a_.bias_ids[i])) s_.values[a_.bias_ids[i]] += a_.bias_values[i];
    if (row_.repetition != 1 || row_.presence != 0 || row_.frequency != 0) penalise();
    x_ = s_.values;
    bool is_finite; /* what a bias has made infinite is meant */
    best_ = scan_.group_maxima(s_.group_max, &is_finite, x_, vocab_);
  }

  /* Counts outputs per token (the top bit marks tokens seen at all), then visits each seen token once. */
  void penalise() {
    constexpr uint32_t kSeen = 1u << 31;
    uint32_t *counts = (uint32_t *)s_.weights;
    memset(counts, 0, (size_t)vocab_ * 4);
    const int32_t *history = a_.history + row_.history_start;
    const int64_t total = (int64_t)row_.prompt_count + row_.output_count;
    for (int64_t i = 0; i < total; i++) {
      if (!is_token(history[i])) continue;
      uint32_t &count = counts[history[i]];
      count = (count | kSeen) + (i >= row_.prompt_count ? 1 : 0);
    }
    for (int64_t i = 0; i < total; i++) {
      if (!is_token(history[i])) continue;
      uint32_t &count = counts[history[i]];
      if (count == 0) continue;
      float &value = s_.values[history[i]];
      const uint32_t outputs = count & ~kSeen;
      value = value > 0 ? value / row_.repetition : value * row_.repetition;
      value -= row_.frequency * (float)outputs + (outputs > 0 ? row_.presence : 0.0f);
      count = 0;
    }
  }

  bool is_token(int32_t id) const { return id >= 0 && id < vocab_; }

  // ---- selection

  int32_t first_best() const {
    int64_t group = 0;
    while (s_.group_max[group] != best_) group++;
    int64_t i = group * kGroup;
    while (x_[i] != best_) i++;
    return (int32_t)i;
  }

  /* The best `wanted` values above -infinity (or as many as there are) into candidates, sorted. Returns how many. */
  int64_t best_candidates(int64_t wanted) {
    const int64_t groups = (vocab_ + kGroup - 1) / kGroup;
    float threshold = -FLT_MAX;
    if (wanted <= groups) {
      memcpy(s_.group_copy, s_.group_max, groups * sizeof(float));
      std::nth_element(s_.group_copy, s_.group_copy + wanted - 1, s_.group_copy + groups, std::greater<float>());
      threshold = std::max(threshold, s_.group_copy[wanted - 1]);
    }
    const int64_t found = scan_.collect(s_.ids, x_, s_.group_max, vocab_, threshold);
    for (int64_t i = 0; i < found; i++) s_.candidates[i] = {x_[s_.ids[i]], s_.ids[i]};
    const int64_t kept = std::min(found, wanted);
    if (kept < found) std::nth_element(s_.candidates, s_.candidates + kept, s_.candidates + found, is_better);
    std::sort(s_.candidates, s_.candidates + kept, is_better);
    return kept;
  }

  /* weights[i] = that of candidate i; the best value's is 1. Returns their sum. */
  double weigh(int64_t count) {
    for (int64_t i = 0; i < count; i++) s_.weights[i] = s_.candidates[i].value;
    scan_.exp_all(s_.weights, s_.weights, count, best_, scale_);
    double total = 0;
    for (int64_t i = 0; i < count; i++) total += s_.weights[i];
    return total;
  }

  /* How many of the sorted and weighed candidates top-p and min-p leave, at least 1. total: what top-p is a share of. */
  int64_t cut(int64_t count, double total) const {
    const double enough = row_.top_p < 1 ? row_.top_p * total : INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
      if (i > 0 && (s_.weights[i] < row_.min_p || sum >= enough)) return i;
      sum += s_.weights[i];
    }
    return count;
  }

  int64_t collect_min_p() {
    const float threshold = (float)(best_ + row_.temperature * log(row_.min_p) - 1e-4 * (fabs(best_) + row_.temperature));
    const int64_t found = scan_.collect(s_.ids, x_, s_.group_max, vocab_, threshold > -FLT_MAX ? threshold : -FLT_MAX);
    for (int64_t i = 0; i < found; i++) s_.candidates[i] = {x_[s_.ids[i]], s_.ids[i]};
    weigh(found);
    int64_t kept = 0;
    for (int64_t i = 0; i < found; i++)
      if (s_.candidates[i].value == best_ || s_.weights[i] >= row_.min_p) s_.candidates[kept++] = s_.candidates[i];
    return kept;
  }

  /* Top-p over the whole vocabulary: the best few reach it nearly always, else buckets of weight find where it is reached. */
  int32_t draw_nucleus() {
    constexpr int64_t kFew = 256;
    const double total = scan_.exp_sums(s_.chunk_sums, x_, vocab_, best_, scale_);
    const int64_t count = best_candidates(std::min(kFew, vocab_));
    const double sum = weigh(count);
    const int64_t kept = cut(count, total);
    const bool is_reached = kept < count || count < kFew || sum >= row_.top_p * total;
    return is_reached ? draw_from_best(kept) : draw_from_ascending(collect_nucleus(total));
  }

  int bucket_of(float value) const {
    const float depth = (best_ - value) * scale_ * 64.0f;  // falls as the value grows, so buckets are ordered as values are
    return depth < Scratch::kBuckets - 1 ? (int)depth : Scratch::kBuckets - 1;
  }

  /* The nucleus into candidates, ascending ids. Sorts only the bucket in which the sum passes top_p. */
  int64_t collect_nucleus(double total) {
    scan_.exp_all(s_.weights, x_, vocab_, best_, scale_);
    std::fill(s_.bucket_mass, s_.bucket_mass + Scratch::kBuckets, 0.0);
    for (int64_t i = 0; i < vocab_; i++)
      if (s_.weights[i] > 0) s_.bucket_mass[bucket_of(x_[i])] += s_.weights[i];
    const double enough = row_.top_p * total;
    double sum = 0;
    int last = 0;
    for (; last < Scratch::kBuckets - 1 && sum + s_.bucket_mass[last] < enough; last++) sum += s_.bucket_mass[last];
    int64_t count = 0;
    for (int64_t i = 0; i < vocab_; i++)
      if (s_.weights[i] > 0 && bucket_of(x_[i]) == last) s_.candidates[count++] = {x_[i], (int32_t)i};
    std::sort(s_.candidates, s_.candidates + count, is_better);
    int64_t edge = 0;
    while (edge + 1 < count && sum + s_.weights[s_.candidates[edge].id] < enough) sum += s_.weights[s_.candidates[edge++].id];
    const Candidate worst = s_.candidates[edge];
    const int64_t found = scan_.collect(s_.ids, x_, s_.group_max, vocab_, worst.value);
    count = 0;
    for (int64_t i = 0; i < found; i++) {
      const Candidate candidate{x_[s_.ids[i]], s_.ids[i]};
      if (s_.weights[candidate.id] >= row_.min_p && !is_better(worst, candidate)) s_.candidates[count++] = candidate;
    }
    return count;
  }

  // ---- drawing, in ascending id

  int32_t draw_from_best(int64_t count) {
    std::sort(s_.candidates, s_.candidates + count, [](const Candidate &a, const Candidate &b) { return a.id < b.id; });
    return draw_from_ascending(count);
  }

  int32_t draw_from_ascending(int64_t count) {
    const double goal = uniform_of(philox(row_.seed_low, row_.seed_high, row_.draw_index)) * weigh(count);
    double sum = 0;
    int32_t chosen = first_best();
    for (int64_t i = 0; i < count && sum <= goal; i++) {
      sum += s_.weights[i];
      if (s_.weights[i] > 0) chosen = s_.candidates[i].id;
    }
    return chosen;
  }

  int32_t draw_from_all() {
    double goal = uniform_of(philox(row_.seed_low, row_.seed_high, row_.draw_index)) * scan_.exp_sums(s_.chunk_sums, x_, vocab_, best_, scale_);
    const int64_t chunks = (vocab_ + kChunk - 1) / kChunk;
    int64_t chunk = 0, last = 0;  // last: the last chunk with any weight, should rounding walk past the end
    for (; chunk < chunks; chunk++) {
      if (s_.chunk_sums[chunk] > 0) last = chunk;
      if (goal < s_.chunk_sums[chunk]) break;
      goal -= s_.chunk_sums[chunk];
    }
    if (chunk == chunks) chunk = last;
    int32_t chosen = first_best();
    double sum = 0;
    const int64_t first = chunk * kChunk, count = std::min(kChunk, vocab_ - first);
    scan_.exp_all(s_.weights, x_ + first, count, best_, scale_);
    for (int64_t i = 0; i < count && sum <= goal; i++) {
      sum += s_.weights[i];
      if (s_.weights[i] > 0) chosen = (int32_t)(first + i);
    }
    return chosen;
  }

  const SampleScan &scan_;
  const SampleArguments &a_;
  const Scratch &s_;
  const int64_t index_;
  const PdSampleRow row_;
  const int64_t vocab_;
  const float *const logits_;
  const float *x_;  // logits_, or the changed row
  float best_ = 0, scale_ = 1;
  double log_sum_ = NAN;
};

}  // namespace

namespace pd {

size_t sample_scratch_bytes(int64_t vocab) { return Scratch::bytes(vocab); }

void sample_row(const SampleScan &scan, const SampleArguments &arguments, void *scratch, int64_t index) {
  const Scratch pieces(scratch, arguments.vocab);
  RowSampler(scan, arguments, pieces, index).run();
}

}  // namespace pd
