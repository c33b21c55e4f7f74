/** The filters on text and numbers. Collected by filters.ts. */
import { bind, text, wholeNumber } from './arguments.js';
import type { Filter } from './filter.js';
import { toJson } from './json-text.js';
import { percentFormat } from './percent-format.js';
import { capitalized, centered, lines, replaced, stripped } from './string-methods.js';
import { fixedText, repr, str } from './text.js';
import {
  Dict,
  fail,
  isNumeric,
  isTrue,
  iterate,
  joinedText,
  repeatedText,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.js';

/** A filter that turns the value's text into another. */
const onText =
  (change: (self: string) => string): Filter =>
  (value, given) => {
    bind('filter', given, []);
    return change(str(value));
  };

const escaped = (self: string) =>
  self.replace(
    /[&<>'"]/g,
    (character) =>
      ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', "'": '&#39;', '"': '&#34;' })[character] ?? character,
  );

/** jinja2's title: words begin after white space and ( { [ < -, not after an apostrophe. */
function titled(self: string): string {
  return self
    .split(/([-\s({[<]+)/)
    .map((part) =>
      part === ''
        ? ''
        : Array.from(part)[0]?.toUpperCase() + Array.from(part).slice(1).join('').toLowerCase(),
    )
    .join('');
}

const indent: Filter = (value, given) => {
  const [width, first = false, blank = false] = bind('indent', given, ['width', 'first', 'blank']);
  if (typeof value !== 'string') return fail(`can't indent ${typeName(value)}`);
  const prefix = typeof width === 'string' ? width : repeatedText(' ', Math.max(0, wholeNumber(width, 4)));
  const [head = '', ...rest] = value.split('\n');
  const indented = rest.map((line) => (isTrue(blank) || line !== '' ? prefix + line : line));
  const shown = joinedText([head, ...indented], '\n');
  return isTrue(first) ? prefix + shown : shown;
};

const truncate: Filter = (value, given) => {
  const [length, kill = false, end, leeway] = bind('truncate', given, [
    'length',
    'killwords',
    'end',
    'leeway',
  ]);
  const most = wholeNumber(length, 255);
  const tail = text(end, '...');
  const codes = iterate(value);
  if (codes.length <= most + wholeNumber(leeway, 5)) return value;
  if (typeof value !== 'string') return fail(`can't truncate ${typeName(value)}`);
  const cut = codes.slice(0, Math.max(0, most - Array.from(tail).length)).join('');
  if (isTrue(kill)) return cut + tail;
  const space = cut.lastIndexOf(' ');
  return (space < 0 ? cut : cut.slice(0, space)) + tail;
};

/** textwrap.wrap of every line, with jinja2's defaults. */
const wordwrap: Filter = (value, given) => {
  const [width, breaks = true, joint] = bind('wordwrap', given, [
    'width',
    'break_long_words',
    'wrapstring',
    'break_on_hyphens',
  ]);
  const most = wholeNumber(width, 79);
  if (most < 1) fail(`invalid width ${most} (must be > 0)`);
  const by = text(joint, '\n');
  return lines(text(value), false)
    .map((line) => wrapped(line, most, isTrue(breaks)).join(by))
    .join(by);
};

/** TextWrapper._wrap_chunks: words and the spaces between, as many to a line as fit. */
function wrapped(line: string, width: number, breaks: boolean): string[] {
  const made: string[] = [];
  const chunks = (line.match(/\s+|[^\s-]*-+(?=\w)|\S+?(?=\s|$|[^\s-]*-+\w)|\S+/g) ?? []).reverse();
  const isBlank = (chunk: string | undefined) => chunk !== undefined && chunk.trim() === '';
  while (chunks.length > 0) {
    const current: string[] = [];
    let room = width;
    if (made.length > 0 && isBlank(chunks.at(-1))) chunks.pop();
    while (chunks.length > 0 && (chunks.at(-1)?.length ?? 0) <= room) {
      const chunk = chunks.pop() ?? '';
      current.push(chunk);
      room -= chunk.length;
    }
    const long = chunks.at(-1) ?? '';
    if (long.length > width && breaks) {
      current.push(long.slice(0, room));
      chunks[chunks.length - 1] = long.slice(room);
    } else if (long.length > width && current.length === 0) current.push(chunks.pop() ?? '');
    if (isBlank(current.at(-1))) current.pop();
    if (current.length > 0) made.push(current.join(''));
  }
  return made;
}

const round: Filter = (value, given) => {
  const [precision, method = 'common'] = bind('round', given, ['precision', 'method']);
  const digits = wholeNumber(precision, 0);
  if (value instanceof Undefined) value.fail();
  if (!isNumeric(value)) return fail(`type ${typeName(value)} doesn't define __round__ method`);
  if (method === 'ceil' || method === 'floor') {
    const scale = 10 ** digits;
    return Math[method](Number(value) * scale) / scale;
  }
  if (typeof value !== 'number')
    return digits >= 0 ? BigInt(value) : BigInt(Math.round(Number(value) * 10 ** digits) / 10 ** digits);
  if (digits >= 0) return Number(fixedText(value, digits));
  return Number(fixedText(value / 10 ** -digits, 0)) * 10 ** -digits;
};

const toInt: Filter = (value, given) => {
  const [fallback = 0n, base] = bind('int', given, ['default', 'base']);
  if (value instanceof Undefined) value.fail();
  if (typeof value === 'number') return Number.isFinite(value) ? BigInt(Math.trunc(value)) : fallback;
  if (typeof value === 'bigint' || typeof value === 'boolean') return BigInt(value);
  if (typeof value !== 'string') return fallback;
  return parsedInt(value.trim(), wholeNumber(base, 10)) ?? fallback;
};

function parsedInt(written: string, base: number): bigint | null {
  const [, sign = '', digits = ''] = /^([-+]?)(.*)$/s.exec(written.replace(/(?<=\w)_(?=\w)/g, '')) ?? [];
  const bare = base === 10 ? digits : digits.replace({ 16: /^0x/i, 8: /^0o/i, 2: /^0b/i }[base] ?? /^$/, '');
  const value = base === 10 ? (/^\d+$/.test(bare) ? BigInt(bare) : null) : inBase(bare, base);
  if (value !== null) return sign === '-' ? -value : value;
  const float = parsedFloat(written);
  return float === null || !Number.isFinite(float) ? null : BigInt(Math.trunc(float));
}

function inBase(digits: string, base: number): bigint | null {
  const values = Array.from(digits.toLowerCase(), (digit) => Number.parseInt(digit, 36));
  if (values.length === 0 || values.some((value) => Number.isNaN(value) || value >= base)) return null;
  return values.reduce((sum, value) => sum * BigInt(base) + BigInt(value), 0n);
}

function parsedFloat(written: string): number | null {
  const plain = written.trim().replace(/(?<=\d)_(?=\d)/g, '');
  if (/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain)) return Number(plain);
  const [, sign, name] = /^([-+]?)(inf|infinity|nan)$/i.exec(plain) ?? [];
  if (name === undefined) return null;
  return name.toLowerCase() === 'nan'
    ? Number.NaN
    : sign === '-'
      ? Number.NEGATIVE_INFINITY
      : Number.POSITIVE_INFINITY;
}

const toFloat: Filter = (value, given) => {
  const [fallback = 0] = bind('float', given, ['default']);
  if (value instanceof Undefined) value.fail();
  if (isNumeric(value)) return Number(value);
  return (typeof value === 'string' ? parsedFloat(value) : null) ?? fallback;
};

const absolute: Filter = (value) => {
  if (value instanceof Undefined) value.fail();
  if (typeof value === 'number') return Math.abs(value);
  if (!isNumeric(value)) return fail(`bad operand type for abs(): '${typeName(value)}'`);
  const number = BigInt(value);
  return number < 0n ? -number : number;
};

const fileSize: Filter = (value, given) => {
  const isBinary = isTrue(bind('filesizeformat', given, ['binary'])[0] ?? false);
  const base = isBinary ? 1024 : 1000;
  const bytes = isNumeric(value)
    ? Number(value)
    : (parsedFloat(text(value)) ?? fail(`'${text(value)}' is no number`));
  if (bytes === 1) return '1 Byte';
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`;
  const units = isBinary
    ? ['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB', 'ZiB', 'YiB']
    : ['kB', 'MB', 'GB', 'TB', 'PB', 'EB', 'ZB', 'YB'];
  const power = Math.min(units.length, Math.max(1, Math.floor(Math.log(bytes) / Math.log(base) + 1e-12)));
  return `${fixedText(bytes / base ** power, 1)} ${units[power - 1]}`;
};

const percentEncoded = (self: string) =>
  encodeURIComponent(self).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

const urlEncode: Filter = (value) => {
  if (typeof value === 'string' || !(value instanceof Dict))
    return percentEncoded(str(value)).replaceAll('%2F', '/');
  const part = (item: Value) => percentEncoded(str(item)).replaceAll('%20', '+');
  return value
    .entries()
    .map(([key, item]) => `${part(key)}=${part(item)}`)
    .join('&');
};

const xmlAttributes: Filter = (value, given) => {
  const spaced = isTrue(bind('xmlattr', given, ['autospace'])[0] ?? true);
  if (!(value instanceof Dict)) return fail('xmlattr needs a dict');
  const shown = value.entries().filter(([, item]) => item !== null && !(item instanceof Undefined));
  const body = shown.map(([key, item]) => `${escaped(str(key))}="${escaped(str(item))}"`).join(' ');
  return spaced && body !== '' ? ` ${body}` : body;
};

const format: Filter = (value, given) => {
  if (given.positional.length > 0 && given.named.size > 0)
    fail("can't handle positional and keyword arguments at the same time");
  return percentFormat(str(value), given.named.size > 0 ? Dict.of(given.named) : new Tuple(given.positional));
};

export const textFilters: readonly (readonly [string, Filter])[] = [
  ['upper', onText((self) => self.toUpperCase())],
  ['lower', onText((self) => self.toLowerCase())],
  ['capitalize', onText(capitalized)],
  ['title', onText(titled)],
  ['string', (value) => str(value)],
  ['safe', (value) => str(value)],
  ...['escape', 'e', 'forceescape'].map((name) => [name, onText(escaped)] as const),
  [
    'striptags',
    onText((self) =>
      self
        .replace(/<!--.*?-->|<[^>]*>/gs, '')
        .split(/\s+/)
        .filter(Boolean)
        .join(' '),
    ),
  ],
  ['trim', (value, given) => stripped(str(value), 'both', bind('trim', given, ['chars'])[0])],
  [
    'center',
    (value, given) => centered(str(value), wholeNumber(bind('center', given, ['width'])[0], 80), ' '),
  ],
  [
    'replace',
    (value, given) => {
      const [from, to, count] = bind('replace', given, ['old', 'new', 'count'], 2);
      return replaced(str(value), str(from ?? ''), str(to ?? ''), wholeNumber(count, -1));
    },
  ],
  ['wordcount', (value) => BigInt(str(value).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)],
  ['indent', indent],
  ['truncate', truncate],
  ['wordwrap', wordwrap],
  ['urlencode', urlEncode],
  ['xmlattr', xmlAttributes],
  ['format', format],
  ['tojson', toJson],
  ['pprint', (value) => repr(value)],
  ['round', round],
  ['int', toInt],
  ['float', toFloat],
  ['abs', absolute],
  ['filesizeformat', fileSize],
  ['list', (value) => [...iterate(value)]],
];
