/** `value.name`, `value[key]` and slices, as jinja2's sandbox resolves them. Used by evaluate.ts and
 *  filters. */
import { wholeNumber } from './arguments.js';
import { objectMethod } from './object-methods.js';
import { strFormat } from './str-format.js';
import { stringMethod } from './string-methods.js';
import {
  Attributes,
  Callable,
  Dict,
  fail,
  hasSurrogates,
  isHashable,
  isList,
  orElse,
  PyObject,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.js';

/** An attribute, else an item. The sandbox hides every name that begins with an underscore. */
export function attributeOf(value: Value, name: string): Value {
  if (value instanceof Undefined) return value.fail();
  if (name.startsWith('_'))
    return new Undefined(`access to attribute '${name}' of '${typeName(value)}' object is unsafe.`);
  return orElse(ownAttribute(value, name), () => orElse(itemIn(value, name), () => missing(value, name)));
}

/** An item, else an attribute. */
export function itemOf(value: Value, key: Value): Value {
  if (value instanceof Undefined) return value.fail();
  const own = () => (typeof key !== 'string' || key.startsWith('_') ? undefined : ownAttribute(value, key));
  return orElse(itemIn(value, key), () => orElse(own(), () => missing(value, key)));
}

function missing(value: Value, key: Value): Undefined {
  if (value === null) return new Undefined(`'None' has no attribute '${String(key)}'`);
  const what = typeof key === 'string' ? `attribute '${key}'` : `element ${String(key)}`;
  return new Undefined(`'${typeName(value)} object' has no ${what}`);
}

export function ownAttribute(value: Value, name: string): Value | undefined {
  if (typeof value === 'string' && name === 'format')
    return new Callable(name, (given) => strFormat(value, given, fieldPart));
  if (typeof value === 'string') return stringMethod(value, name);
  if (value instanceof PyObject || isList(value)) {
    return objectMethod(value, name) ?? (isList(value) ? undefined : value.attribute(name));
  }
  return undefined;
}

/** `.name` or `[key]` within a field of str.format. */
function fieldPart(value: Value, part: string): Value {
  const key = part.slice(1, -1);
  const found = part.startsWith('.')
    ? attributeOf(value, part.slice(1))
    : itemOf(value, /^\d+$/.test(key) ? BigInt(key) : key);
  return found instanceof Undefined ? found.fail() : found;
}

function itemIn(value: Value, key: Value): Value | undefined {
  if (value instanceof Dict) return isHashable(key) ? value.get(key) : undefined;
  if (value instanceof Attributes) return typeof key === 'string' ? value.values.get(key) : undefined;
  if (typeof key !== 'bigint' && typeof key !== 'boolean') return undefined;
  const index = Number(key);
  if (typeof value === 'string') return hasSurrogates(value) ? Array.from(value).at(index) : value.at(index);
  if (isList(value)) return value.at(index);
  if (value instanceof Tuple) return value.items.at(index);
  return value instanceof Range ? value.list().at(index) : undefined;
}

export function sliceOf(value: Value, bounds: readonly (Value | undefined)[]): Value {
  if (value instanceof Undefined) value.fail();
  if (typeof value === 'string')
    return cut(hasSurrogates(value) ? Array.from(value) : value.split(''), bounds).join('');
  if (isList(value)) return cut(value, bounds);
  if (value instanceof Tuple) return new Tuple(cut(value.items, bounds));
  if (value instanceof Range) return cutRange(value, bounds);
  return fail(`'${typeName(value)}' object is not subscriptable`);
}

function cutRange(range: Range, bounds: readonly (Value | undefined)[]): Range {
  const { start, stop, step } = sliceBounds(range.length, bounds);
  const at = (index: number) => range.start + BigInt(index) * range.step;
  return new Range(at(start), at(stop), range.step * BigInt(step));
}

function cut<T>(items: readonly T[], bounds: readonly (Value | undefined)[]): T[] {
  const { start, stop, step } = sliceBounds(items.length, bounds);
  const result: T[] = [];
  for (let at = start; step > 0 ? at < stop : at > stop; at += step) result.push(items[at] as T);
  return result;
}

/** As slice.indices(length). */
function sliceBounds(length: number, [from, to, by]: readonly (Value | undefined)[]) {
  const step = wholeNumber(by, 1);
  if (step === 0) fail('slice step cannot be zero');
  const [least, most] = step > 0 ? [0, length] : [-1, length - 1];
  const bound = (value: Value | undefined, fallback: number) => {
    const index = wholeNumber(value, Number.NaN);
    if (Number.isNaN(index)) return fallback;
    return Math.min(most, Math.max(least, index < 0 ? index + length : index));
  };
  return { start: bound(from, step > 0 ? least : most), stop: bound(to, step > 0 ? most : least), step };
}

/** "a.b.0", as the attribute= of filters is written. `fallback` stands in at each part that is not there. */
export function pathOf(value: Value, path: Value, fallback: Value | undefined = undefined): Value {
  const parts =
    typeof path === 'string'
      ? path.split('.').map((part) => (/^\d+$/.test(part) ? BigInt(part) : part))
      : [path];
  return parts.reduce<Value>((from, part) => {
    const found = itemOf(from, part);
    return found instanceof Undefined ? (fallback ?? found) : found;
  }, value);
}
