/** Prompts of a wanted length as token ids, from seeds. Used by workload.ts.
 *  Invariant: same seed and key, same ids, whatever else was made before; different keys share no prefix
 *  worth a cache hit. */
import { Prng } from '../base/prng.js';
import { traceBlockTokenCount } from './trace.js';

/** Ids that exist in any vocabulary and are not the usual special ones; for servers that cannot be asked. */
export const fallbackTokenIds: readonly number[] = Array.from({ length: 248 }, (_, i) => i + 3);

/** A text whose tokens make up random prompts when the server can tokenise: ordinary words rather than rare
 *  pieces. */
export const sampleText =
  'The harbour was quiet before sunrise, and only a few boats moved out with the tide. Each morning the same captain counted his nets, ' +
  'checked the engine twice, and wrote the weather into a small red book. "Numbers first, stories later," he used to say. In 1987 the book ' +
  'was lost; nobody knows how. Since then people ask every visitor: have you seen it, do you know who keeps it, would you tell us? A good ' +
  'question takes five words, a good answer takes years. Science began with lists like his: dates, winds, prices, names, and mistakes.';

export function randomIds(pool: readonly number[], seed: number, key: number, tokenCount: number): number[] {
  const prng = new Prng(mix(seed, key));
  const ids = new Array<number>(tokenCount);
  for (let i = 0; i < tokenCount; i++) ids[i] = prng.pick(pool);
  return ids;
}

/** Prompts of entries with equal leading block ids begin with equal tokens, in blocks of 512 ×
 *  lengthScale. */
export function sharedIds(
  pool: readonly number[],
  seed: number,
  blockIds: readonly number[],
  tokenCount: number,
  lengthScale: number,
): number[] {
  const blockTokenCount = Math.max(1, Math.round(traceBlockTokenCount * lengthScale));
  const ids: number[] = [];
  for (const blockId of blockIds) {
    const leftCount = tokenCount - ids.length;
    if (leftCount > 0) ids.push(...randomIds(pool, seed, blockId, Math.min(blockTokenCount, leftCount)));
  }
  const missingCount = tokenCount - ids.length; // rounding of the scaled lengths
  return missingCount === 0 ? ids : ids.concat(randomIds(pool, seed + 1, blockIds.at(-1) ?? 0, missingCount));
}

/** Below 2^53 and different for every pair in practice. */
export function mix(seed: number, key: number): number {
  return (
    (Math.imul(seed ^ 0x2c1b3c6d, 0x297a2d39) >>> 0) * 2_097_152 +
    ((Math.imul(key + 1, 0x9e3779b1) >>> 0) % 2_097_152) +
    key * 7
  );
}
