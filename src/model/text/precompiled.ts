/** SentencePiece's compiled normalisation rules: a double-array trie from byte sequences to their
 *  replacements. Used by normalizers.ts.
 *
 *    blob = u32 size of the trie | units of the trie, u32 each | replacements, each ended by a zero byte
 *
 *  The invariant: an index that a file makes up finds "no rule", never out of the arrays. */
import type { ConfigFields } from '../config-fields.js';

/** Rust looks a whole grapheme up only when it is shorter than this, in bytes. */
const graphemeBytesMax = 5;

/** @throws ModelError */
export function readPrecompiled(fields: ConfigFields): (text: string) => string {
  const blob = Buffer.from(fields.text('precompiled_charsmap') ?? '', 'base64');
  if (blob.length === 0) return (text) => text;
  const trieBytes = blob.length < 4 ? Number.NaN : blob.readUInt32LE(0);
  if (!(trieBytes % 4 === 0 && trieBytes + 4 <= blob.length))
    fields.fail('precompiled_charsmap', 'a trie and its replacements');
  const units = Uint32Array.from({ length: trieBytes / 4 }, (_, i) => blob.readUInt32LE(4 + 4 * i));
  const replacements = blob.subarray(4 + trieBytes);
  const graphemes = new Intl.Segmenter('und', { granularity: 'grapheme' });
  const lookUp = (chunk: string): string | null => {
    const index = shortestMatch(units, Buffer.from(chunk));
    return index === null ? null : textAt(replacements, index);
  };
  const normalizeGrapheme = (grapheme: string): string => {
    const whole = Buffer.byteLength(grapheme) <= graphemeBytesMax ? lookUp(grapheme) : null;
    if (whole !== null) return whole;
    let text = '';
    for (const character of grapheme) text += lookUp(character) ?? character;
    return text;
  };
  return (text) => {
    let normalized = '';
    for (const { segment } of graphemes.segment(text)) normalized += normalizeGrapheme(segment);
    return normalized;
  };
}

/** The value of the first prefix of `key` that the trie holds, as the Rust library takes it. */
function shortestMatch(units: Uint32Array, key: Uint8Array): number | null {
  let position = offsetOf(units[0] ?? 0);
  for (const byte of key) {
    if (byte === 0) return null;
    position ^= byte;
    const unit = units[position];
    if (unit === undefined || (unit & 0x800000ff) >>> 0 !== byte) return null;
    position ^= offsetOf(unit);
    if (((unit >>> 8) & 1) === 1) return (units[position] ?? 0) & 0x7fffffff;
  }
  return null;
}

function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & (1 << 9)) >>> 6);
}

function textAt(replacements: Buffer, start: number): string {
  const end = replacements.indexOf(0, start);
  return replacements.toString('utf8', start, end < 0 ? replacements.length : end);
}
