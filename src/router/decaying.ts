/** Averages over the recent past, in O(1) per event: what a worker has been doing lately. Used by
 *  worker-load.ts. Times are Clock.nowMs(). A past shorter than the memory counts as it is, not as if there
 *  had been nothing before it: otherwise everything looks idle for the first few memories, and what learns
 *  from predictions learns that. */

/** The mean over time of a level that jumps now and then, weighted by e^(−age / memoryMs). 0 before the first
 *  one. */
export class DecayingLevel {
  readonly #memoryMs: number;
  /** Weighted sum of level · time, and of time. */
  #levelMs = 0;
  #weightMs = 0;
  #level = 0;
  #atMs: number | null = null;

  constructor(memoryMs: number) {
    this.#memoryMs = memoryMs;
  }

  set(level: number, nowMs: number): void {
    const left = this.#leftAt(nowMs);
    const newMs = this.#atMs === null ? 0 : this.#memoryMs * (1 - left);
    this.#levelMs = this.#levelMs * left + this.#level * newMs;
    this.#weightMs = this.#weightMs * left + newMs;
    this.#level = level;
    this.#atMs = nowMs;
  }

  mean(nowMs: number): number {
    const left = this.#leftAt(nowMs);
    const newMs = this.#memoryMs * (1 - left);
    const weightMs = this.#weightMs * left + newMs;
    return weightMs === 0 ? this.#level : (this.#levelMs * left + this.#level * newMs) / weightMs;
  }

  #leftAt(nowMs: number): number {
    return this.#atMs === null ? 1 : Math.exp(-Math.max(0, nowMs - this.#atMs) / this.#memoryMs);
  }
}

/** A past shorter than this share of the memory says nothing of a rate. */
const pastShareMin = 0.1;

/** Amount per millisecond of what comes in single pieces, weighted by e^(−age / memoryMs). */
export class DecayingRate {
  readonly #memoryMs: number;
  #amount = 0;
  #sinceMs: number | null = null;
  #atMs = 0;

  constructor(memoryMs: number) {
    this.#memoryMs = memoryMs;
  }

  add(amount: number, nowMs: number): void {
    this.#sinceMs ??= nowMs;
    this.#amount = this.#left(nowMs) + amount;
    this.#atMs = nowMs;
  }

  perMs(nowMs: number): number {
    if (this.#sinceMs === null) return 0;
    const pastShare = 1 - Math.exp(-Math.max(0, nowMs - this.#sinceMs) / this.#memoryMs);
    return this.#left(nowMs) / (this.#memoryMs * Math.max(pastShareMin, pastShare));
  }

  #left(nowMs: number): number {
    return this.#amount * Math.exp(-Math.max(0, nowMs - this.#atMs) / this.#memoryMs);
  }
}
