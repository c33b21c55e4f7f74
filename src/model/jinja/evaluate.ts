/** Expressions → values. Used by render.ts. */
import { attributeOf, itemOf, sliceOf } from './access.js';
import { call } from './arguments.js';
import { applyFilter, filters } from './filters.js';
import type { Call, Expression } from './nodes.js';
import { arithmetic, concatenated, isCompared, negated } from './operators.js';
import type { Scope } from './scope.js';
import { isPassed } from './tests.js';
import {
  type Arguments,
  bounded,
  Dict,
  fail,
  isTrue,
  iterate,
  orElse,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.js';

const context = {
  filter: (name: string, value: Value, given: Arguments): Value => applyFilter(name, value, given, context),
  test: (name: string, value: Value, given: Arguments): boolean => isPassed(name, value, given, { filters }),
};

/** `input`: what a filter without a value takes, the text of its block. */
export function evaluate(node: Expression, scope: Scope, input: Value = null): Value {
  return bounded(evaluated(node, scope, input));
}

function evaluated(node: Expression, scope: Scope, input: Value): Value {
  switch (node.kind) {
    case 'constant':
      return node.value;
    case 'name':
      return orElse(scope.get(node.name), () => new Undefined(`'${node.name}' is undefined`));
    case 'list':
      return node.items.map((item) => evaluate(item, scope));
    case 'tuple':
      return new Tuple(node.items.map((item) => evaluate(item, scope)));
    case 'dict':
      return Dict.of(
        node.entries.map(([key, value]) => [evaluate(key, scope), evaluate(value, scope)] as const),
      );
    case 'attribute':
      return attributeOf(evaluate(node.of, scope), node.name);
    case 'item':
      return subscripted(evaluate(node.of, scope), node.key, scope);
    case 'slice':
      return fail('a slice stands in brackets only');
    case 'call':
      return call(evaluate(node.of, scope), argumentsOf(node.call, scope));
    case 'filter': {
      const value = node.of === null ? input : evaluate(node.of, scope, input);
      return context.filter(node.name, value, argumentsOf(node.call, scope));
    }
    case 'test':
      return context.test(node.name, evaluate(node.of, scope), argumentsOf(node.call, scope));
    case 'unary':
      return negated(node.operator, evaluate(node.of, scope));
    case 'binary':
      return binary(node, scope);
    case 'concat':
      return concatenated(node.items.map((item) => evaluate(item, scope)));
    case 'compare':
      return compared(node, scope);
    case 'if':
      if (isTrue(evaluate(node.test, scope))) return evaluate(node.then, scope);
      return node.else === null
        ? new Undefined('the inline if-expression has no else')
        : evaluate(node.else, scope);
  }
}

function subscripted(value: Value, key: Expression, scope: Scope): Value {
  if (key.kind !== 'slice') return itemOf(value, evaluate(key, scope));
  return sliceOf(
    value,
    key.bounds.map((bound) => (bound === null ? undefined : evaluate(bound, scope))),
  );
}

function binary({ operator, left, right }: Extract<Expression, { kind: 'binary' }>, scope: Scope): Value {
  const value = evaluate(left, scope);
  if (operator === 'and') return isTrue(value) ? evaluate(right, scope) : value;
  if (operator === 'or') return isTrue(value) ? value : evaluate(right, scope);
  return arithmetic(operator, value, evaluate(right, scope));
}

/** a < b < c: each neighbour, up to the first that fails. */
function compared({ first, rest }: Extract<Expression, { kind: 'compare' }>, scope: Scope): boolean {
  let left = evaluate(first, scope);
  for (const [operator, node] of rest) {
    const right = evaluate(node, scope);
    if (!isCompared(operator, left, right)) return false;
    left = right;
  }
  return true;
}

export function argumentsOf({ positional, named, star, doubleStar }: Call, scope: Scope): Arguments {
  const values = positional.map((argument) => evaluate(argument, scope));
  const names = new Map(named.map(([name, argument]) => [name, evaluate(argument, scope)]));
  if (star !== null) values.push(...iterate(evaluate(star, scope)));
  if (doubleStar !== null) {
    const more = evaluate(doubleStar, scope);
    if (!(more instanceof Dict)) return fail(`argument after ** must be a mapping, not ${typeName(more)}`);
    for (const [name, value] of more.entries()) names.set(String(name), value);
  }
  return { positional: values, named: names };
}
