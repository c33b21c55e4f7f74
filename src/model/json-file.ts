/** Reads the JSON files of a model folder. Used by every loader here; the invariant: whatever is wrong with a file, the caller
 *  gets one ModelError that names the file, the place and what to do. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { ModelError, messageOf } from '../base/errors.js';

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: JsonValue | undefined;
}

/** @throws ModelError when the file is missing, unreadable, not JSON, or not an object. */
export function readJsonObject(file: string): JsonObject {
  const value = parseJson(readText(file), file);
  if (!isJsonObject(value)) throw new ModelError(`${file}: expected a JSON object, got ${describeJson(value)}`);
  return value;
}

/** As readJsonObject, but a file that does not exist is `null`. */
export function readOptionalJsonObject(file: string): JsonObject | null {
  try {
    return readJsonObject(file);
  } catch (error) {
    if (error instanceof ModelError && isMissing(error.cause)) return null;
    throw error;
  }
}

/** @throws ModelError naming the file. */
export function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (isMissing(error)) {
      throw new ModelError(`${file}: no such file. Is ${path.dirname(file)} a complete Hugging Face model folder?`, error);
    }
    throw new ModelError(`${file}: cannot be read: ${messageOf(error)}`, error);
  }
}

/** @throws ModelError with line and column. `where` names the text in the message. */
export function parseJson(text: string, where: string): JsonValue {
  try {
    return JSON.parse(text) as JsonValue;
  } catch (error) {
    const position = Number(/position (\d+)/.exec(messageOf(error))?.[1] ?? text.length);
    const before = text.slice(0, position).split('\n');
    const column = (before.at(-1)?.length ?? 0) + 1;
    throw new ModelError(`${where}: not valid JSON at line ${before.length}, column ${column}: ${messageOf(error)}`);
  }
}

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value in an error message: short, and never a whole document. */
export function describeJson(value: JsonValue | undefined): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR');
}
