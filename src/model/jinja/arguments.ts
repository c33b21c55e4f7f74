/** Python's way of passing arguments, for filters, tests, methods and global functions. */
import { type Arguments, Callable, fail, isNumeric, typeName, Undefined, type Value } from './values.js';

export const noArguments: Arguments = { positional: [], named: new Map() };

export function positional(...values: Value[]): Arguments {
  return { positional: values, named: noArguments.named };
}

/** The arguments in the order of `names`; undefined for one that was left out. The first `requiredCount` must
 *  be there. */
export function bind(
  what: string,
  given: Arguments,
  names: readonly string[],
  requiredCount = 0,
): readonly (Value | undefined)[] {
  if (given.positional.length > names.length) {
    fail(`${what}() takes at most ${names.length} arguments (${given.positional.length} given)`);
  }
  const unknown = [...given.named.keys()].find((name) => names.indexOf(name) < given.positional.length);
  if (unknown !== undefined) fail(`${what}() got an unexpected keyword argument '${unknown}'`);
  return names.map((name, index) => {
    const value = index < given.positional.length ? given.positional[index] : given.named.get(name);
    if (value === undefined && index < requiredCount) fail(`${what}() is missing its argument '${name}'`);
    return value;
  });
}

export function call(callee: Value, given: Arguments): Value {
  if (callee instanceof Callable) return callee.call(given);
  if (callee instanceof Undefined) return callee.fail();
  return fail(`'${typeName(callee)}' object is not callable`);
}

/** An index or a count. */
export function wholeNumber(value: Value | undefined, fallback: number): number {
  if (value === undefined || value === null) return fallback;
  if (value instanceof Undefined) return value.fail();
  if (typeof value === 'number' || !isNumeric(value))
    return fail(`'${typeName(value)}' object cannot be interpreted as an integer`);
  return Number(value);
}

export function text(value: Value | undefined, fallback = ''): string {
  if (value === undefined) return fallback;
  if (value instanceof Undefined) return value.fail();
  return typeof value === 'string' ? value : fail(`expected str, got ${typeName(value)}`);
}
