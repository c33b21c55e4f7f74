/** Typed access to the fields of a config.json. Used by config.ts, rope-config.ts, generation-config.ts and
 *  text/; the invariant: a field is read with its type and range checked, or a ModelError names file, field
 *  and value. `null` counts as absent, as in Python. */
import { ModelError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { describeJson, isJsonObject, type JsonObject, type JsonValue } from './json-file.js';

const countMax = 2 ** 31 - 1;
/** Above any vocabulary there is. */
export const tokenIdMax = 2 ** 24 - 1;
/** A model ends a text with a handful of tokens; every request carries them. */
const tokenIdCountMax = 1024;

/** Steps of a tokenizer: known ones have up to ten. */
const stepCountMax = 64;

export class ConfigFields {
  readonly file: string;
  readonly #values: JsonObject;
  readonly #prefix: string;

  constructor(file: string, values: JsonObject, prefix = '') {
    this.file = file;
    this.#values = values;
    this.#prefix = prefix;
  }

  has(name: string): boolean {
    return this.#values[name] !== undefined && this.#values[name] !== null;
  }

  raw(name: string): JsonValue | undefined {
    return this.#values[name] ?? undefined;
  }

  /** A positive integer; without `fallback` the field is required. */
  count(name: string, fallback?: number, max: number = countMax): number {
    const value = this.#numberOr(name, fallback);
    if (!Number.isInteger(value) || value < 1) this.fail(name, 'a positive integer');
    if (value > max) this.fail(name, `at most ${max}`);
    return value;
  }

  /** A whole number from 0 on; `fallback` when absent. */
  wholeNumber(name: string, fallback: number): number {
    const value = this.#numberOr(name, fallback);
    if (!Number.isInteger(value) || value < 0 || value > countMax) this.fail(name, 'an integer from 0 on');
    return value;
  }

  /** A positive integer, or null when absent. */
  optionalCount(name: string): number | null {
    return this.has(name) ? this.count(name) : null;
  }

  /** A finite number above zero. */
  positive(name: string, fallback?: number): number {
    const value = this.#numberOr(name, fallback);
    if (!Number.isFinite(value) || value <= 0) this.fail(name, 'a positive number');
    return value;
  }

  /** null when the config says null; `whenMissing` when it says nothing. */
  optionalNumber(name: string, whenMissing: number | null = null): number | null {
    const value = this.#values[name] === undefined ? whenMissing : this.#values[name];
    if (value !== null && (typeof value !== 'number' || !Number.isFinite(value))) this.fail(name, 'a number');
    return value;
  }

  /** As optionalNumber, within a range. */
  optionalBetween(name: string, min: number, max: number, whenMissing: number | null = null): number | null {
    const value = this.optionalNumber(name, whenMissing);
    if (value !== null && (value < min || value > max)) this.fail(name, `a number from ${min} to ${max}`);
    return value;
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.raw(name) ?? fallback;
    if (typeof value !== 'boolean') this.fail(name, 'true or false');
    return value;
  }

  text(name: string): string | null {
    const value = this.raw(name) ?? null;
    if (value !== null && typeof value !== 'string') this.fail(name, 'a string');
    return value;
  }

  texts(name: string): readonly string[] | null {
    const value = this.raw(name);
    if (value === undefined) return null;
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string'))
      this.fail(name, 'a list of strings');
    return value as readonly string[];
  }

  numbers(name: string): readonly number[] | null {
    const value = this.raw(name);
    if (value === undefined) return null;
    if (!Array.isArray(value) || !value.every((item) => Number.isFinite(item)))
      this.fail(name, 'a list of numbers');
    return value as readonly number[];
  }

  /** One token id or a list of them, as in `eos_token_id`. Empty when absent. */
  tokenIds(name: string): readonly number[] {
    const value = this.raw(name);
    if (value === undefined) return [];
    const ids = Array.isArray(value) ? value : [value];
    if (ids.length > tokenIdCountMax) this.fail(name, `at most ${tokenIdCountMax} token ids`);
    if (!ids.every(isTokenId)) this.fail(name, 'a token id or a list of token ids');
    return ids as readonly number[];
  }

  object(name: string): ConfigFields | null {
    const value = this.raw(name);
    if (value === undefined) return null;
    if (!isJsonObject(value)) this.fail(name, 'an object');
    return new ConfigFields(this.file, value as JsonObject, `${this.#prefix}${name}.`);
  }

  /** A short list of objects; empty when absent. */
  objects(name: string): readonly ConfigFields[] {
    const value = this.raw(name) ?? [];
    if (!Array.isArray(value) || !value.every(isJsonObject)) this.fail(name, 'a list of objects');
    if (value.length > stepCountMax) this.fail(name, `a list of at most ${stepCountMax} objects`);
    return (value as readonly JsonObject[]).map(
      (item, i) => new ConfigFields(this.file, item, `${this.#prefix}${name}[${i}].`),
    );
  }

  /** @throws ModelError: this field is not what it must be. */
  fail(name: string, expected: string): never {
    const value = this.raw(name);
    const got = value === undefined ? 'it is missing' : `got ${describeJson(value)}`;
    throw new ModelError(`${this.file}: "${this.#prefix}${name}" must be ${expected}, ${got}`);
  }

  #numberOr(name: string, fallback: number | undefined): number {
    const value = this.raw(name) ?? fallback;
    if (typeof value !== 'number') this.fail(name, 'a number');
    return value;
  }
}

export function isTokenId(value: JsonValue | undefined): value is TokenId {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= tokenIdMax;
}
