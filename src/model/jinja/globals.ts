/** What every template can call: jinja2's globals, and the two that transformers adds. Used by
 *  template.ts. */
import { bind, text, wholeNumber } from './arguments.js';
import { strftime } from './strftime.js';
import {
  type Arguments,
  Attributes,
  Callable,
  Dict,
  fail,
  iterate,
  Range,
  TemplateError,
  Tuple,
  Undefined,
  type Value,
} from './values.js';

/** The sandbox's own limit. */
const rangeMax = 100_000;

const range = (given: Arguments): Value => {
  const [first, second, third] = bind('range', given, ['start', 'stop', 'step'], 1);
  const whole = (value: Value | undefined, fallback: number) => BigInt(wholeNumber(value, fallback));
  const made =
    second === undefined
      ? new Range(0n, whole(first, 0), 1n)
      : new Range(whole(first, 0), whole(second, 0), whole(third, 1));
  if (made.step === 0n) fail('range() arg 3 must not be zero');
  return made.length <= rangeMax
    ? made
    : fail(`Range too big. The sandbox blocks ranges larger than MAX_RANGE (${rangeMax}).`);
};

/** dict(mapping or pairs, **names). */
function made(given: Arguments): (readonly [Value, Value])[] {
  const [source] = given.positional;
  const own =
    source === undefined ? [] : source instanceof Dict ? source.entries() : iterate(source).map(pair);
  return [...own, ...given.named];
}

function pair(value: Value): readonly [Value, Value] {
  const [key, item, ...rest] = iterate(value);
  return key === undefined || item === undefined || rest.length > 0
    ? fail('dict() needs pairs')
    : [key, item];
}

const namespace = (given: Arguments): Value =>
  new Attributes(
    'Namespace',
    made(given).map(([name, value]) => [String(name), value] as const),
  );

const cycler = ({ positional }: Arguments): Value => {
  if (positional.length === 0) fail('at least one item has to be provided');
  const cycle = new Attributes('Cycler', [['current', positional[0] ?? null]]);
  let at = 0;
  const moveTo = (next: number): Value => {
    at = next % positional.length;
    cycle.values.set('current', positional[at] ?? null);
    return null;
  };
  cycle.values.set('reset', new Callable('reset', () => moveTo(0)));
  cycle.values.set(
    'next',
    new Callable('next', () => {
      const current = positional[at] ?? null;
      moveTo(at + 1);
      return current;
    }),
  );
  return cycle;
};

const joiner = (given: Arguments): Value => {
  const between = bind('joiner', given, ['sep'])[0] ?? ', ';
  let isUsed = false;
  return new Callable('joiner', () => {
    if (isUsed) return between;
    isUsed = true;
    return '';
  });
};

export function globals(now: () => Date): ReadonlyMap<string, Value> {
  const functions: Record<string, (given: Arguments) => Value> = {
    range,
    dict: (given) => Dict.of(made(given)),
    namespace,
    cycler,
    joiner,
    lipsum: () => fail('lipsum is not available in a chat template'),
    raise_exception: (given) => {
      const message = bind('raise_exception', given, ['message'], 1)[0] ?? null;
      throw new TemplateError(
        message instanceof Undefined || message instanceof Tuple ? 'raise_exception' : text(message),
      );
    },
    strftime_now: (given) => strftime(text(bind('strftime_now', given, ['format'], 1)[0]), now()),
  };
  return new Map(Object.entries(functions).map(([name, run]) => [name, new Callable(name, run)]));
}
