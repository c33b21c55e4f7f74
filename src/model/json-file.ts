/** Reads the JSON files of a model folder. Used by every loader here; the invariant: whatever is wrong with a
 *  file, the caller gets one ModelError that names the file, the place and what to do. A file is hostile
 *  until proven otherwise: its size, values and nesting are counted before it is parsed, because parsing 64
 *  MB of `[[],[],…` takes 2 GB and many seconds. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { ModelError, messageOf } from '../base/errors.js';

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: JsonValue | undefined;
}

export interface JsonLimits {
  readonly byteCount: number;
  /** Members of lists and objects, and the lists and objects themselves. */
  readonly valueCount: number;
}

/** Largest known: an index of 91,000 tensors, 9 MB; a tokenizer_config.json of 6,400 added tokens, 45,000
 *  values. */
const configLimits: JsonLimits = { byteCount: 2 ** 25, valueCount: 2 ** 19 };
/** Largest known tokenizer.json: 262,000 tokens and 515,000 merges, 1.8 million values, 33 MB. */
export const tokenizerLimits: JsonLimits = { byteCount: 2 ** 27, valueCount: 2 ** 22 };
/** No file of a model nests deeper than ten. */
const depthMax = 64;

/** @throws ModelError when the file is missing, unreadable, too large, not JSON, or not an object. */
export function readJsonObject(file: string, limits: JsonLimits = configLimits): JsonObject {
  const value = parseJson(readBytes(file, limits.byteCount), file, limits);
  if (!isJsonObject(value))
    throw new ModelError(`${file}: expected a JSON object, got ${describeJson(value)}`);
  return value;
}

/** As readJsonObject, but a file that does not exist is `null`. */
export function readOptionalJsonObject(file: string, limits: JsonLimits = configLimits): JsonObject | null {
  try {
    return readJsonObject(file, limits);
  } catch (error) {
    if (error instanceof ModelError && isMissing(error.cause)) return null;
    throw error;
  }
}

/** @throws ModelError naming the file. */
export function readText(file: string): string {
  return readBytes(file, configLimits.byteCount).toString('utf8');
}

/** Opens a regular file, reads, closes. Never waits: a pipe or a device under the file's name is refused.
 *  @throws ModelError naming the file. */
export function withFile<T>(file: string, use: (descriptor: number, byteCount: number) => T): T {
  let descriptor: number;
  try {
    descriptor = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (isMissing(error)) {
      throw new ModelError(
        `${file}: no such file. Is ${path.dirname(file)} a complete Hugging Face model folder?`,
        error,
      );
    }
    throw new ModelError(`${file}: cannot be opened: ${messageOf(error)}`, error);
  }
  try {
    const status = fstatSync(descriptor);
    if (!status.isFile()) throw new ModelError(`${file}: not a regular file`);
    return use(descriptor, status.size);
  } catch (error) {
    if (error instanceof ModelError) throw error;
    throw new ModelError(`${file}: cannot be read: ${messageOf(error)}`, error);
  } finally {
    closeSync(descriptor);
  }
}

function readBytes(file: string, byteCountMax: number): Buffer {
  return withFile(file, (descriptor, byteCount) => {
    if (byteCount > byteCountMax)
      throw new ModelError(`${file}: ${byteCount} bytes are too many (at most ${byteCountMax})`);
    return readFileSync(descriptor);
  });
}

/** @throws ModelError with line and column. `where` names the text in the message. */
export function parseJson(bytes: Buffer, where: string, limits: JsonLimits): JsonValue {
  checkStructure(bytes, where, limits);
  const text = bytes.toString('utf8');
  try {
    return JSON.parse(text) as JsonValue;
  } catch (error) {
    const position = Number(/position (\d+)/.exec(messageOf(error))?.[1] ?? text.length);
    const before = text.slice(0, position).split('\n');
    const column = (before.at(-1)?.length ?? 0) + 1;
    throw new ModelError(
      `${where}: not valid JSON at line ${before.length}, column ${column}: ${messageOf(error)}`,
    );
  }
}

const [quote, backslash, comma, openList, closeList, openObject, closeObject] = Buffer.from('"\\,[]{}');

/** Counts values and nesting without making any. What is no JSON passes: the parser says where. */
function checkStructure(bytes: Buffer, where: string, { valueCount }: JsonLimits): void {
  let depth = 0;
  let values = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === quote) i = endOfString(bytes, i + 1);
    else if (byte === comma) values++;
    else if (byte === openList || byte === openObject) {
      depth++;
      values++;
    } else if (byte === closeList || byte === closeObject) depth--;
    else continue;
    if (values > valueCount)
      throw new ModelError(`${where}: more than ${valueCount} JSON values; no model needs as many`);
    if (depth > depthMax)
      throw new ModelError(`${where}: JSON nested deeper than ${depthMax} levels; no model needs as many`);
  }
}

/** The closing quote of the string whose characters start at `i`, or the end. */
function endOfString(bytes: Buffer, i: number): number {
  while (i < bytes.length && bytes[i] !== quote) i += bytes[i] === backslash ? 2 : 1;
  return i;
}

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value in an error message: short, and never a whole document. */
export function describeJson(value: JsonValue | undefined): string {
  return shortened(JSON.stringify(value) ?? 'nothing', 60);
}

/** What a file or a library says, in an error message. */
export function shortened(text: string, lengthMax: number): string {
  return text.length > lengthMax ? `${text.slice(0, lengthMax - 3)}...` : text;
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR');
}
