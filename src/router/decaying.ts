/** Averages over the recent past, in O(1) per event: what a worker has been doing lately. Used by worker-load.ts. Times are Clock.nowMs(). */

/** The mean over time of a level that jumps now and then, weighted by e^(−age / memoryMs). */
export class DecayingLevel {
  readonly #memoryMs: number;
  #mean = 0;
  #level = 0;
  #atMs: number | null = null;

  constructor(memoryMs: number) {
    this.#memoryMs = memoryMs;
  }

  set(level: number, nowMs: number): void {
    this.#mean = this.mean(nowMs);
    this.#level = level;
    this.#atMs = nowMs;
  }

  mean(nowMs: number): number {
    if (this.#atMs === null) return 0;
    const left = Math.exp(-Math.max(0, nowMs - this.#atMs) / this.#memoryMs);
    return this.#level + (this.#mean - this.#level) * left;
  }
}

/** Amount per millisecond of what comes in single pieces, weighted by e^(−age / memoryMs). */
export class DecayingRate {
  readonly #memoryMs: number;
  #amount = 0;
  #atMs = 0;

  constructor(memoryMs: number) {
    this.#memoryMs = memoryMs;
  }

  add(amount: number, nowMs: number): void {
    this.#amount = this.#left(nowMs) + amount;
    this.#atMs = nowMs;
  }

  perMs(nowMs: number): number {
    return this.#left(nowMs) / this.#memoryMs;
  }

  #left(nowMs: number): number {
    return this.#amount * Math.exp(-Math.max(0, nowMs - this.#atMs) / this.#memoryMs);
  }
}
