/** `"%s is %d" % values`, as Python does it. Used by operators.ts and the format filter. */
import { spelled } from './number-format.js';
import { repr, str } from './text.js';
import { checkTextLength, Dict, fail, isNumeric, orElse, Tuple, typeName, type Value } from './values.js';

const directive = /%(?:\(([^)]*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+))?([hlL]?)([\s\S])?/g;

export function percentFormat(format: string, values: Value): string {
  const items = values instanceof Tuple ? values.items : [values];
  let at = 0;
  const next = (): Value => {
    if (at >= items.length) fail('not enough arguments for format string');
    return items[at++] ?? null;
  };
  const width = (text: string | undefined) =>
    text === '*' ? Number(next()) : text === undefined ? undefined : Number(text);
  const result = format.replace(
    directive,
    (...[, key, flags = '', widthText, precisionText, , kind]: (string | undefined)[]) => {
      if (kind === '%') return '%';
      const fieldWidth = width(widthText);
      const precision = width(precisionText);
      const value = key === undefined ? next() : named(values, key);
      return one(value, kind ?? fail('incomplete format'), flags, fieldWidth ?? 0, precision);
    },
  );
  if (at < items.length && !isMapping(values)) fail('not all arguments converted during string formatting');
  return result;
}

/** As Python takes it: whatever has items by key, a list too. */
function isMapping(values: Value): boolean {
  return values !== null && typeof values === 'object' && !(values instanceof Tuple);
}

function named(values: Value, key: string): Value {
  if (!(values instanceof Dict)) return fail('format requires a mapping');
  return orElse(values.get(key), () => fail(`KeyError: '${key}'`));
}

function one(
  value: Value,
  kind: string,
  flags: string,
  width: number,
  precision: number | undefined,
): string {
  const isLeft = flags.includes('-') || width < 0;
  const pad = (text: string) => padded(text, Math.abs(width), isLeft ? '<' : '>', ' ');
  if (kind === 's' || kind === 'r' || kind === 'a') {
    const text = kind === 's' ? str(value) : repr(value);
    return pad(precision === undefined ? text : Array.from(text).slice(0, precision).join(''));
  }
  if (kind === 'c') return pad(typeof value === 'string' ? value : String.fromCodePoint(Number(value)));
  if (!'diuoxXeEfFgG'.includes(kind)) fail(`unsupported format character '${kind}'`);
  if (!isNumeric(value)) return fail(`%${kind} format: a real number is required, not ${typeName(value)}`);
  const isWhole = 'diuoxX'.includes(kind);
  const number = isWhole
    ? BigInt(Math.trunc(Number(value)) === Number(value) ? (value as bigint) : Math.trunc(Number(value)))
    : Number(value);
  const { sign, prefix, digits } = spelled(
    number,
    kind === 'i' || kind === 'u' ? 'd' : kind,
    precision,
    flags.includes('#'),
  );
  const signText = sign || (flags.includes('+') ? '+' : flags.includes(' ') ? ' ' : '');
  checkTextLength(Math.max(Math.abs(width), precision ?? 0));
  const least = isWhole && precision !== undefined ? digits.padStart(precision, '0') : digits;
  if (!flags.includes('0') || isLeft) return pad(signText + prefix + least);
  return signText + prefix + least.padStart(Math.abs(width) - signText.length - prefix.length, '0');
}

/** Widths count code points. */
export function padded(text: string, width: number, align: string, fill: string): string {
  const missing = Math.max(0, width - Array.from(text).length);
  checkTextLength(missing);
  if (align === '<') return text + fill.repeat(missing);
  if (align === '>') return fill.repeat(missing) + text;
  return fill.repeat(Math.floor(missing / 2)) + text + fill.repeat(Math.ceil(missing / 2));
}
