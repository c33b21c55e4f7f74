/** Methods of lists, tuples and dicts; those that change one do not exist in the sandbox. Used by
 *  access.ts. */
import { bind } from './arguments.js';
import { isEqual } from './compare.js';
import {
  type Arguments,
  Callable,
  Dict,
  DictView,
  fail,
  isList,
  orElse,
  Range,
  Tuple,
  type Value,
} from './values.js';

export function objectMethod(value: Value, name: string): Callable | undefined {
  const run = value instanceof Dict ? dictMethod(value, name) : sequenceMethod(value, name);
  return run === undefined ? undefined : new Callable(name, run);
}

type Run = (given: Arguments) => Value;

function dictMethod(dict: Dict, name: string): Run | undefined {
  const entries = () => dict.entries();
  switch (name) {
    case 'get':
      return (given) => {
        const [key = null, fallback = null] = bind(name, given, ['key', 'default'], 1);
        return orElse(dict.get(key), () => fallback);
      };
    case 'keys':
      return () =>
        new DictView(
          'keys',
          entries().map(([key]) => key),
        );
    case 'values':
      return () =>
        new DictView(
          'values',
          entries().map(([, value]) => value),
        );
    case 'items':
      return () =>
        new DictView(
          'items',
          entries().map((entry) => new Tuple(entry)),
        );
    case 'copy':
      return () => Dict.of(entries());
    default:
      return undefined;
  }
}

function sequenceMethod(value: Value, name: string): Run | undefined {
  const items = isList(value)
    ? value
    : value instanceof Tuple
      ? value.items
      : value instanceof Range
        ? value.list()
        : null;
  if (items === null) return undefined;
  const wanted = (given: Arguments) => bind(name, given, ['value'], 1)[0] ?? null;
  if (name === 'copy' && isList(value)) return () => [...items];
  if (name === 'count') {
    return (given) => {
      const what = wanted(given);
      return BigInt(items.filter((item) => isEqual(item, what)).length);
    };
  }
  if (name !== 'index') return undefined;
  return (given) => {
    const what = wanted(given);
    const index = items.findIndex((item) => isEqual(item, what));
    return index >= 0 ? BigInt(index) : fail('the value is not in the list');
  };
}
