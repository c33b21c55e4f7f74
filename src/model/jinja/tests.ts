/** The tests of `is`. Used by evaluate.ts and the select filters. */
import { bind } from './arguments.js';
import { isEqual } from './compare.js';
import { arithmetic, isCompared, isIn } from './operators.js';
import { str } from './text.js';
import {
  type Arguments,
  Callable,
  Dict,
  DictView,
  fail,
  isList,
  isNumeric,
  itemsOf,
  lengthOf,
  Tuple,
  Undefined,
  type Value,
} from './values.js';

type Test = (value: Value, given: Arguments) => boolean;

/** How a test asks whether a filter is known, without importing filters.ts in a circle. */
export interface Registry {
  readonly filters: { has(name: string): boolean };
}

const alone =
  (check: (value: Value) => boolean): Test =>
  (value, given) => {
    bind('test', given, []);
    return check(value);
  };
const compared =
  (operator: string): Test =>
  (value, given) =>
    isCompared(operator, value, bind('test', given, ['other'], 1)[0] ?? null);

const tests: ReadonlyMap<string, Test> = new Map<string, Test>([
  ['defined', alone((value) => !(value instanceof Undefined))],
  ['undefined', alone((value) => value instanceof Undefined)],
  ['none', alone((value) => value === null)],
  ['boolean', alone((value) => typeof value === 'boolean')],
  ['true', alone((value) => value === true)],
  ['false', alone((value) => value === false)],
  ['integer', alone((value) => typeof value === 'bigint')],
  ['float', alone((value) => typeof value === 'number')],
  ['number', alone(isNumeric)],
  ['string', alone((value) => typeof value === 'string')],
  ['mapping', alone((value) => value instanceof Dict)],
  ['sequence', alone((value) => lengthOf(value) !== null && !(value instanceof DictView))],
  ['iterable', alone((value) => isIterable(value))],
  ['callable', alone((value) => value instanceof Callable || value instanceof Undefined)],
  ['escaped', alone(() => false)],
  ['odd', alone((value) => isEqual(arithmetic('%', value, 2n), 1n))],
  ['even', alone((value) => isEqual(arithmetic('%', value, 2n), 0n))],
  [
    'divisibleby',
    (value, given) => isEqual(arithmetic('%', value, bind('divisibleby', given, ['num'], 1)[0] ?? null), 0n),
  ],
  ['lower', alone((value) => /\p{Cased}/u.test(str(value)) && str(value) === str(value).toLowerCase())],
  ['upper', alone((value) => /\p{Cased}/u.test(str(value)) && str(value) === str(value).toUpperCase())],
  ['in', (value, given) => isIn(value, bind('in', given, ['seq'], 1)[0] ?? null)],
  ['sameas', (value, given) => value === (bind('sameas', given, ['other'], 1)[0] ?? null)],
  ...[
    ...[
      ['==', 'eq', 'equalto'],
      ['!=', 'ne'],
      ['<', 'lt', 'lessthan'],
      ['<=', 'le'],
      ['>', 'gt', 'greaterthan'],
      ['>=', 'ge'],
    ],
  ].flatMap(([operator = '', ...names]) =>
    [operator, ...names].map((name) => [name, compared(operator)] as [string, Test]),
  ),
]);

/** A generator is looked at, not read. */
function isIterable(value: Value): boolean {
  if (value === null || isNumeric(value) || value instanceof Callable) return false;
  if (typeof value === 'string' || isList(value) || value instanceof Tuple) return true;
  return lengthOf(value) !== null || value.typeName === 'generator' || itemsOf(value) !== null;
}

export function isPassed(name: string, value: Value, given: Arguments, registry: Registry): boolean {
  if (name === 'filter') return registry.filters.has(str(value));
  if (name === 'test') return tests.has(str(value)) || ['filter', 'test'].includes(str(value));
  const test = tests.get(name) ?? fail(`No test named '${name}'.`);
  return test(value, given);
}
