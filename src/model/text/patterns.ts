/** How the Rust tokenizers library cuts a text: a pattern finds matches, a behaviour says what becomes of
 *  them. Used by the pre-tokenizers. Character classes are Rust's, not JavaScript's: `\d`, `\s`, `\w`, `trim`
 *  and `toLowerCase` mean other characters there. */
import type { ConfigFields } from '../config-fields.js';
import { LibrarySplit } from './library.js';

/** A part of a text; parts cover it from start to end without overlap. */
export interface Part {
  readonly start: number;
  readonly end: number;
  readonly isMatch: boolean;
}

/** The longest known has 600 characters. */
const regexLengthMax = 2 ** 13;

export type Behaviour = 'Removed' | 'Isolated' | 'MergedWithPrevious' | 'MergedWithNext' | 'Contiguous';
const behaviours: readonly Behaviour[] = [
  'Removed',
  'Isolated',
  'MergedWithPrevious',
  'MergedWithNext',
  'Contiguous',
];

/** char::is_numeric */
export const numeric = /\p{N}/gu;
/** char::is_whitespace */
export const whitespace = /\p{White_Space}/gu;
/** char::is_ascii_punctuation or any of the categories P* */
export const punctuation = /[\p{P}!-/:-@[-`{-~]/gu;
/** `\w` of the regex crate, for use inside a class. */
export const wordClass = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}';

/** Every match and what lies between. `pattern` has the flag g. */
export function findParts(text: string, pattern: RegExp): readonly Part[] {
  const parts: Part[] = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > end) parts.push({ start: end, end: match.index, isMatch: false });
    end = match.index + match[0].length;
    parts.push({ start: match.index, end, isMatch: true });
  }
  if (end < text.length) parts.push({ start: end, end: text.length, isMatch: false });
  return parts;
}

export function inverted(parts: readonly Part[]): readonly Part[] {
  return parts.map((part) => ({ ...part, isMatch: !part.isMatch }));
}

/** The pieces that stay, none of them empty. */
export function cut(parts: readonly Part[], behaviour: Behaviour): readonly Part[] {
  return cutAll(parts, behaviour).filter(({ start, end }) => end > start);
}

function cutAll(parts: readonly Part[], behaviour: Behaviour): readonly Part[] {
  switch (behaviour) {
    case 'Isolated':
      return parts;
    case 'Removed':
      return parts.filter(({ isMatch }) => !isMatch);
    case 'Contiguous':
      return merged(parts, (part, previousIsMatch) => part.isMatch === previousIsMatch);
    case 'MergedWithPrevious':
      return merged(parts, (part, previousIsMatch) => part.isMatch && !previousIsMatch);
    case 'MergedWithNext':
      return merged(
        [...parts].reverse(),
        (part, previousIsMatch) => part.isMatch && !previousIsMatch,
      ).reverse();
  }
}

/** Each part joined with the one before it, if there is one and `joins` says so. */
function merged(parts: readonly Part[], joins: (part: Part, previousIsMatch: boolean) => boolean): Part[] {
  const pieces: Part[] = [];
  let previousIsMatch = false;
  for (const part of parts) {
    const last = pieces.at(-1);
    if (last === undefined || !joins(part, previousIsMatch)) pieces.push(part);
    else
      pieces[pieces.length - 1] = {
        ...part,
        start: Math.min(last.start, part.start),
        end: Math.max(last.end, part.end),
      };
    previousIsMatch = part.isMatch;
  }
  return pieces;
}

export function readBehaviour(fields: ConfigFields, fallback?: Behaviour): Behaviour {
  const name = fields.text('behavior');
  const found = behaviours.find((each) => each === name) ?? (name === null ? fallback : undefined);
  return found ?? fields.fail('behavior', `one of ${behaviours.join(', ')}`);
}

/** `pattern`: { String } or { Regex }. The library rewrites Oniguruma's syntax and classes to
 *  JavaScript's. */
export function readPattern(fields: ConfigFields): RegExp {
  const pattern = fields.object('pattern') ?? fields.fail('pattern', 'an object with "String" or "Regex"');
  const literal = pattern.text('String');
  if (literal !== null) return new RegExp(literal.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), 'gu');
  const regex = pattern.text('Regex') ?? fields.fail('pattern', 'an object with "String" or "Regex"');
  if (regex.length > regexLengthMax)
    fields.fail('pattern', `a regular expression of at most ${regexLengthMax} characters`);
  const compiled =
    new LibrarySplit({ pattern: { Regex: regex }, invert: false }).pattern ??
    fields.fail('pattern', 'a regular expression');
  compiled.test(''); // what is too large for the engine fails at its first use: here
  compiled.lastIndex = 0;
  return compiled;
}
