/** Python's equality and order. Used by operators.ts, filters and tests. */
import {
  Dict,
  DictView,
  fail,
  hasSurrogates,
  isList,
  isNumeric,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.js';

export function isEqual(a: Value, b: Value): boolean {
  if (isNumeric(a) && isNumeric(b)) {
    const [left, right] = [a, b].map((each) => (typeof each === 'boolean' ? BigInt(each) : each));
    // biome-ignore lint/suspicious/noDoubleEquals: an int and a float of one value are equal, of any size
    return left == right;
  }
  if (isList(a) && isList(b)) return areEqual(a, b);
  if (a instanceof Tuple && b instanceof Tuple) return areEqual(a.items, b.items);
  if (a instanceof Range && b instanceof Range) return areEqual(a.list(), b.list());
  if (a instanceof DictView && b instanceof DictView)
    return a.typeName === b.typeName && areEqual(a.values, b.values);
  if (a instanceof Undefined && b instanceof Undefined) return true;
  if (!(a instanceof Dict && b instanceof Dict)) return a === b;
  return (
    a.size === b.size && a.entries().every(([key, value]) => b.has(key) && isEqual(value, b.get(key) ?? null))
  );
}

function areEqual(a: readonly Value[], b: readonly Value[]): boolean {
  return a.length === b.length && a.every((item, index) => isEqual(item, b[index] ?? null));
}

/** Negative, zero or positive, as a sort wants it. */
export function compare(a: Value, b: Value, operator = '<'): number {
  if (a instanceof Undefined) a.fail();
  if (b instanceof Undefined) b.fail();
  if (isNumeric(a) && isNumeric(b)) return a < b ? -1 : a > b ? 1 : a >= b ? 0 : Number.NaN;
  if (typeof a === 'string' && typeof b === 'string') return compareStrings(a, b);
  if (isList(a) && isList(b)) return compareItems(a, b, operator);
  if (a instanceof Tuple && b instanceof Tuple) return compareItems(a.items, b.items, operator);
  return fail(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

function compareItems(a: readonly Value[], b: readonly Value[], operator: string): number {
  for (const [index, item] of a.entries()) {
    const other = b[index];
    if (other === undefined) return 1;
    if (!isEqual(item, other)) return compare(item, other, operator);
  }
  return a.length - b.length;
}

/** By code point: UTF-16 puts what lies beyond U+FFFF before U+E000. */
function compareStrings(a: string, b: string): number {
  if (!hasSurrogates(a) && !hasSurrogates(b)) return a < b ? -1 : a > b ? 1 : 0;
  return Buffer.compare(Buffer.from(a, 'utf8'), Buffer.from(b, 'utf8'));
}
