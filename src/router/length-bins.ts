/** The grid that output lengths are counted on: every length up to 32 tokens by itself, then 8 bins an
 *  octave, so that a bin is never wider than a tenth of its length. Used by length-counts.ts (what was seen)
 *  and length-distribution.ts (what is expected).
 *  Invariant: bins are contiguous, in order, and every length from 0 upwards lies in exactly one. */

/** Lengths below this have a bin each: short answers (a class label, a tool name) are exact values, not
 *  magnitudes. */
const exactCount = 32;
const binsPerOctave = 8;
/** The longest context in use today is 2^20, the longest output 2^17; anything longer counts as the last
 *  bin. */
const octaveCount = 12;

export const binCount = exactCount + octaveCount * binsPerOctave;

/** First length of each bin, and after the last bin its end: [binCount + 1], in tokens. */
const binStarts: Float64Array = Float64Array.from({ length: binCount + 1 }, (_, index) =>
  index < exactCount ? index : Math.round(exactCount * 2 ** ((index - exactCount) / binsPerOctave)),
);

export const longestTokenCount = (binStarts[binCount] ?? 0) - 1;

/** The bin of a length in tokens; lengths outside the grid go to its ends. */
export function binOf(tokenCount: number): number {
  if (!(tokenCount >= 1)) return 0;
  if (tokenCount < exactCount) return Math.floor(tokenCount);
  let bin = Math.min(
    binCount - 1,
    exactCount + Math.floor(binsPerOctave * Math.log2(tokenCount / exactCount)),
  );
  // Starts are rounded to whole tokens, so the logarithm may point to a neighbour.
  while (bin < binCount - 1 && tokenCount >= (binStarts[bin + 1] ?? 0)) bin++;
  while (tokenCount < (binStarts[bin] ?? 0)) bin--;
  return bin;
}

export function binStart(bin: number): number {
  return binStarts[bin] ?? longestTokenCount;
}

/** Whole lengths in a bin. */
export function binWidth(bin: number): number {
  return (binStarts[bin + 1] ?? 0) - (binStarts[bin] ?? 0);
}

/** Share of a bin that lies at or below `tokenCount`, which is in it: the lengths of a bin are taken as
 *  equally likely. */
export function shareUpTo(bin: number, tokenCount: number): number {
  return Math.min(1, (Math.floor(tokenCount) - binStart(bin) + 1) / binWidth(bin));
}
