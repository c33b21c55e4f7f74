/** Strings of a schema: lengths, patterns and formats, as JSON spells them. Used by json-schema.ts. */
import {
  type CharRange,
  chars,
  choice,
  complement,
  type GrammarNode,
  repeat,
  rule,
  sequence,
  text,
} from './grammar.js';
import { plainRanges } from './json-text.js';
import { regexNode } from './regex.js';

const escapes: readonly (readonly [number, string])[] = [
  [0x08, '\\b'],
  [0x09, '\\t'],
  [0x0a, '\\n'],
  [0x0c, '\\f'],
  [0x0d, '\\r'],
  [0x22, '\\"'],
  [0x5c, '\\\\'],
];

/** Characters as they stand in a JSON string: each in one way. */
function spelt(ranges: readonly CharRange[]): GrammarNode {
  const has = (codePoint: number) => ranges.some(([first, last]) => first <= codePoint && codePoint <= last);
  const plain = intersection(ranges, plainRanges);
  const escaped: GrammarNode[] = [];
  for (let codePoint = 0; codePoint < 0x20; codePoint++) {
    if (has(codePoint) && !escapes.some(([known]) => known === codePoint))
      escaped.push(text(`\\u${codePoint.toString(16).padStart(4, '0')}`));
  }
  for (const [codePoint, spelling] of escapes) if (has(codePoint)) escaped.push(text(spelling));
  return plain.length > 0 && escaped.length === 0
    ? chars(...plain)
    : choice(...(plain.length > 0 ? [chars(...plain)] : []), ...escaped);
}

function intersection(a: readonly CharRange[], b: readonly CharRange[]): CharRange[] {
  return complement([...complement(a), ...complement(b)]);
}

const quoted = (inside: GrammarNode): GrammarNode => sequence(text('"'), inside, text('"'));

export function stringOfLength(min: number, max: number | null): GrammarNode {
  return min === 0 && max === null ? rule('string') : quoted(repeat(rule('char'), min, max));
}

export function stringOfPattern(pattern: string, param: string): GrammarNode {
  return quoted(regexNode(pattern, { spell: spelt, match: 'pattern', param }));
}

const octet = '(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])';
const ipv4 = `${octet}(?:\\.${octet}){3}`;
const group = '[0-9a-fA-F]{1,4}';
/** At most one run of zeros left out, with at least one group before and after it. */
const ipv6 = [
  `(?:${group}:){7}${group}`,
  ...[1, 2, 3, 4, 5, 6].map((count) => `(?:${group}:){${count}}(?::${group}){1,${7 - count}}`),
  `(?:${group}:){1,7}:`,
  `:(?::${group}){1,7}`,
  '::',
];
const label = '[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?';
const day28 = '(?:0[1-9]|1[0-9]|2[0-8])';
const date = `[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-${day28})`;
const clock =
  '(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])';

/** Narrower than what the formats allow where that makes them simple: 29 February, leap seconds and quoted
 *  mailboxes are left out. */
const formats: Readonly<Record<string, string>> = {
  date,
  time: clock,
  'date-time': `${date}T${clock}`,
  duration:
    'P(?:[0-9]{1,4}W|(?:[0-9]{1,4}Y)?(?:[0-9]{1,3}M)?[0-9]{1,4}D|T(?:[0-9]{1,4}H)?(?:[0-9]{1,4}M)?[0-9]{1,5}S)',
  uuid: '[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}',
  email: `[a-zA-Z0-9_+-]{1,32}(?:\\.[a-zA-Z0-9_+-]{1,16}){0,2}@${label}(?:\\.${label}){1,3}`,
  hostname: `${label}(?:\\.${label}){0,3}`,
  ipv4,
  ipv6: ipv6.join('|'),
  uri: "[a-z][a-z0-9+.-]{1,15}://[a-zA-Z0-9.-]{1,63}(?::[0-9]{1,5})?(?:/[a-zA-Z0-9._~!$&'()*+,;=:@-]{0,64}){0,8}",
};

export function stringOfFormat(format: string, param: string): GrammarNode | null {
  const pattern = Object.hasOwn(formats, format) ? formats[format] : undefined;
  return pattern === undefined ? null : quoted(regexNode(pattern, { spell: spelt, match: 'whole', param }));
}
