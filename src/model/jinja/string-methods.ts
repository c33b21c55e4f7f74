/** Python's str methods. Used by access.ts and filters. Positions count code points, as in Python. */
import { bind, text, wholeNumber } from './arguments.js';
import { padded } from './percent-format.js';
import {
  type Arguments,
  Callable,
  checkTextLength,
  fail,
  hasSurrogates,
  isTrue,
  iterate,
  joinedText,
  repeatedText,
  Tuple,
  typeName,
  type Value,
} from './values.js';

type Method = (self: string, given: Arguments) => Value;

export function stringMethod(self: string, name: string): Callable | undefined {
  const method = methods.get(name);
  return method === undefined ? undefined : new Callable(name, (given) => method(self, given));
}

/** White space as str.isspace has it; JavaScript's lacks some controls and has U+FEFF. */
const space = '[\\t-\\r\\x1c-\\x1f \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';

export function stripped(
  self: string,
  side: 'both' | 'left' | 'right',
  characters: Value | undefined,
): string {
  const codes = Array.from(self);
  const isOff =
    characters === undefined || characters === null
      ? (code: string) => new RegExp(`^${space}$`).test(code)
      : (
          (set) => (code: string) =>
            set.has(code)
        )(new Set(Array.from(text(characters))));
  let start = 0;
  let end = codes.length;
  if (side !== 'right') while (start < end && isOff(codes[start] ?? '')) start++;
  if (side !== 'left') while (end > start && isOff(codes[end - 1] ?? '')) end--;
  return codes.slice(start, end).join('');
}

const strip =
  (side: 'both' | 'left' | 'right'): Method =>
  (self, given) =>
    stripped(self, side, bind('strip', given, ['chars'])[0]);

/** `separator` absent: runs of white space. A negative `countMax`: all. */
function split(
  self: string,
  separator: Value | undefined,
  countMax: number,
  from: 'left' | 'right',
): string[] {
  const most = countMax < 0 ? Number.POSITIVE_INFINITY : countMax;
  if (separator === undefined || separator === null) return splitAtSpaces(self, most, from);
  const by = text(separator);
  if (by === '') fail('empty separator');
  const parts = self.split(by);
  if (parts.length - 1 <= most) return parts;
  if (from === 'left') return [...parts.slice(0, most), parts.slice(most).join(by)];
  return [parts.slice(0, parts.length - most).join(by), ...parts.slice(parts.length - most)];
}

function splitAtSpaces(self: string, most: number, from: 'left' | 'right'): string[] {
  const words = [...self.matchAll(new RegExp(`(?:(?!${space})[\\s\\S])+`, 'gu'))];
  if (words.length <= most) return words.map(([word]) => word);
  if (from === 'left') return [...words.slice(0, most).map(([word]) => word), self.slice(words[most]?.index)];
  const cut = words[words.length - most - 1];
  const head = self.slice(0, (cut?.index ?? 0) + (cut?.[0].length ?? 0));
  return [head, ...words.slice(words.length - most).map(([word]) => word)];
}

const splitMethod =
  (from: 'left' | 'right'): Method =>
  (self, given) => {
    const [separator, most] = bind('split', given, ['sep', 'maxsplit']);
    return split(self, separator, wholeNumber(most, -1), from);
  };

const partition =
  (from: 'left' | 'right'): Method =>
  (self, given) => {
    const by = text(bind('partition', given, ['sep'], 1)[0]);
    if (by === '') fail('empty separator');
    const at = from === 'left' ? self.indexOf(by) : self.lastIndexOf(by);
    if (at < 0) return new Tuple(from === 'left' ? [self, '', ''] : ['', '', self]);
    return new Tuple([self.slice(0, at), by, self.slice(at + by.length)]);
  };

/** self[start:end] and where it begins, in code points. null: start lies beyond the end. */
function window(
  self: string,
  start: Value | undefined,
  end: Value | undefined,
): { part: string; offset: number } | null {
  if (start === undefined && end === undefined) return { part: self, offset: 0 };
  const codes = Array.from(self);
  const bound = (value: Value | undefined, fallback: number) => {
    const index = wholeNumber(value, fallback);
    return index < 0 ? Math.max(0, index + codes.length) : index;
  };
  const offset = bound(start, 0);
  if (offset > codes.length) return null;
  return { part: codes.slice(offset, bound(end, codes.length)).join(''), offset };
}

const find =
  (from: 'left' | 'right', isStrict: boolean): Method =>
  (self, given) => {
    const [sub, start, end] = bind('find', given, ['sub', 'start', 'end'], 1);
    const within = window(self, start, end);
    const at =
      within === null
        ? -1
        : from === 'left'
          ? within.part.indexOf(text(sub))
          : within.part.lastIndexOf(text(sub));
    if (within === null || at < 0) return isStrict ? fail('substring not found') : -1n;
    const before = within.part.slice(0, at);
    return BigInt(within.offset + (hasSurrogates(before) ? Array.from(before).length : at));
  };

const affix =
  (side: 'start' | 'end'): Method =>
  (self, given) => {
    const [wanted = null, start, end] = bind(`${side}swith`, given, ['prefix', 'start', 'end'], 1);
    const within = window(self, start, end);
    const words = wanted instanceof Tuple ? wanted.items : [wanted];
    return (
      within !== null &&
      words.some((word) =>
        side === 'start' ? within.part.startsWith(text(word)) : within.part.endsWith(text(word)),
      )
    );
  };

export function replaced(self: string, from: string, to: string, countMax: number): string {
  const parts = from === '' ? ['', ...Array.from(self), ''] : self.split(from);
  if (countMax < 0) return joinedText(parts, to);
  const kept = Math.min(countMax, parts.length - 1);
  return (
    joinedText(parts.slice(0, kept + 1), to) +
    parts
      .slice(kept + 1)
      .map((part) => from + part)
      .join('')
  );
}

/** The first character in title case, which JavaScript has no word for: "ﬁ" → "Fi", "ǆ" → "ǅ". */
function titleCase(character: string): string {
  const [first = '', ...rest] = Array.from(character.toUpperCase());
  if (/^[ǄǇǊǱ]$/.test(first)) return String.fromCodePoint((first.codePointAt(0) ?? 0) + 1);
  return first + rest.join('').toLowerCase();
}

export function capitalized(self: string): string {
  const [first = '', ...rest] = Array.from(self);
  return titleCase(first) + rest.join('').toLowerCase();
}

function titled(self: string): string {
  return self.replace(/\p{Cased}+/gu, capitalized);
}

const pad =
  (align: string): Method =>
  (self, given) => {
    const [width, fill] = bind('ljust', given, ['width', 'fillchar'], 1);
    const size = wholeNumber(width, 0);
    const filler = text(fill, ' ');
    return align === '^' ? centered(self, size, filler) : padded(self, size, align, filler);
  };

/** str.center puts the odd one to the left when the width is odd. */
export function centered(self: string, width: number, fill: string): string {
  const length = Array.from(self).length;
  const missing = Math.max(0, width - length);
  const left = Math.floor(missing / 2) + (missing & width & 1);
  return repeatedText(fill, left) + self + repeatedText(fill, missing - left);
}

function expandTabs(self: string, size: number): string {
  let column = 0;
  let result = '';
  for (const character of self) {
    const shown = character === '\t' ? repeatedText(' ', size > 0 ? size - (column % size) : 0) : character;
    result += shown;
    checkTextLength(result.length);
    column = character === '\n' || character === '\r' ? 0 : column + shown.length;
  }
  return result;
}

const lineEnd = '\\r\\n|[\\n-\\r\\x1c-\\x1e\\x85\\u2028\\u2029]';

/** str.splitlines. */
export function lines(self: string, keepsEnds: boolean): string[] {
  const found: string[] = [];
  let start = 0;
  for (const { 0: end, index } of self.matchAll(new RegExp(lineEnd, 'g'))) {
    found.push(self.slice(start, index + (keepsEnds ? end.length : 0)));
    start = index + end.length;
  }
  return start < self.length ? [...found, self.slice(start)] : found;
}

function zeroFilled(self: string, width: number): string {
  const sign = /^[-+]/.exec(self)?.[0] ?? '';
  return sign + padded(self.slice(sign.length), width - sign.length, '>', '0');
}

function joined(self: string, items: Value): string {
  const parts = iterate(items).map((item, index) =>
    typeof item === 'string'
      ? item
      : fail(`sequence item ${index}: expected str instance, ${typeName(item)} found`),
  );
  return joinedText(parts, self);
}

const plain =
  (change: (self: string) => Value): Method =>
  (self, given) => {
    bind('str', given, []);
    return change(self);
  };
const matches = (pattern: RegExp) => plain((self) => pattern.test(self));
const isCased = (pattern: RegExp) => plain((self) => /\p{Cased}/u.test(self) && !pattern.test(self));

const methods: ReadonlyMap<string, Method> = new Map<string, Method>([
  ['strip', strip('both')],
  ['lstrip', strip('left')],
  ['rstrip', strip('right')],
  ['split', splitMethod('left')],
  ['rsplit', splitMethod('right')],
  ['splitlines', (self, given) => lines(self, isTrue(bind('splitlines', given, ['keepends'])[0] ?? false))],
  ['partition', partition('left')],
  ['rpartition', partition('right')],
  ['find', find('left', false)],
  ['rfind', find('right', false)],
  ['index', find('left', true)],
  ['rindex', find('right', true)],
  ['startswith', affix('start')],
  ['endswith', affix('end')],
  [
    'count',
    (self, given) => {
      const [sub, start, end] = bind('count', given, ['sub', 'start', 'end'], 1);
      const part = window(self, start, end)?.part ?? '';
      return BigInt(text(sub) === '' ? Array.from(part).length + 1 : part.split(text(sub)).length - 1);
    },
  ],
  [
    'replace',
    (self, given) => {
      const [from, to, count] = bind('replace', given, ['old', 'new', 'count'], 2);
      return replaced(self, text(from), text(to), wholeNumber(count, -1));
    },
  ],
  [
    'removeprefix',
    (self, given) => {
      const prefix = text(bind('removeprefix', given, ['prefix'], 1)[0]);
      return self.startsWith(prefix) ? self.slice(prefix.length) : self;
    },
  ],
  [
    'removesuffix',
    (self, given) => {
      const suffix = text(bind('removesuffix', given, ['suffix'], 1)[0]);
      return suffix !== '' && self.endsWith(suffix) ? self.slice(0, -suffix.length) : self;
    },
  ],
  ['join', (self, given) => joined(self, bind('join', given, ['iterable'], 1)[0] ?? null)],
  ['upper', plain((self) => self.toUpperCase())],
  ['lower', plain((self) => self.toLowerCase())],
  ['casefold', plain((self) => self.toUpperCase().toLowerCase())],
  ['title', plain(titled)],
  ['capitalize', plain(capitalized)],
  [
    'swapcase',
    plain((self) =>
      Array.from(self, (c) => (c === c.toUpperCase() ? c.toLowerCase() : c.toUpperCase())).join(''),
    ),
  ],
  ['center', pad('^')],
  ['ljust', pad('<')],
  ['rjust', pad('>')],
  ['zfill', (self, given) => zeroFilled(self, wholeNumber(bind('zfill', given, ['width'], 1)[0], 0))],
  [
    'expandtabs',
    (self, given) => expandTabs(self, wholeNumber(bind('expandtabs', given, ['tabsize'])[0], 8)),
  ],
  ['isdigit', matches(/^[\p{Nd}\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468]+$/u)],
  ['isdecimal', matches(/^\p{Nd}+$/u)],
  ['isnumeric', matches(/^\p{N}+$/u)],
  ['isalpha', matches(/^\p{L}+$/u)],
  ['isalnum', matches(/^[\p{L}\p{N}]+$/u)],
  ['isspace', matches(new RegExp(`^${space}+$`))],
  ['isascii', matches(/^\p{ASCII}*$/u)],
  ['isupper', isCased(/[\p{Ll}\p{Lt}]/u)],
  ['islower', isCased(/[\p{Lu}\p{Lt}]/u)],
  ['istitle', plain((self) => /\p{Cased}/u.test(self) && titled(self) === self)],
  ['isidentifier', matches(/^[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}_]*$/u)],
  ['isprintable', matches(/^[^\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]*$/u)],
]);
