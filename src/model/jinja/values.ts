/** Python's values as a chat template sees them, and what Python does with them: truth, length, iteration.
 *  Used by all of jinja/. int is a bigint and float a number, so that 3 and 3.0 stay apart and integers never
 *  lose digits; None is null. */

export class TemplateError extends Error {}

export type Value = null | boolean | bigint | number | string | readonly Value[] | PyObject;

/** Whatever is not a scalar or a list. */
export abstract class PyObject {
  abstract readonly typeName: string;

  /** undefined: there is none of this name. */
  attribute(_name: string): Value | undefined {
    return undefined;
  }
}

export class Undefined extends PyObject {
  readonly typeName = 'Undefined';
  readonly #message: string;

  constructor(message: string) {
    super();
    this.#message = message;
  }

  fail(): never {
    throw new TemplateError(this.#message);
  }
}

export class Tuple extends PyObject {
  readonly typeName: string = 'tuple';
  readonly items: readonly Value[];

  constructor(items: readonly Value[]) {
    super();
    this.items = items;
  }
}

/** Keys are equal as in Python: 1, 1.0 and True are one key, "1" is another. */
export class Dict extends PyObject {
  readonly typeName = 'dict';
  readonly #entries = new Map<unknown, [Value, Value]>();

  static of(entries: Iterable<readonly [Value, Value]>): Dict {
    const dict = new Dict();
    for (const [key, value] of entries) dict.set(key, value);
    return dict;
  }

  /** Only while a dict is being made: templates cannot change one. */
  set(key: Value, value: Value): void {
    const hash = hashKey(key);
    const known = this.#entries.get(hash);
    if (known === undefined) this.#entries.set(hash, [key, value]);
    else known[1] = value;
  }

  get(key: Value): Value | undefined {
    return this.#entries.get(hashKey(key))?.[1];
  }

  has(key: Value): boolean {
    return this.#entries.has(hashKey(key));
  }

  get size(): number {
    return this.#entries.size;
  }

  entries(): (readonly [Value, Value])[] {
    return [...this.#entries.values()];
  }
}

export class DictView extends PyObject {
  readonly typeName: string;
  readonly values: readonly Value[];

  constructor(kind: 'keys' | 'values' | 'items', values: readonly Value[]) {
    super();
    this.typeName = `dict_${kind}`;
    this.values = values;
  }
}

export class Range extends PyObject {
  readonly typeName = 'range';
  readonly start: bigint;
  readonly stop: bigint;
  readonly step: bigint;

  constructor(start: bigint, stop: bigint, step: bigint) {
    super();
    this.start = start;
    this.stop = stop;
    this.step = step;
  }

  get length(): number {
    const distance = this.step > 0n ? this.stop - this.start : this.start - this.stop;
    const step = this.step > 0n ? this.step : -this.step;
    return distance <= 0n ? 0 : Number((distance + step - 1n) / step);
  }

  list(): Value[] {
    return Array.from({ length: this.length }, (_, index) => this.start + BigInt(index) * this.step);
  }
}

/** What select, map and the like give: read once, and without a length. */
export class Generator extends PyObject {
  readonly typeName = 'generator';
  #items: readonly Value[];

  constructor(items: readonly Value[]) {
    super();
    this.#items = items;
  }

  take(): readonly Value[] {
    const items = this.#items;
    this.#items = [];
    return items;
  }
}

export interface Arguments {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

export class Callable extends PyObject {
  readonly typeName: string = 'function';
  readonly name: string;
  readonly call: (given: Arguments) => Value;

  constructor(name: string, call: (given: Arguments) => Value) {
    super();
    this.name = name;
    this.call = call;
  }
}

/** An object with named attributes: namespace(), loop, a macro's module and so on. */
export class Attributes extends PyObject {
  readonly typeName: string;
  readonly values: Map<string, Value>;

  constructor(typeName: string, values: Iterable<readonly [string, Value]>) {
    super();
    this.typeName = typeName;
    this.values = new Map(values);
  }

  override attribute(name: string): Value | undefined {
    return this.values.get(name);
  }
}

export function isList(value: Value): value is readonly Value[] {
  return Array.isArray(value);
}

export function isNumeric(value: Value): value is boolean | bigint | number {
  return typeof value === 'bigint' || typeof value === 'number' || typeof value === 'boolean';
}

export function typeName(value: Value): string {
  if (value === null) return 'NoneType';
  if (isList(value)) return 'list';
  if (typeof value === 'object') return value.typeName;
  return { boolean: 'bool', bigint: 'int', number: 'float', string: 'str' }[typeof value as 'string'];
}

/** JSON-like JavaScript data → Python's. A whole number is an int: JSON's 3 and 3.0 are one number in
 *  JavaScript. */
export function fromJs(value: unknown): Value {
  if (value === null || value === undefined) return null;
  if (typeof value === 'number')
    return Number.isSafeInteger(value) && !Object.is(value, -0) ? BigInt(value) : value;
  if (typeof value === 'string' || typeof value === 'boolean' || typeof value === 'bigint') return value;
  if (value instanceof PyObject) return value;
  if (Array.isArray(value)) return value.map(fromJs);
  return Dict.of(Object.entries(value as object).map(([key, entry]) => [key, fromJs(entry)] as const));
}

export function isTrue(value: Value): boolean {
  if (isNumeric(value)) return Number(value) !== 0;
  if (value === null || value instanceof Undefined) return false;
  if (typeof value === 'string' || isList(value)) return value.length > 0;
  const length = lengthOf(value);
  return length === null || length > 0;
}

/** null: this value has no length. */
export function lengthOf(value: Value): number | null {
  if (typeof value === 'string') return hasSurrogates(value) ? Array.from(value).length : value.length;
  if (isList(value)) return value.length;
  if (value instanceof Tuple) return value.items.length;
  if (value instanceof Dict) return value.size;
  if (value instanceof DictView) return value.values.length;
  if (value instanceof Range) return value.length;
  return value instanceof Undefined ? 0 : null;
}

/** null: this value cannot be iterated. */
export function itemsOf(value: Value): readonly Value[] | null {
  if (typeof value === 'string') {
    checkItemCount(value.length);
    return Array.from(value);
  }
  if (isList(value)) return value;
  if (value instanceof Tuple) return value.items;
  if (value instanceof Dict) return value.entries().map(([key]) => key);
  if (value instanceof DictView) return value.values;
  if (value instanceof Range) return value.list();
  if (value instanceof Generator) return value.take();
  return value instanceof Undefined ? [] : null;
}

export function iterate(value: Value): readonly Value[] {
  return itemsOf(value) ?? fail(`'${typeName(value)}' object is not iterable`);
}

/** Longer than any prompt. One piece of memory that is larger than what a thread has to spare beyond its
 *  limit ends the process instead of the thread: nothing may grow to that in one step. */
const textLengthMax = 2 ** 21;
const itemCountMax = 2 ** 20;

export function checkTextLength(length: number): void {
  if (length > textLengthMax) fail(`a text of ${length} characters is too long (at most ${textLengthMax})`);
}

export function checkItemCount(count: number): void {
  if (count > itemCountMax) fail(`a list of ${count} items is too long (at most ${itemCountMax})`);
}

/** The same value; fails when it is too large. */
export function bounded(value: Value): Value {
  if (typeof value === 'string') checkTextLength(value.length);
  else if (isList(value)) checkItemCount(value.length);
  return value;
}

export function repeatedText(text: string, count: number): string {
  checkTextLength(text.length * count);
  return text.repeat(text === '' ? 0 : count);
}

/** `parts.join(between)`, of bounded length. */
export function joinedText(parts: readonly string[], between = ''): string {
  let length = between.length * parts.length;
  for (const part of parts) length += part.length;
  checkTextLength(length);
  return parts.join(between);
}

export function hasSurrogates(text: string): boolean {
  return /[\ud800-\udfff]/.test(text);
}

export function isHashable(value: Value): boolean {
  return value instanceof Tuple ? value.items.every(isHashable) : !(isList(value) || value instanceof Dict);
}

function hashKey(key: Value): unknown {
  if (key instanceof Undefined) return Undefined;
  if (typeof key === 'boolean') return BigInt(key);
  if (typeof key === 'number') return Number.isInteger(key) ? BigInt(key) : key;
  if (isList(key) || key instanceof Dict) return fail(`unhashable type: '${typeName(key)}'`);
  if (key instanceof Tuple)
    return `\0tuple(${key.items.map((item) => `${typeof item}:${String(hashKey(item))}`).join('\0')})`;
  return key;
}

/** `value ?? other()` for a value that may be None: only undefined means that there is none. */
export function orElse(value: Value | undefined, other: () => Value): Value {
  return value === undefined ? other() : value;
}

export function fail(message: string): never {
  throw new TemplateError(message);
}
