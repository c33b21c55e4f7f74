/** `"{} {name!r:>8}".format(…)`, as Python does it. Used by access.ts, which says what `.name` and `[key]`
 *  mean. */
import { spelled } from './number-format.js';
import { padded } from './percent-format.js';
import { floatText, repr, str } from './text.js';
import { type Arguments, fail, isNumeric, typeName, type Value } from './values.js';

export function strFormat(
  format: string,
  given: Arguments,
  step: (value: Value, part: string) => Value,
): string {
  let nextIndex = 0;
  const field = (name: string): Value => {
    const [first = '', ...rest] = name.split(/(?=[.[])/);
    const index = first === '' ? nextIndex++ : /^\d+$/.test(first) ? Number(first) : null;
    const start = index === null ? given.named.get(first) : given.positional[index];
    if (start === undefined)
      return fail(
        index === null ? `KeyError: '${first}'` : 'Replacement index out of range for positional arguments',
      );
    return rest.reduce(step, start);
  };
  const fill = (text: string, depth: number): string => {
    let result = '';
    for (let at = 0; at < text.length; at++) {
      const character = text[at] ?? '';
      if (character !== '{' && character !== '}') result += character;
      else if (text[at + 1] === character && depth === 0) result += text[at++] ?? '';
      else if (character === '}') fail("Single '}' encountered in format string");
      else {
        const end = closing(text, at);
        const [, name = '', conversion, spec = ''] =
          /^([^!:]*)(?:!([rsa]))?(?::([\s\S]*))?$/.exec(text.slice(at + 1, end)) ?? fail('bad format');
        const value = field(name);
        result += formatted(
          conversion === undefined ? value : conversion === 's' ? str(value) : repr(value),
          depth > 0 ? spec : fill(spec, 1),
        );
        at = end;
      }
    }
    return result;
  };
  return fill(format, 0);
}

function closing(text: string, start: number): number {
  let depth = 0;
  for (let at = start; at < text.length; at++) {
    if (text[at] === '{') depth++;
    else if (text[at] === '}' && --depth === 0) return at;
  }
  return fail("expected '}' before end of string");
}

const specPattern = /^(?:([\s\S])?([<>=^]))?([-+ ])?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([bcdeEfFgGnosxX%])?$/u;

/** format(value, spec). */
function formatted(value: Value, spec: string): string {
  if (spec === '') return str(value);
  const [, fill, align, sign, alternate, zero, width, group, precision, kind] =
    specPattern.exec(spec) ?? fail(`Invalid format specifier '${spec}'`);
  const digits = precision === undefined ? undefined : Number(precision);
  const size = Number(width ?? 0);
  if (typeof value === 'string') {
    const shown = digits === undefined ? value : Array.from(value).slice(0, digits).join('');
    return padded(shown, size, align ?? '<', fill ?? ' ');
  }
  if (!isNumeric(value)) return fail(`unsupported format string passed to ${typeName(value)}.__format__`);
  const { signText, body } = number(
    typeof value === 'boolean' ? BigInt(value) : value,
    kind,
    digits,
    alternate !== undefined,
    group,
  );
  const signed = signText || (sign === '+' || sign === ' ' ? sign : '');
  const filler = fill ?? (zero === undefined ? ' ' : '0');
  const side = align ?? (zero === undefined ? '>' : '=');
  if (side !== '=') return padded(signed + body, size, side, filler);
  return signed + padded(body, size - signed.length, '>', filler);
}

function number(
  value: bigint | number,
  kind: string | undefined,
  precision: number | undefined,
  isAlternate: boolean,
  group?: string,
) {
  if (kind === undefined && typeof value === 'number' && precision === undefined) {
    return { signText: value < 0 ? '-' : '', body: grouped(floatText(Math.abs(value)), group) };
  }
  const isWhole = typeof value === 'bigint' && (kind === undefined || 'dxXobn'.includes(kind));
  const form = kind === undefined || kind === 'n' ? (isWhole ? 'd' : 'g') : kind;
  if (form === 'd' && !isWhole) fail("Unknown format code 'd' for object of type 'float'");
  const { sign, prefix, digits } = spelled(value, form, precision, isAlternate);
  return { signText: sign, body: prefix + grouped(digits, group) };
}

function grouped(digits: string, group: string | undefined): string {
  return group === undefined
    ? digits
    : digits.replace(/^\d+/, (whole) => whole.replace(/\B(?=(\d{3})+$)/g, group));
}
