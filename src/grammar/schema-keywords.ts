/** What the keywords of JSON Schema are to this engine: enforced, refused by name, or no assertion at all.
 *  Used by json-schema.ts and schema-merge.ts. */
import { InvalidRequestError } from '../base/errors.js';

export type SchemaObject = Readonly<Record<string, unknown>>;
export type Schema = boolean | SchemaObject;

const ofType = {
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
  array: ['items', 'prefixItems', 'additionalItems', 'minItems', 'maxItems', 'uniqueItems'],
  object: [
    'properties',
    'required',
    'additionalProperties',
    'propertyNames',
    'minProperties',
    'maxProperties',
    'patternProperties',
  ],
} as const;
const ofAny = ['type', 'enum', 'const', 'anyOf', 'oneOf', 'allOf', '$ref'] as const;

const refused = [
  ...[
    'not',
    'if',
    'then',
    'else',
    'dependentRequired',
    'dependentSchemas',
    'dependencies',
    'unevaluatedItems',
  ],
  ...['unevaluatedProperties', 'contains', 'minContains', 'maxContains', '$dynamicRef', '$recursiveRef'],
];

const assertions: ReadonlySet<string> = new Set([...ofAny, ...Object.values(ofType).flat(), ...refused]);

/** Every other word is a remark: title, description, default, examples, $comment and whatever else. */
function isAssertion(keyword: string): boolean {
  return assertions.has(keyword);
}

export const typeNames = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const;
export type TypeName = (typeof typeNames)[number];

export class SchemaError extends InvalidRequestError {}

export function refuseSchema(keyword: string, why: string, param: string): never {
  throw new SchemaError(`${param}: "${keyword}" ${why}`, param);
}

/** Own and not undefined. */
export function has(schema: SchemaObject, keyword: string): boolean {
  return Object.hasOwn(schema, keyword) && schema[keyword] !== undefined;
}

export function isSchema(value: unknown): value is Schema {
  return typeof value === 'boolean' || (typeof value === 'object' && value !== null && !Array.isArray(value));
}

/** Without remarks. @throws SchemaError for a keyword that cannot be enforced. */
export function assertionsOf(schema: SchemaObject, param: string): SchemaObject {
  for (const keyword of refused) if (has(schema, keyword)) refuseSchema(keyword, 'cannot be enforced', param);
  return Object.fromEntries(
    Object.entries(schema).filter(([keyword, value]) => value !== undefined && isAssertion(keyword)),
  );
}

/** The types that a schema without "type" is about, as its keywords say; empty: any. */
export function impliedTypes(schema: SchemaObject): readonly TypeName[] {
  const types: TypeName[] = [];
  for (const [type, keywords] of Object.entries(ofType))
    if (keywords.some((keyword) => has(schema, keyword))) types.push(type as TypeName);
  return types;
}
