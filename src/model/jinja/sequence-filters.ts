/** The filters on lists and dicts. Collected by filters.ts. */
import { ownAttribute, pathOf } from './access.js';
import { bind, wholeNumber } from './arguments.js';
import { compare, isEqual } from './compare.js';
import type { Filter, FilterContext } from './filter.js';
import { arithmetic } from './operators.js';
import { str } from './text.js';
import {
  type Arguments,
  checkItemCount,
  Dict,
  fail,
  Generator,
  isTrue,
  iterate,
  joinedText,
  lengthOf,
  orElse,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.js';

type Key = (item: Value) => Value;

const lowered: Key = (value) => (typeof value === 'string' ? value.toLowerCase() : value);

/** What items are compared by: an attribute path ("a.b", for sort also "a,b"), case ignored unless asked
 *  for. */
function keyOf(attribute: Value | undefined, isCaseSensitive: boolean): Key {
  const shown: Key = isCaseSensitive ? (value) => value : lowered;
  if (attribute === undefined || attribute === null) return shown;
  if (typeof attribute !== 'string' || !attribute.includes(','))
    return (item) => shown(pathOf(item, attribute));
  const paths = attribute.split(',').map((path) => path.trim());
  return (item) => paths.map((path) => shown(pathOf(item, path)));
}

function sorted(items: readonly Value[], key: Key, isReversed: boolean): Value[] {
  const keyed = items.map((item) => ({ item, key: key(item) }));
  keyed.sort((a, b) => (isReversed ? compare(b.key, a.key) : compare(a.key, b.key)));
  return keyed.map(({ item }) => item);
}

const sort: Filter = (value, given) => {
  const [reverse = false, isCaseSensitive = false, attribute] = bind('sort', given, [
    'reverse',
    'case_sensitive',
    'attribute',
  ]);
  return sorted(iterate(value), keyOf(attribute, isTrue(isCaseSensitive)), isTrue(reverse));
};

const extreme =
  (sign: 1 | -1): Filter =>
  (value, given) => {
    const [isCaseSensitive = false, attribute] = bind('min', given, ['case_sensitive', 'attribute']);
    const key = keyOf(attribute, isTrue(isCaseSensitive));
    const items = iterate(value);
    if (items.length === 0) return new Undefined('No aggregated item, sequence was empty.');
    return items.reduce((best, item) => (compare(key(item), key(best)) * sign < 0 ? item : best));
  };

const unique: Filter = (value, given) => {
  const [isCaseSensitive = false, attribute] = bind('unique', given, ['case_sensitive', 'attribute']);
  const key = keyOf(attribute, isTrue(isCaseSensitive));
  const seen = new Dict();
  return new Generator(
    iterate(value).filter((item) => {
      const found = key(item);
      if (seen.has(found)) return false;
      seen.set(found, true);
      return true;
    }),
  );
};

const groupBy: Filter = (value, given) => {
  const [attribute = null, fallback, isCaseSensitive = false] = bind(
    'groupby',
    given,
    ['attribute', 'default', 'case_sensitive'],
    1,
  );
  const own: Key = (item) => pathOf(item, attribute, fallback);
  const key: Key = isTrue(isCaseSensitive) ? own : (item) => lowered(own(item));
  const groups: { key: Value; items: Value[] }[] = [];
  for (const item of sorted(iterate(value), key, false)) {
    const last = groups.at(-1);
    if (last !== undefined && isEqual(last.key, key(item))) last.items.push(item);
    else groups.push({ key: key(item), items: [item] });
  }
  return groups.map(({ items }) => new Group(own(items[0] ?? null), items));
};

/** A pair that also has names. */
class Group extends Tuple {
  constructor(grouper: Value, list: readonly Value[]) {
    super([grouper, list]);
  }

  override attribute(name: string): Value | undefined {
    return this.items[['grouper', 'list'].indexOf(name)];
  }
}

const dictSort: Filter = (value, given) => {
  const [isCaseSensitive = false, by = 'key', reverse = false] = bind('dictsort', given, [
    'case_sensitive',
    'by',
    'reverse',
  ]);
  if (!(value instanceof Dict)) return fail(`'${typeName(value)}' has no items`);
  const position =
    by === 'key' ? 0 : by === 'value' ? 1 : fail('You can only sort by either "key" or "value"');
  const key = keyOf(undefined, isTrue(isCaseSensitive));
  const pairs = value.entries().map((entry) => new Tuple(entry));
  return sorted(pairs, (pair) => key((pair as Tuple).items[position] ?? null), isTrue(reverse));
};

const batch: Filter = (value, given) => {
  const [count, filler] = bind('batch', given, ['linecount', 'fill_with'], 1);
  const size = Math.max(1, wholeNumber(count, 1));
  const items = iterate(value);
  const rows: Value[][] = [];
  for (let at = 0; at < items.length; at += size) rows.push(items.slice(at, at + size));
  const last = rows.at(-1);
  checkItemCount(filler === undefined || filler === null ? 0 : size);
  while (last !== undefined && filler !== undefined && filler !== null && last.length < size)
    last.push(filler);
  return new Generator(rows);
};

const slice: Filter = (value, given) => {
  const [count, filler] = bind('slice', given, ['slices', 'fill_with'], 1);
  const sliceCount = wholeNumber(count, 1);
  if (sliceCount < 1) fail('integer modulo by zero');
  checkItemCount(sliceCount);
  const items = iterate(value);
  const size = Math.floor(items.length / sliceCount);
  const longerCount = items.length % sliceCount;
  let at = 0;
  const columns = Array.from({ length: sliceCount }, (_, index) => {
    const next = at + size + (index < longerCount ? 1 : 0);
    const column = items.slice(at, next);
    at = next;
    return filler !== undefined && filler !== null && index >= longerCount ? [...column, filler] : column;
  });
  return new Generator(columns);
};

/** select, reject, selectattr, rejectattr: what to look at, which test it must pass, and which items stay. */
const select =
  (isAttribute: boolean, keeps: boolean): Filter =>
  (value, given, context) => {
    const [path, ...rest] = given.positional;
    if (isAttribute && path === undefined) fail('Missing parameter for attribute name');
    const [name, ...others] = isAttribute ? rest : given.positional;
    const looked: Key = isAttribute ? (item) => pathOf(item, path ?? null) : (item) => item;
    const passes = (item: Value) =>
      name === undefined
        ? isTrue(item)
        : context.test(str(name), item, { positional: others, named: given.named });
    return new Generator(
      isTrue(value) ? iterate(value).filter((item) => passes(looked(item)) === keeps) : [],
    );
  };

const map: Filter = (value, given, context) => {
  const change = mapping(given, context);
  return new Generator(isTrue(value) ? iterate(value).map(change) : []);
};

function mapping(given: Arguments, context: FilterContext): Key {
  const [name, ...rest] = given.positional;
  if (name !== undefined)
    return (item) => context.filter(str(name), item, { positional: rest, named: given.named });
  const [attribute, fallback] = bind('map', given, ['attribute', 'default']);
  if (attribute === undefined) return fail('map requires a filter argument');
  return (item) => pathOf(item, attribute, fallback);
}

const join: Filter = (value, given) => {
  const [between = '', attribute] = bind('join', given, ['d', 'attribute']);
  const items = iterate(value);
  const parts = items.map((item) =>
    str(attribute === undefined || attribute === null ? item : pathOf(item, attribute)),
  );
  return joinedText(parts, str(between));
};

const sum: Filter = (value, given) => {
  const [attribute, start = 0n] = bind('sum', given, ['attribute', 'start']);
  const shown: Key =
    attribute === undefined || attribute === null ? (item) => item : (item) => pathOf(item, attribute);
  return iterate(value).reduce((total, item) => arithmetic('+', total, shown(item)), start);
};

const end =
  (side: 'first' | 'last'): Filter =>
  (value) => {
    const items = iterate(value);
    return orElse(
      side === 'first' ? items[0] : items.at(-1),
      () => new Undefined(`No ${side} item, sequence was empty.`),
    );
  };

const reverse: Filter = (value) => {
  if (typeof value === 'string') return Array.from(value).reverse().join('');
  const items = [...iterate(value)].reverse();
  return value instanceof Generator ? items : new Generator(items);
};

const length: Filter = (value) => {
  const count = lengthOf(value);
  return count === null ? fail(`object of type '${typeName(value)}' has no len()`) : BigInt(count);
};

const fallBack: Filter = (value, given) => {
  const [fallback = '', isBoolean = false] = bind('default', given, ['default_value', 'boolean']);
  return value instanceof Undefined || (isTrue(isBoolean) && !isTrue(value)) ? fallback : value;
};

const items: Filter = (value) => {
  if (value instanceof Undefined) return new Generator([]);
  if (!(value instanceof Dict)) return fail('Can only get item pairs from a mapping.');
  return new Generator(value.entries().map((entry) => new Tuple(entry)));
};

/** An attribute only, never an item. */
const attribute: Filter = (value, given) => {
  const name = str(bind('attr', given, ['name'], 1)[0] ?? '');
  return orElse(
    name.startsWith('_') ? undefined : ownAttribute(value, name),
    () => new Undefined(`no attribute '${name}'`),
  );
};

export const sequenceFilters: readonly (readonly [string, Filter])[] = [
  ['sort', sort],
  ['min', extreme(1)],
  ['max', extreme(-1)],
  ['unique', unique],
  ['groupby', groupBy],
  ['dictsort', dictSort],
  ['batch', batch],
  ['slice', slice],
  ['select', select(false, true)],
  ['reject', select(false, false)],
  ['selectattr', select(true, true)],
  ['rejectattr', select(true, false)],
  ['map', map],
  ['join', join],
  ['sum', sum],
  ['first', end('first')],
  ['last', end('last')],
  ['random', end('first')],
  ['reverse', reverse],
  ['length', length],
  ['count', length],
  ['default', fallBack],
  ['d', fallBack],
  ['items', items],
  ['attr', attribute],
];
