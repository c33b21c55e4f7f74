/** A number in one of the forms that `%` and str.format share: d x o b e f g and their capitals. */
import { exponentText, fixedText } from './text.js';

interface Spelled {
  readonly sign: '' | '-';
  readonly prefix: string;
  readonly digits: string;
}

export function spelled(
  value: bigint | number,
  kind: string,
  precision: number | undefined,
  isAlternate = false,
): Spelled {
  const sign = value < 0 || Object.is(value, -0) ? '-' : '';
  if (typeof value === 'bigint' && 'dxXob'.includes(kind)) {
    const radix = { d: 10, x: 16, X: 16, o: 8, b: 2 }[kind] ?? 10;
    const digits = (value < 0n ? -value : value).toString(radix);
    return {
      sign,
      prefix: isAlternate && kind !== 'd' ? `0${kind}` : '',
      digits: kind === 'X' ? digits.toUpperCase() : digits,
    };
  }
  const size = Math.abs(Number(value));
  const digits = Number.isFinite(size)
    ? finite(size, kind.toLowerCase(), precision ?? 6, isAlternate)
    : size > 0
      ? 'inf'
      : 'nan';
  return {
    sign,
    prefix: '',
    digits: kind === kind.toUpperCase() && kind !== '%' ? digits.toUpperCase() : digits,
  };
}

function finite(size: number, kind: string, precision: number, isAlternate: boolean): string {
  if (kind === 'f') return fixedText(size, precision);
  if (kind === '%') return `${fixedText(size * 100, precision)}%`;
  if (kind === 'e') return exponential(size, precision);
  const places = Math.max(1, precision);
  const exponent = Number(size.toExponential(Math.min(100, places - 1)).split('e')[1]);
  const text =
    exponent < -4 || exponent >= places
      ? exponential(size, places - 1)
      : fixedText(size, places - 1 - exponent);
  return isAlternate ? text : text.replace(/(\.\d*?)0+(e|$)/, '$1$2').replace(/\.(e|$)/, '$1');
}

function exponential(size: number, precision: number): string {
  const [digits = '', exponent = '0'] = size.toExponential(Math.min(100, precision)).split('e');
  return `${digits}e${exponentText(Number(exponent))}`;
}
