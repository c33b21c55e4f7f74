/** Turns zod's findings into one sentence that names the field, as the `param` of an OpenAI error. Used by
 *  every endpoint with a body. */
import type { z } from 'zod';
import { InvalidRequestError } from '../base/errors.js';
import { pathText } from './unknown-fields.js';

type Issue = z.core.$ZodIssue;

/** Called with what was given and what the schema has kept of it. */
export type OnParsed = (given: unknown, known: unknown) => void;

/** The parsed value, or InvalidRequestError about the first problem. */
export function validate<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  onParsed: OnParsed,
): z.output<Schema> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new InvalidRequestError('The body must be a JSON object');
  }
  const result = schema.safeParse(value);
  if (result.success) {
    onParsed(value, result.data);
    return result.data;
  }
  const { path, message } = describe(result.error.issues[0] as Issue);
  const param = pathText(path);
  throw new InvalidRequestError(
    param === '' ? message : `${param}: ${message}`,
    param === '' ? undefined : param,
  );
}

function describe(issue: Issue): { path: readonly PropertyKey[]; message: string } {
  if (issue.code === 'invalid_union') return describeUnion(issue);
  if (issue.message.endsWith('received undefined'))
    return { path: issue.path, message: 'required, but missing' };
  return { path: issue.path, message: issue.message.replace(/^Invalid input: /, '') };
}

/** Of a union's alternatives, the one that got furthest says what is wrong; if none got anywhere, the union's
 *  own message does. */
function describeUnion(issue: Issue & { code: 'invalid_union' }): {
  path: readonly PropertyKey[];
  message: string;
} {
  const deepest = issue.errors
    .map((issues) => issues[0])
    .filter((inner) => inner !== undefined)
    .sort((a, b) => b.path.length - a.path.length)[0];
  if (deepest === undefined || deepest.path.length === 0)
    return describe({ ...issue, code: 'custom', params: {} } as Issue);
  const inner = describe(deepest);
  return { path: [...issue.path, ...inner.path], message: inner.message };
}
