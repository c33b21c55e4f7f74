/** Whether what another process has sent is what it should be: small checks that are put together to the
 *  shape of a body. Used by worker/ for the messages, at the one place where they come in (protocol.ts).
 *  Invariants: a check names every field of its type, or it does not compile; it looks at each value once, so
 *  it takes no longer than parsing did; what it says is wrong never quotes a value, which may be a secret or
 *  somebody's text. */

declare const checked: unique symbol;
/** Null: it is a T. Else what is wrong, from the place on: `.pid is a string, not a whole number`. */
export type Check<T> = ((value: unknown) => string | null) & { readonly [checked]?: T };
declare const absent: unique symbol;
type OptionalCheck<T> = Check<T> & { readonly [absent]: true };
type FieldCheck<T, K extends keyof T> =
  object extends Pick<T, K> ? OptionalCheck<Required<T>[K]> : Check<T[K]>;
type Fields<T> = { readonly [K in keyof T]-?: FieldCheck<T, K> };

export const text: Check<string> = (value) => (typeof value === 'string' ? null : isNot(value, 'a string'));
export const truth: Check<boolean> = (value) =>
  typeof value === 'boolean' ? null : isNot(value, 'true or false');
/** JSON has no other ones. */
export const number: Check<number> = (value) =>
  Number.isFinite(value) ? null : isNot(value, 'a finite number');
export const integer: Check<number> = (value) =>
  Number.isSafeInteger(value) ? null : isNot(value, 'an integer');
export const count: Check<number> = (value) =>
  Number.isSafeInteger(value) && (value as number) >= 0 ? null : isNot(value, 'a count');
export const positive: Check<number> = (value) =>
  Number.isSafeInteger(value) && (value as number) > 0 ? null : isNot(value, 'a count from 1');
export const nothing: Check<null> = (value) => (value === null ? null : isNot(value, 'null'));

export function oneOf<const T extends string | number>(values: readonly T[]): Check<T> {
  const known = new Set<unknown>(values);
  return (value) => (known.has(value) ? null : isNot(value, `one of ${values.join(', ')}`));
}

export function nullable<T>(check: Check<T>): Check<T | null> {
  return (value) => (value === null ? null : check(value));
}

/** A field that may be absent. */
export function optional<T>(check: Check<T>): OptionalCheck<T> {
  return ((value: unknown) => (value === undefined ? null : check(value))) as OptionalCheck<T>;
}

export function list<T>(item: Check<T>, countMax = Number.POSITIVE_INFINITY): Check<readonly T[]> {
  return (value) => {
    if (!Array.isArray(value)) return isNot(value, 'a list');
    if (value.length > countMax) return ` is a list of ${value.length}, not of at most ${countMax}`;
    for (let i = 0; i < value.length; i++) {
      const wrong = item(value[i]);
      if (wrong !== null) return `[${i}]${wrong}`;
    }
    return null;
  };
}

export function pair<A, B>(first: Check<A>, second: Check<B>): Check<readonly [A, B]> {
  return (value) => {
    if (!Array.isArray(value) || value.length !== 2) return isNot(value, 'a pair');
    return first(value[0]) ?? second(value[1]);
  };
}

export function either<A, B>(first: Check<A>, second: Check<B>): Check<A | B> {
  return (value) => (first(value) === null ? null : second(value));
}

/** Fields that T does not have are passed over. */
export function shape<T extends object>(fields: Fields<T>): Check<T> {
  const names = Object.entries(fields) as [keyof T & string, Check<unknown>][];
  return (value) => {
    if (typeof value !== 'object' || value === null) return isNot(value, 'an object');
    for (const [name, check] of names) {
      const wrong = check((value as Record<string, unknown>)[name]);
      if (wrong !== null) return `.${name}${wrong}`;
    }
    return null;
  };
}

/** Objects that differ by `kind`. */
export function byKind<T extends { readonly kind: string }>(
  checks: {
    readonly [K in T['kind']]: Check<Extract<T, { readonly kind: K }>>;
  },
): Check<T> {
  const byName = new Map<unknown, Check<unknown>>(Object.entries(checks) as [string, Check<unknown>][]);
  return (value) => {
    if (typeof value !== 'object' || value === null) return isNot(value, 'an object');
    const check = byName.get((value as { kind?: unknown }).kind);
    return check === undefined ? '.kind is not known' : check(value);
  };
}

function isNot(value: unknown, expected: string): string {
  if (value === undefined) return ' is missing';
  if (value === null || Array.isArray(value))
    return ` is ${value === null ? 'null' : 'a list'}, not ${expected}`;
  return typeof value === 'object'
    ? ` is an object, not ${expected}`
    : ` is a ${typeof value}, not ${expected}`;
}
