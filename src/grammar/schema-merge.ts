/** Two schemas as one that says what both say: for allOf, and for what stands beside $ref and anyOf. Used
 *  by json-schema.ts; pure. What it cannot put into one keyword it refuses by name. */
import { has, isSchema, refuseSchema, type Schema, type SchemaObject } from './schema-keywords.js';

/** Both without $ref and allOf at their top. */
export function bothOf(a: Schema, b: Schema, param: string): Schema {
  if (a === true) return b;
  if (b === true) return a;
  if (a === false || b === false) return false;
  const merged: Record<string, unknown> = { ...a };
  for (const [keyword, value] of Object.entries(b)) {
    if (keyword === 'properties' || keyword === 'additionalProperties') continue;
    const own = has(a, keyword) ? a[keyword] : undefined;
    const joined = own === undefined ? value : joinedKeyword(keyword, own, value, param);
    if (joined === undefined) return false;
    Object.defineProperty(merged, keyword, {
      value: joined,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return { ...merged, ...joinedProperties(a, b, param) };
}

/** undefined: nothing is left. */
function joinedKeyword(keyword: string, a: unknown, b: unknown, param: string): unknown {
  if (sameJson(a, b)) return a;
  switch (keyword) {
    case 'type':
      return joinedTypes(listOf(a), listOf(b));
    case 'enum': {
      const left = listOf(a).filter((value) => listOf(b).some((other) => sameJson(value, other)));
      return left.length === 0 ? undefined : left;
    }
    case 'const':
      return undefined;
    case 'required':
      return [...new Set([...listOf(a), ...listOf(b)])];
    case 'minimum':
    case 'minLength':
    case 'minItems':
    case 'minProperties':
      return Math.max(Number(a), Number(b));
    case 'maximum':
    case 'maxLength':
    case 'maxItems':
    case 'maxProperties':
      return Math.min(Number(a), Number(b));
    case 'exclusiveMinimum':
      return typeof a === 'number' && typeof b === 'number'
        ? Math.max(a, b)
        : refuseSchema(keyword, 'twice cannot be enforced', param);
    case 'exclusiveMaximum':
      return typeof a === 'number' && typeof b === 'number'
        ? Math.min(a, b)
        : refuseSchema(keyword, 'twice cannot be enforced', param);
    case 'items':
      return isSchema(a) && isSchema(b)
        ? { allOf: [a, b] }
        : refuseSchema(keyword, 'twice cannot be enforced', param);
    case 'uniqueItems':
      return true;
    default:
      return refuseSchema(keyword, 'twice, with different values, cannot be enforced', param);
  }
}

function joinedTypes(a: readonly unknown[], b: readonly unknown[]): unknown {
  const left = new Set<unknown>();
  for (const one of a) {
    for (const other of b) {
      if (one === other) left.add(one);
      else if ((one === 'number' && other === 'integer') || (one === 'integer' && other === 'number'))
        left.add('integer');
    }
  }
  return left.size === 0 ? undefined : [...left];
}

/** A property that one side alone names is also what the other side says of further ones. */
function joinedProperties(a: SchemaObject, b: SchemaObject, param: string): SchemaObject {
  const further = (schema: SchemaObject): Schema | undefined => {
    const value = has(schema, 'additionalProperties') ? schema.additionalProperties : undefined;
    return isSchema(value) ? value : undefined;
  };
  const ofA = propertiesOf(a);
  const ofB = propertiesOf(b);
  if (ofA === null && ofB === null && further(a) === undefined && further(b) === undefined) return {};
  const names = new Set([...(ofA?.keys() ?? []), ...(ofB?.keys() ?? [])]);
  const properties = [...names].map((name) => {
    const [one, other] = [ofA?.get(name) ?? further(a) ?? true, ofB?.get(name) ?? further(b) ?? true];
    return [name, one === true ? other : other === true ? one : { allOf: [one, other] }] as const;
  });
  const left = joinedFurther(further(a), further(b), param);
  return {
    ...(ofA === null && ofB === null ? {} : { properties: Object.fromEntries(properties) }),
    ...(left === undefined ? {} : { additionalProperties: left }),
  };
}

function joinedFurther(a: Schema | undefined, b: Schema | undefined, param: string): Schema | undefined {
  if (a === undefined || a === true) return b ?? a;
  if (b === undefined || b === true) return a;
  if (a === false || b === false) return false;
  return sameJson(a, b)
    ? a
    : refuseSchema('additionalProperties', 'twice, with different values, cannot be enforced', param);
}

/** null: it names none. */
export function propertiesOf(schema: SchemaObject): ReadonlyMap<string, Schema> | null {
  if (!has(schema, 'properties')) return null;
  const { properties } = schema;
  if (typeof properties !== 'object' || properties === null || Array.isArray(properties)) return null;
  return new Map(Object.entries(properties).filter((entry): entry is [string, Schema] => isSchema(entry[1])));
}

export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [value];
}

export function sameJson(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const [keys, others] = [Object.keys(a), Object.keys(b)];
  return (
    keys.length === others.length &&
    keys.every((key) => Object.hasOwn(b, key) && sameJson(Reflect.get(a, key), Reflect.get(b, key)))
  );
}
