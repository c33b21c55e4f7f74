/* What the length predictor is compared with. Used by ../score-lengths.mjs. Each has `predict(facts)` →
 *  {point, quantile(fraction),
   cumulative(n)} with cumulative(n) = P(length ≤ n), and `observe(facts, {tokenCount, isCensored})`. None
   knows censoring: a cut length
   counts as a length, as it does in a server that keeps a mean. */

const startTokenCount = 1024;

/** Predicts one number: all its quantiles are that number, and its 80 % interval is that point. */
const point = (tokenCount) => ({
  point: tokenCount,
  quantile: () => tokenCount,
  cumulative: (n) => (n >= Math.round(tokenCount) ? 1 : 0),
});

export class Constant {
  predict() {
    return point(startTokenCount);
  }
  observe() {}
}

class RunningMean {
  #total = 0;
  #count = 0;
  get isEmpty() {
    return this.#count === 0;
  }
  get value() {
    return this.#total / this.#count;
  }
  add(tokenCount) {
    this.#total += tokenCount;
    this.#count++;
  }
}

export class GlobalMean {
  #mean = new RunningMean();
  predict() {
    return point(this.#mean.isEmpty ? startTokenCount : this.#mean.value);
  }
  observe(_facts, { tokenCount }) {
    this.#mean.add(tokenCount);
  }
}

/** nanoPD's classes of prompt length by their longest prompt, its windows and defaults
 *  (router/output_lenth_predictor.py, read 2026). */
const nanoPd = {
  longestPrompts: [64, 128, 256, 512, 1024, 2048],
  windowCount: 50,
  countMin: 5,
  startTokenCount: 256,
};

/** The last few lengths and their sum. */
class MeanWindow {
  #lengths = [];
  #total = 0;
  #capacity;
  constructor(capacity) {
    this.#capacity = capacity;
  }
  get count() {
    return this.#lengths.length;
  }
  get mean() {
    return this.#total / this.#lengths.length;
  }
  add(tokenCount) {
    this.#total += tokenCount;
    this.#lengths.push(tokenCount);
    if (this.#lengths.length > this.#capacity) this.#total -= this.#lengths.shift();
  }
}

/** nanoPD's predictor: the mean of the last 50 lengths in a class of prompt length, of the last 300 of all
 *  while a class has under 5. */
export class BucketMean {
  #all = new MeanWindow(nanoPd.windowCount * nanoPd.longestPrompts.length);
  #buckets = nanoPd.longestPrompts.map(() => new MeanWindow(nanoPd.windowCount));
  predict(facts) {
    const bucket = this.#bucketOf(facts);
    const mean = bucket.count >= nanoPd.countMin ? bucket : this.#all;
    return point(mean.count === 0 ? nanoPd.startTokenCount : Math.max(1, Math.round(mean.mean)));
  }
  observe(facts, { tokenCount }) {
    this.#bucketOf(facts).add(tokenCount);
    this.#all.add(tokenCount);
  }
  #bucketOf({ promptTokenCount }) {
    const index = nanoPd.longestPrompts.findIndex((longest) => promptTokenCount <= longest);
    return this.#buckets.at(index);
  }
}

/** Classes of prompt length, one an octave. */
const bucketOf = ({ promptTokenCount }) => Math.floor(Math.log2(1 + promptTokenCount));

const windowCount = 1000;
/** With fewer lengths in its class a request takes the window over all: below ten, p90 is the maximum. */
const windowCountMin = 10;

/** The last lengths, in order of arrival and sorted. */
class Window {
  #ring = [];
  #next = 0;
  sorted = [];
  add(tokenCount) {
    if (this.#ring.length === windowCount) {
      this.sorted.splice(lowerBound(this.sorted, this.#ring[this.#next]), 1);
    }
    this.#ring[this.#next] = tokenCount;
    this.#next = (this.#next + 1) % windowCount;
    this.sorted.splice(lowerBound(this.sorted, tokenCount), 0, tokenCount);
  }
}

/** Index of the first item that is not below `value`. */
function lowerBound(sorted, value) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Empirical quantiles of the last 1,000 lengths in a class of prompt length. */
export class RollingQuantiles {
  #all = new Window();
  #buckets = new Map();
  predict(facts) {
    const bucket = this.#buckets.get(bucketOf(facts));
    const { sorted } = bucket !== undefined && bucket.sorted.length >= windowCountMin ? bucket : this.#all;
    if (sorted.length === 0) return point(startTokenCount);
    const quantile = (fraction) => sorted[Math.max(0, Math.ceil(fraction * sorted.length) - 1)];
    return { point: quantile(0.5), quantile, cumulative: (n) => lowerBound(sorted, n + 1) / sorted.length };
  }
  observe(facts, { tokenCount }) {
    const bucket = bucketOf(facts);
    if (!this.#buckets.has(bucket)) this.#buckets.set(bucket, new Window());
    this.#buckets.get(bucket).add(tokenCount);
    this.#all.add(tokenCount);
  }
}
