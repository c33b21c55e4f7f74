/** Texts against a grammar, byte by byte, and texts drawn from one. For the grammar tests and the schema
 *  study. */
import type { Prng } from '../../src/base/prng.js';
import { GrammarMasks } from '../../src/grammar/grammar-masks.js';
import { packShape, type Shape } from '../../src/grammar/shapes.js';
import { Vocabulary } from '../../src/grammar/vocabulary.js';

/** Every byte is a token; 256 ends the text. */
export const endId = 256;
export const byteVocabulary = new Vocabulary({
  vocabCount: 257,
  bytes: (id) => (id < 256 ? Uint8Array.of(id) : new Uint8Array()),
  isSpecial: () => false,
});

export function masksOf(shape: Shape): GrammarMasks {
  return new GrammarMasks(packShape(shape, 'shape'), byteVocabulary);
}

const isAllowed = (words: Uint32Array, id: number) => ((words[id >>> 5] ?? 0) & (1 << (id & 31))) !== 0;

export function accepts(masks: GrammarMasks, text: string): boolean {
  const words = new Uint32Array(byteVocabulary.wordCount);
  const limits = { leftCount: 1e9, endTokenIds: [endId] };
  const open = masks.open([]);
  for (const byte of Buffer.from(text)) {
    open.fill(limits, words);
    if (!isAllowed(words, byte)) return false;
    open.accept(byte);
  }
  open.fill(limits, words);
  return isAllowed(words, endId);
}

/** A text of at most `byteCountMax` bytes. Ends as soon as it may with the given chance. */
export function drawText(
  masks: GrammarMasks,
  prng: Prng,
  byteCountMax: number,
  endChance = 0.5,
): string | null {
  const words = new Uint32Array(byteVocabulary.wordCount);
  const open = masks.open([]);
  const bytes: number[] = [];
  for (let leftCount = byteCountMax + 1; leftCount > 0; leftCount--) {
    open.fill({ leftCount, endTokenIds: [endId] }, words);
    const allowed = Array.from({ length: 256 }, (_, id) => id).filter((id) => isAllowed(words, id));
    if (isAllowed(words, endId) && (allowed.length === 0 || prng.uniform() < endChance))
      return Buffer.from(bytes).toString();
    if (allowed.length === 0) return null;
    const id = allowed[Math.floor(prng.uniform() * allowed.length)] ?? 0;
    bytes.push(id);
    open.accept(id);
  }
  return null;
}
