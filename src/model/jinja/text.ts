/** Values as Python prints them: str(), repr() and the formatting of numbers. Used by all of jinja/. */
import {
  Attributes,
  Callable,
  Dict,
  DictView,
  isList,
  type PyObject,
  Range,
  Tuple,
  Undefined,
  type Value,
} from './values.js';

export function str(value: Value): string {
  if (typeof value === 'string') return value;
  return value instanceof Undefined ? '' : repr(value);
}

export function repr(value: Value): string {
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'bigint') return value.toString();
  if (typeof value === 'number') return floatText(value);
  if (typeof value === 'string') return quoted(value);
  if (isList(value)) return `[${value.map(repr).join(', ')}]`;
  return objectText(value);
}

function objectText(value: PyObject): string {
  if (value instanceof Tuple)
    return `(${value.items.map(repr).join(', ')}${value.items.length === 1 ? ',' : ''})`;
  if (value instanceof Dict)
    return `{${value
      .entries()
      .map(([key, entry]) => `${repr(key)}: ${repr(entry)}`)
      .join(', ')}}`;
  if (value instanceof DictView) return `${value.typeName}([${value.values.map(repr).join(', ')}])`;
  if (value instanceof Range)
    return `range(${value.start}, ${value.stop}${value.step === 1n ? '' : `, ${value.step}`})`;
  if (value instanceof Undefined) return 'Undefined';
  if (value instanceof Callable) return `<${value.typeName} ${value.name}>`;
  if (value instanceof Attributes && value.typeName === 'Namespace')
    return `<Namespace ${repr(Dict.of(value.values))}>`;
  return `<${value.typeName} object>`;
}

/** repr(float): the shortest digits that give the number back, an exponent from 1e16 on and below 1e-4. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (Object.is(value, -0)) return '-0.0';
  const [digits = '', exponent = '0'] = value.toExponential().split('e');
  const size = Number(exponent);
  if (value !== 0 && (size < -4 || size >= 16)) return `${digits}e${exponentText(size)}`;
  const text =
    size < 0
      ? value.toFixed(Math.min(100, -size + digits.replace(/[-.]/g, '').length - 1))
      : value.toString();
  return text.includes('.') ? text : `${text}.0`;
}

/** Two digits at least. */
export function exponentText(exponent: number): string {
  return `${exponent < 0 ? '-' : '+'}${Math.abs(exponent).toString().padStart(2, '0')}`;
}

/** Rounded to `digits` places, ties to even; toFixed takes the larger on a tie. */
export function fixedText(value: number, digits: number): string {
  const places = Math.min(digits, 100);
  if (Math.abs(value) >= 1e21) return BigInt(value).toString() + (places > 0 ? `.${'0'.repeat(places)}` : '');
  const text = value.toFixed(places);
  const exact = value.toFixed(100);
  const rest = exact.slice(exact.indexOf('.') + 1 + places);
  if (places === 100 || !/^50*$/.test(rest)) return text;
  const cut = exact.slice(0, exact.indexOf('.') + 1 + places).replace(/\.$/, '');
  const isEven = '02468'.includes(cut.at(-1) ?? '0');
  if (isEven) return cut;
  return text === cut ? awayFromZero(cut) : text;
}

function awayFromZero(cut: string): string {
  const places = cut.includes('.') ? cut.length - cut.indexOf('.') - 1 : 0;
  const units = BigInt(cut.replace(/[-.]/g, '')) + 1n;
  const digits = units.toString().padStart(places + 1, '0');
  const text = places === 0 ? digits : `${digits.slice(0, -places)}.${digits.slice(-places)}`;
  return cut.startsWith('-') ? `-${text}` : text;
}

const escapes: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\\': '\\\\' };

function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const body = text.replace(/[\\\n\r\t'"]|[^ \P{Z}]|[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}]/gu, (character) => {
    if (character === '"' || character === "'") return character === quote ? `\\${character}` : character;
    return escapes[character] ?? codeEscape(character);
  });
  return quote + body + quote;
}

function codeEscape(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  const hex = (width: number) => code.toString(16).padStart(width, '0');
  return code < 0x100 ? `\\x${hex(2)}` : code < 0x10000 ? `\\u${hex(4)}` : `\\U${hex(8)}`;
}
