/** Python's arithmetic, membership and comparison. Used by evaluate.ts, filters and tests. */

import { compare, isEqual } from './compare.js';
import { percentFormat } from './percent-format.js';
import { str } from './text.js';
import {
  checkItemCount,
  Dict,
  fail,
  isList,
  isNumeric,
  isTrue,
  iterate,
  joinedText,
  repeatedText,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.js';

/** Where Python would go on to fill the memory: more bits than any template needs. */
const exponentMax = 10_000n;

export function arithmetic(operator: string, left: Value, right: Value): Value {
  if (left instanceof Undefined) left.fail();
  if (operator === '%' && typeof left === 'string') return percentFormat(left, right);
  if (right instanceof Undefined) right.fail();
  if (isNumeric(left) && isNumeric(right)) return numeric(operator, left, right);
  if (operator === '+') {
    if (typeof left === 'string' && typeof right === 'string') return left + right;
    if (isList(left) && isList(right)) return added(left, right);
    if (left instanceof Tuple && right instanceof Tuple) return new Tuple(added(left.items, right.items));
  }
  if (operator === '*') {
    if (typeof right === 'bigint' || typeof right === 'boolean') return repeated(left, Number(right));
    if (typeof left === 'bigint' || typeof left === 'boolean') return repeated(right, Number(left));
  }
  return fail(`unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`);
}

function added(left: readonly Value[], right: readonly Value[]): Value[] {
  checkItemCount(left.length + right.length);
  return left.concat(right);
}

function repeated(value: Value, times: number): Value {
  const count = Math.max(0, times);
  const copies = (items: readonly Value[]) => {
    checkItemCount(items.length * count);
    return Array.from({ length: items.length * count }, (_, at) => items[at % items.length] ?? null);
  };
  if (typeof value === 'string') return repeatedText(value, count);
  if (isList(value)) return copies(value);
  if (value instanceof Tuple) return new Tuple(copies(value.items));
  return fail(`can't multiply '${typeName(value)}' by 'int'`);
}

function numeric(operator: string, left: boolean | bigint | number, right: boolean | bigint | number): Value {
  const isFloat = typeof left === 'number' || typeof right === 'number';
  if (['/', '//', '%'].includes(operator) && Number(right) === 0) fail('division by zero');
  if (operator === '**' && Number(left) === 0 && Number(right) < 0)
    fail('0.0 cannot be raised to a negative power');
  if (operator === '/') return quotient(left, right);
  if (operator === '**' && !isFloat && BigInt(right as bigint) < 0n) return Number(left) ** Number(right);
  return isFloat
    ? floats(operator, Number(left), Number(right))
    : integers(operator, BigInt(left as bigint), BigInt(right as bigint));
}

/** Of integers too large for a float each, still near enough. */
function quotient(left: boolean | bigint | number, right: boolean | bigint | number): number {
  return Number(left) / Number(right);
}

function floats(operator: string, left: number, right: number): number {
  switch (operator) {
    case '+':
      return left + right;
    case '-':
      return left - right;
    case '*':
      return left * right;
    case '//':
      return Math.floor(left / right);
    case '%': {
      const rest = left % right;
      if (rest === 0) return right < 0 ? -0 : 0;
      return rest < 0 !== right < 0 ? rest + right : rest;
    }
    default:
      return left ** right;
  }
}

function integers(operator: string, left: bigint, right: bigint): bigint {
  switch (operator) {
    case '+':
      return left + right;
    case '-':
      return left - right;
    case '*':
      return left * right;
    case '//':
      return (left - modulo(left, right)) / right;
    case '%':
      return modulo(left, right);
    default:
      return right <= exponentMax ? left ** right : fail(`${left} ** ${right} is too large`);
  }
}

/** With the divisor's sign. */
function modulo(left: bigint, right: bigint): bigint {
  const rest = left % right;
  return rest !== 0n && rest < 0n !== right < 0n ? rest + right : rest;
}

export function negated(operator: 'not' | '-' | '+', value: Value): Value {
  if (operator === 'not') return !isTrue(value);
  if (value instanceof Undefined) value.fail();
  if (!isNumeric(value)) return fail(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  const number = typeof value === 'boolean' ? BigInt(value) : value;
  return operator === '-' ? -number : number;
}

export function isIn(value: Value, container: Value): boolean {
  if (typeof container === 'string') {
    if (typeof value === 'string') return container.includes(value);
    return fail(`'in <string>' requires string as left operand, not ${typeName(value)}`);
  }
  if (container instanceof Dict) return container.has(value);
  return iterate(container).some((item) => isEqual(item, value));
}

export function isCompared(operator: string, left: Value, right: Value): boolean {
  switch (operator) {
    case '==':
      return isEqual(left, right);
    case '!=':
      return !isEqual(left, right);
    case 'in':
      return isIn(left, right);
    case 'not in':
      return !isIn(left, right);
    case '<':
      return compare(left, right, operator) < 0;
    case '<=':
      return compare(left, right, operator) <= 0;
    case '>':
      return compare(left, right, operator) > 0;
    default:
      return compare(left, right, operator) >= 0;
  }
}

export function concatenated(values: readonly Value[]): string {
  return joinedText(values.map(str));
}
