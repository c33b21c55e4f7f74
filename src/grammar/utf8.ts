/** Ranges of code points as sequences of byte ranges: how an automaton over bytes reads characters. Used
 *  by automaton.ts; pure. Surrogates are no characters and are left out. */
import type { CharRange } from './grammar.js';

/** One byte range for each byte of the character. */
type ByteSequence = readonly CharRange[];

const edges: readonly CharRange[] = [
  [0, 0x7f],
  [0x80, 0x7ff],
  [0x800, 0xd7ff],
  [0xe000, 0xffff],
  [0x10000, 0x10ffff],
];

export function byteSequences(ranges: readonly CharRange[]): ByteSequence[] {
  const found: ByteSequence[] = [];
  for (const [first, last] of ranges) {
    for (const [low, high] of edges) {
      if (first <= high && last >= low)
        split(bytesOf(Math.max(first, low)), bytesOf(Math.min(last, high)), [], found);
    }
  }
  return found;
}

/** Both of one length. A range whose first bytes differ is cut where its later bytes are not all there is. */
function split(
  first: readonly number[],
  last: readonly number[],
  prefix: ByteSequence,
  found: ByteSequence[],
): void {
  const [a, ...restA] = first;
  const [b, ...restB] = last;
  if (a === undefined || b === undefined) {
    found.push(prefix);
    return;
  }
  if (restA.length === 0) {
    found.push([...prefix, [a, b]]);
    return;
  }
  if (a === b) {
    split(restA, restB, [...prefix, [a, a]], found);
    return;
  }
  const isWholeA = restA.every((byte) => byte === 0x80);
  const isWholeB = restB.every((byte) => byte === 0xbf);
  const all = restA.map((): CharRange => [0x80, 0xbf]);
  if (!isWholeA)
    split(
      restA,
      restA.map(() => 0xbf),
      [...prefix, [a, a]],
      found,
    );
  const low = isWholeA ? a : a + 1;
  const high = isWholeB ? b : b - 1;
  if (low <= high) found.push([...prefix, [low, high], ...all]);
  if (!isWholeB)
    split(
      restB.map(() => 0x80),
      restB,
      [...prefix, [b, b]],
      found,
    );
}

function bytesOf(codePoint: number): number[] {
  return [...Buffer.from(String.fromCodePoint(codePoint))];
}
