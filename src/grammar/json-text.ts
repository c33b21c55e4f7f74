/** The pieces of a JSON text as grammar: strings, numbers, any value. Used by json-schema.ts.
 *  White space is what models write themselves and no more than that, or some would never end. */
import {
  type CharRange,
  chars,
  choice,
  complement,
  type GrammarNode,
  optional,
  repeat,
  rule,
  sequence,
  text,
} from './grammar.js';

/** What stands for itself inside a JSON string. */
export const plainRanges: readonly CharRange[] = complement([
  [0, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
]);

const hex = chars([0x30, 0x39], [0x41, 0x46], [0x61, 0x66]);
const hexRanges = (digits: string): GrammarNode =>
  chars(...[...digits].map((digit): CharRange => [digit.charCodeAt(0), digit.charCodeAt(0)]));

/** One escape is one character: halves of surrogate pairs only come together. */
const escaped = sequence(
  text('\\'),
  choice(
    hexRanges('"\\/bfnrt'),
    sequence(text('u'), hexRanges('0123456789abcefABCEF'), hex, hex, hex),
    sequence(text('u'), hexRanges('dD'), hexRanges('01234567'), hex, hex),
    sequence(
      ...[text('u'), hexRanges('dD'), hexRanges('89abAB'), hex, hex],
      ...[text('\\u'), hexRanges('dD'), hexRanges('cdefCDEF'), hex, hex],
    ),
  ),
);

export const digit = chars([0x30, 0x39]);
export const digit1 = chars([0x31, 0x39]);
export const wholeNumber = choice(text('0'), sequence(digit1, repeat(digit, 0, null)));
/** No more digits than a double tells apart, give or take: a longer one says nothing, and might never end. */
const fraction = sequence(text('.'), repeat(digit, 1, 17));
const exponent = sequence(
  chars([0x45, 0x45], [0x65, 0x65]),
  optional(chars([0x2b, 0x2b], [0x2d, 0x2d])),
  repeat(digit, 1, 2),
);

/** Rules that a grammar of JSON texts refers to; `ws` and `sp` make up white space. */
export const jsonRules: Readonly<Record<string, GrammarNode>> = {
  char: choice(chars(...plainRanges), escaped),
  string: sequence(text('"'), repeat(rule('char'), 0, null), text('"')),
  integer: sequence(optional(text('-')), choice(text('0'), sequence(digit1, repeat(digit, 0, 15)))),
  number: sequence(
    optional(text('-')),
    choice(text('0'), sequence(digit1, repeat(digit, 0, 15))),
    optional(fraction),
    optional(exponent),
  ),
  value: choice(
    rule('object'),
    rule('array'),
    rule('string'),
    rule('number'),
    text('true'),
    text('false'),
    text('null'),
  ),
  object: braces('{', sequence(rule('string'), rule('colon'), rule('value')), '}'),
  array: braces('[', rule('value'), ']'),
  colon: sequence(text(':'), optional(text(' '))),
  comma: sequence(text(','), rule('ws')),
  ws: optional(choice(text(' '), sequence(text('\n'), repeat(text(' '), 0, 24)))),
};

/** The same without any white space. */
export const compactRules: Readonly<Record<string, GrammarNode>> = {
  ...jsonRules,
  colon: text(':'),
  comma: text(','),
  ws: text(''),
};

function braces(open: string, item: GrammarNode, close: string): GrammarNode {
  const items = sequence(item, repeat(sequence(rule('comma'), item), 0, null));
  return sequence(text(open), rule('ws'), optional(sequence(items, rule('ws'))), text(close));
}

/** A JSON value, as JSON.stringify writes it, white space aside. */
export function literalOf(value: unknown): GrammarNode {
  if (Array.isArray(value)) return listOf('[', value.map(literalOf), ']');
  if (typeof value !== 'object' || value === null) return text(JSON.stringify(value) ?? 'null');
  const members = Object.entries(value).map(([key, item]) =>
    sequence(text(JSON.stringify(key)), rule('colon'), literalOf(item)),
  );
  return listOf('{', members, '}');
}

export function listOf(open: string, items: readonly GrammarNode[], close: string): GrammarNode {
  if (items.length === 0) return sequence(text(open), rule('ws'), text(close));
  const joined = items.flatMap((item, index) => (index === 0 ? [item] : [rule('comma'), item]));
  return sequence(text(open), rule('ws'), ...joined, rule('ws'), text(close));
}
