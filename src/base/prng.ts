/** The only source of randomness. Same seed, same numbers, on every platform. */
import { randomBytes } from 'node:crypto';

/** splitmix64's finaliser on 32-bit halves is slow in JS; this is sfc32 (PractRand-clean, 128-bit state). */
export class Prng {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number) {
    this.#a = 0x9e3779b9 ^ Math.trunc(seed / 0x1_0000_0000);
    this.#b = seed | 0;
    this.#c = 0x243f6a88;
    for (let i = 0; i < 12; i++) this.uint32();
  }

  uint32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    this.#c |= 0;
    return sum >>> 0;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return this.uint32() / 4294967296;
  }

  /** Uniform integer in [low, high], both included. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low + 1));
  }

  /** Standard normal (Box-Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** Exponential with the given mean: the gaps of a Poisson process. */
  exponential(mean: number): number {
    return -mean * Math.log(1 - this.uniform());
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.integer(0, items.length - 1)];
    if (item === undefined) throw new RangeError('pick from an empty list');
    return item;
  }
}

/** A seed for a request that gave none. */
export function freshSeed(): number {
  return randomBytes(6).readUIntBE(0, 6);
}

/** 256 bits that nobody guesses: the key of a keyed hash. */
export function freshSecret(): Buffer {
  return randomBytes(32);
}

/** An id no one else has: `prefix-` and 24 hex digits. */
export function freshId(prefix: string): string {
  return `${prefix}-${randomBytes(12).toString('hex')}`;
}

/** Used once, in a handshake; nobody can foresee it. */
export function freshNonce(): Buffer {
  return randomBytes(32);
}
