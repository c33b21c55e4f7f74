/** Stop strings against a plain search, and the work that one costs at worst, counted. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { StopMatcher } from '../../src/model/stop-matcher.js';

it('finds what a search of the whole text finds, however it is cut', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 40 });
  const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 6 }), {
    maxLength: 4,
  });
  fc.assert(
    fc.property(letters, stops, fc.integer({ min: 1, max: 7 }), (text, stopStrings, pieceLength) => {
      const matcher = new StopMatcher(stopStrings);
      for (let start = 0; start < text.length; start += pieceLength) {
        const piece = text.slice(start, start + pieceLength);
        const seen = text.slice(0, start + piece.length);
        const ends = Array.from(piece, (_, index) => start + index + 1);
        const completed = (end: number) =>
          stopStrings
            .filter((stop) => text.slice(0, end).endsWith(stop))
            .sort((a, b) => b.length - a.length)[0];
        const end = ends.find((at) => completed(at) !== undefined);
        const found = matcher.push(piece);
        expect(found).toEqual(end === undefined ? null : { stopString: completed(end), end: end - start });
        const starts = stopStrings.flatMap((stop) => Array.from(stop, (_, index) => stop.slice(0, index)));
        const possible = starts.filter((head) => seen.endsWith(head)).map((head) => head.length);
        expect(matcher.possibleLength).toBe(Math.max(0, ...possible));
      }
    }),
  );
});

it('costs a few looks a unit, even where a long match fails at its end', () => {
  let lookCount = 0;
  const length = 20_000;
  const stop = {
    length: length + 1,
    charCodeAt: (at: number) => {
      lookCount++;
      return at < length ? 97 : 98;
    },
  };
  const matcher = new StopMatcher([stop as unknown as string]);
  const text = `${'a'.repeat(length)}c`.repeat(3);
  expect(matcher.push(text)).toBeNull();
  expect(lookCount).toBeLessThan(12 * text.length);
});
