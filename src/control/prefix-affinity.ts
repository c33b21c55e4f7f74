/** Which worker saw a prompt's beginning last: a hint for the router, so that conversations return to the
 *  worker that holds their prefix. Used by routing.ts. A hint only: a wrong one costs a recompute, never
 *  a wrong token. Bounded: the oldest entries go first. */
import type { TokenId, WorkerId } from '../base/ids.js';

const strideTokenCount = 64;
const strideCountMax = 64;
const entryCountMax = 20_000;

export class PrefixAffinity {
  /** Hash of a prompt's first n strides → workers that computed them, latest last. Map keeps insertion order:
   *  the first is the oldest. */
  readonly #workers = new Map<string, Set<WorkerId>>();

  /** Tokens of the prompt that each worker has probably kept. */
  lookup(keys: readonly StrideKey[]): Map<WorkerId, number> {
    const counts = new Map<WorkerId, number>();
    for (const [index, key] of keys.entries()) {
      const workers = this.#workers.get(key);
      if (workers === undefined) break;
      for (const worker of workers) counts.set(worker, (index + 1) * strideTokenCount);
    }
    return counts;
  }

  record(keys: readonly StrideKey[], worker: WorkerId): void {
    for (const key of keys) {
      const workers = this.#workers.get(key) ?? new Set();
      this.#workers.delete(key);
      this.#workers.set(key, workers.add(worker));
    }
    for (const key of this.#workers.keys()) {
      if (this.#workers.size <= entryCountMax) break;
      this.#workers.delete(key);
    }
  }

  /** Its cache is gone. */
  forget(worker: WorkerId): void {
    for (const [key, workers] of this.#workers) {
      workers.delete(worker);
      if (workers.size === 0) this.#workers.delete(key);
    }
  }
}

/** Names a prompt's beginning. */
export type StrideKey = string;

/** Chained hashes at every stride: two 32-bit FNV-1a lanes. */
export function strideKeys(promptIds: readonly TokenId[], salt = ''): readonly StrideKey[] {
  let low = 0x811c9dc5;
  let high = 0x9dc5811c;
  for (let i = 0; i < salt.length; i++) low = Math.imul(low ^ salt.charCodeAt(i), 0x01000193);
  const keys: StrideKey[] = [];
  const end = Math.min(promptIds.length, strideTokenCount * strideCountMax);
  for (let i = 0; i < end; i++) {
    low = Math.imul(low ^ (promptIds[i] ?? 0), 0x01000193);
    high = Math.imul(high ^ low ^ (low >>> 15), 0x01000193);
    if ((i + 1) % strideTokenCount === 0) keys.push(`${low}.${high}`);
  }
  return keys;
}
