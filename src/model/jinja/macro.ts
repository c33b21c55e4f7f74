/** `{% macro %}` and `{% call %}` as values that can be called. Used by render.ts. */
import { evaluate } from './evaluate.js';
import type { MacroBody } from './nodes.js';
import type { Scope } from './scope.js';
import { type Arguments, Callable, Dict, fail, orElse, Tuple, Undefined, type Value } from './values.js';

export class Macro extends Callable {
  override readonly typeName = 'Macro';
  readonly #macro: MacroBody;

  constructor(macro: MacroBody, run: (given: Arguments) => Value) {
    super(macro.name, run);
    this.#macro = macro;
  }

  override attribute(name: string): Value | undefined {
    const { names, reads } = this.#macro;
    switch (name) {
      case 'name':
        return this.name;
      case 'arguments':
        return new Tuple(names);
      case 'catch_kwargs':
        return reads.has('kwargs');
      case 'catch_varargs':
        return reads.has('varargs');
      case 'caller':
        return reads.has('caller');
      default:
        return undefined;
    }
  }
}

/** The parameters, and what the body reads beyond them. */
export function bindMacro({ name, names, defaults, reads }: MacroBody, given: Arguments, inner: Scope): void {
  const rest = given.positional.slice(names.length);
  const known = new Set(names.slice(given.positional.length));
  const unknown = [...given.named].filter(
    ([key]) => !known.has(key) && !(key === 'caller' && reads.has('caller')),
  );
  if (rest.length > 0 && !reads.has('varargs'))
    fail(`macro '${name}' takes not more than ${names.length} argument(s)`);
  if (unknown.length > 0 && !reads.has('kwargs'))
    fail(`macro '${name}' takes no keyword argument '${unknown[0]?.[0]}'`);
  if (reads.has('varargs')) inner.set('varargs', new Tuple(rest));
  if (reads.has('kwargs')) inner.set('kwargs', Dict.of(unknown));
  inner.set('caller', given.named.get('caller') ?? new Undefined('No caller defined'));
  for (const [index, parameter] of names.entries()) {
    const fallback = defaults[index - (names.length - defaults.length)];
    const value = index < given.positional.length ? given.positional[index] : given.named.get(parameter);
    const otherwise = () =>
      fallback === undefined
        ? new Undefined(`parameter '${parameter}' was not provided`)
        : evaluate(fallback, inner);
    inner.set(parameter, orElse(value, otherwise));
  }
}
