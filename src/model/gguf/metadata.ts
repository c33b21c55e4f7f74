/** The keys of a GGUF file, with typed access. Made by header.ts, read by what makes config and tokenizer
 *  of them; the invariant: a value is read with its type and range checked, or a ModelError names file,
 *  key and value. */
import { ModelError } from '../../base/errors.js';
import { describeJson } from '../json-file.js';

/** Strings and numbers of one type, decoded when asked for. */
export interface MetadataArray {
  readonly kind: 'strings' | 'numbers';
  readonly count: number;
  readonly read: () => readonly string[] | readonly number[];
}

export type MetadataValue = string | number | boolean | MetadataArray;

export class Metadata {
  readonly file: string;
  readonly #values: ReadonlyMap<string, MetadataValue>;

  constructor(file: string, values: ReadonlyMap<string, MetadataValue>) {
    this.file = file;
    this.#values = values;
  }

  has(key: string): boolean {
    return this.#values.has(key);
  }

  get keys(): readonly string[] {
    return [...this.#values.keys()];
  }

  text(key: string): string | null {
    const value = this.#values.get(key) ?? null;
    return value === null || typeof value === 'string' ? value : this.fail(key, 'a string');
  }

  number(key: string): number | null {
    const value = this.#values.get(key) ?? null;
    if (value === null || (typeof value === 'number' && Number.isFinite(value))) return value;
    return this.fail(key, 'a number');
  }

  /** A whole number from `min` on; required without `fallback`. A list must say the same of every layer. */
  count(key: string, fallback?: number, min = 1): number {
    const value = this.#values.get(key);
    const list: readonly unknown[] = typeof value === 'object' ? value.read() : [value];
    const each = new Set(list);
    if (each.size > 1)
      this.fail(key, 'the same for every layer: models whose layers differ are not supported');
    const [found] = each.size === 0 || value === undefined ? [fallback] : each;
    if (typeof found === 'number' && Number.isInteger(found) && found >= min && found <= 2 ** 31 - 1)
      return found;
    return this.fail(key, `an integer from ${min} on`);
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.#values.get(key) ?? fallback;
    return typeof value === 'boolean' ? value : this.fail(key, 'true or false');
  }

  texts(key: string): readonly string[] | null {
    return this.#array(key, 'strings') as readonly string[] | null;
  }

  numbers(key: string): readonly number[] | null {
    return this.#array(key, 'numbers') as readonly number[] | null;
  }

  /** @throws ModelError: this key is not what it must be. */
  fail(key: string, expected: string): never {
    const value = this.#values.get(key);
    const got =
      value === undefined
        ? 'it is missing'
        : `got ${typeof value === 'object' ? `a list of ${value.count} ${value.kind}` : describeJson(value)}`;
    throw new ModelError(`${this.file}: key "${key}" must be ${expected}, ${got}`);
  }

  #array(key: string, kind: MetadataArray['kind']): readonly string[] | readonly number[] | null {
    const value = this.#values.get(key);
    if (value === undefined) return null;
    return typeof value === 'object' && value.kind === kind
      ? value.read()
      : this.fail(key, `a list of ${kind}`);
  }
}
