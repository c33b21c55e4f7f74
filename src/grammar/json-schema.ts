/** A JSON Schema (draft 7 to 2020-12) as the grammar of the texts that satisfy it. Used by shapes.ts.
 *  Invariant: every text of the grammar satisfies the schema. The reverse is not wanted: properties come
 *  in the schema's order, those not named only where "additionalProperties" allows them or nothing is
 *  named, numbers have as many digits as a double, and a schema without "type" is of the type that its
 *  keywords are about. What cannot be enforced is refused with the keyword's name. */
import { choice, type Grammar, type GrammarNode, never, rule } from './grammar.js';
import { arrayNode } from './json-arrays.js';
import { objectNode } from './json-objects.js';
import { stringOfFormat, stringOfLength, stringOfPattern } from './json-strings.js';
import { compactRules, jsonRules, literalOf } from './json-text.js';
import { type Bound, integerInBounds, multiplesOf, numberInBounds } from './number-ranges.js';
import {
  assertionsOf,
  has,
  impliedTypes,
  isSchema,
  refuseSchema,
  type Schema,
  type SchemaObject,
  type TypeName,
  typeNames,
} from './schema-keywords.js';
import { bothOf, listOf, propertiesOf, sameJson } from './schema-merge.js';
import type { SchemaScope } from './schema-scope.js';

export interface SchemaOptions {
  /** Of the request, for messages. */
  readonly param: string;
  readonly whiteSpace?: 'free' | 'none';
}

const depthMax = 64;
/** Schemas looked at, those within merged ones each time. */
const visitCountMax = 20_000;

/** @throws SchemaError naming the keyword that is wrong or cannot be enforced. */
export function schemaGrammar(schema: unknown, options: SchemaOptions): Grammar {
  if (!isSchema(schema)) return refuseSchema('schema', 'is neither an object nor a boolean', options.param);
  return new SchemaCompiler(schema, options).compile();
}

class SchemaCompiler implements SchemaScope {
  readonly param: string;
  readonly #whole: Schema;
  readonly #rules: Record<string, GrammarNode> = {};
  readonly #ruleOfPointer = new Map<string, GrammarNode>();
  #ruleCount = 0;
  #visitCount = 0;
  #depth = 0;
  readonly #base: Readonly<Record<string, GrammarNode>>;

  constructor(whole: Schema, { param, whiteSpace }: SchemaOptions) {
    this.#whole = whole;
    this.param = param;
    this.#base = whiteSpace === 'none' ? compactRules : jsonRules;
  }

  compile(): Grammar {
    const root = this.node(this.#whole);
    return { root, rules: { ...this.#base, ...this.#rules } };
  }

  node(schema: Schema): GrammarNode {
    if (schema === true) return rule('value');
    if (schema === false) return never;
    this.#visitCount++;
    if (this.#visitCount > visitCountMax || this.#depth > depthMax)
      refuseSchema('schema', 'is too large or nested too deep', this.param);
    this.#depth++;
    try {
      return this.#assertionNode(assertionsOf(schema, this.param));
    } finally {
      this.#depth--;
    }
  }

  named(make: () => GrammarNode): GrammarNode {
    const name = `s${this.#ruleCount++}`;
    this.#rules[name] = make();
    return rule(name);
  }

  count(schema: SchemaObject, keyword: string): number | null {
    if (!has(schema, keyword)) return null;
    const value = schema[keyword];
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0) return value;
    return refuseSchema(keyword, 'is not a whole number', this.param);
  }

  #assertionNode(schema: SchemaObject): GrammarNode {
    const keywords = Object.keys(schema);
    if (keywords.length === 0) return rule('value');
    if (has(schema, '$ref') && keywords.length === 1) return this.#referenced(String(schema.$ref));
    if (has(schema, '$ref') || has(schema, 'allOf')) return this.node(this.#flat(schema, 0));
    if (has(schema, 'anyOf')) return this.#alternatives(schema, 'anyOf');
    if (has(schema, 'oneOf')) return this.#alternatives(schema, 'oneOf');
    if (has(schema, 'const') || has(schema, 'enum')) return this.#values(schema);
    const types = this.#types(schema);
    return choice(...types.map((type) => this.#typed(type, schema)));
  }

  /** What it refers to and all it joins, in one schema. */
  #flat(schema: SchemaObject, depth: number): Schema {
    if (depth > depthMax || this.#visitCount++ > visitCountMax)
      refuseSchema('$ref', 'goes round in a circle, or too far', this.param);
    const { $ref, allOf, ...rest } = assertionsOf(schema, this.param);
    const parts: Schema[] = [];
    if ($ref !== undefined) parts.push(this.#resolved(String($ref)));
    if (allOf !== undefined) parts.push(...this.#schemas(allOf, 'allOf'));
    const flat = (part: Schema): Schema => (typeof part === 'boolean' ? part : this.#flat(part, depth + 1));
    return parts.map(flat).reduce((joined, part) => bothOf(joined, part, this.param), rest as Schema);
  }

  #schemas(value: unknown, keyword: string): readonly Schema[] {
    if (Array.isArray(value) && value.length > 0 && value.every(isSchema)) return value;
    return refuseSchema(keyword, 'is not a list of schemas', this.param);
  }

  #resolved(pointer: string): Schema {
    if (!pointer.startsWith('#'))
      return refuseSchema('$ref', `to "${pointer}" cannot be followed: only #/… can`, this.param);
    if (pointer !== '#' && !pointer.startsWith('#/'))
      return refuseSchema('$ref', `to the anchor "${pointer}" cannot be followed`, this.param);
    let place: unknown = this.#whole;
    for (const part of pointer.split('/').slice(1)) {
      const key = safelyDecoded(part).replaceAll('~1', '/').replaceAll('~0', '~');
      if (typeof place !== 'object' || place === null || !Object.hasOwn(place, key)) {
        return refuseSchema('$ref', `to "${pointer}" is to nothing`, this.param);
      }
      place = Reflect.get(place, key);
    }
    return isSchema(place) ? place : refuseSchema('$ref', `to "${pointer}" is no schema`, this.param);
  }

  #referenced(pointer: string): GrammarNode {
    const known = this.#ruleOfPointer.get(pointer);
    if (known !== undefined) return known;
    const name = `r${this.#ruleOfPointer.size}`;
    this.#ruleOfPointer.set(pointer, rule(name));
    this.#rules[name] = this.node(this.#resolved(pointer));
    return rule(name);
  }

  #alternatives(schema: SchemaObject, keyword: 'anyOf' | 'oneOf'): GrammarNode {
    const { [keyword]: value, ...rest } = schema;
    const branches = this.#schemas(value, keyword);
    const flat = branches.map((branch) => (typeof branch === 'boolean' ? branch : this.#flat(branch, 0)));
    if (keyword === 'oneOf') this.#checkDisjoint(flat);
    if (Object.keys(rest).length === 0) return choice(...branches.map((branch) => this.node(branch)));
    return choice(...flat.map((branch) => this.node(bothOf(rest, branch, this.param))));
  }

  /** No value may satisfy two of them. */
  #checkDisjoint(branches: readonly Schema[]): void {
    for (let i = 0; i < branches.length; i++) {
      for (let j = i + 1; j < branches.length; j++) {
        if (this.#visitCount++ > visitCountMax)
          refuseSchema('oneOf', 'has too many alternatives', this.param);
        if (this.#areDisjoint(branches[i] ?? true, branches[j] ?? true, 0)) continue;
        refuseSchema(
          'oneOf',
          'cannot be enforced where a value may satisfy two alternatives: give them different types, or a required property with different "const" values; or use "anyOf"',
          this.param,
        );
      }
    }
  }

  #areDisjoint(a: Schema, b: Schema, depth: number): boolean {
    if (a === false || b === false) return true;
    if (a === true || b === true || depth > 4) return false;
    const [one, other] = [this.#flat(a, depth), this.#flat(b, depth)];
    if (typeof one === 'boolean' || typeof other === 'boolean') return one === false || other === false;
    const [values, others] = [valuesOf(one), valuesOf(other)];
    if (values !== null && others !== null)
      return !values.some((value) => others.some((known) => sameJson(value, known)));
    const [types, otherTypes] = [declaredTypes(one), declaredTypes(other)];
    if (types !== null && otherTypes !== null) {
      const shared = types.some((type) =>
        otherTypes.some((known) => known === type || isBothNumbers(known, type)),
      );
      if (!shared) return true;
    }
    const isObject = (schema: readonly unknown[] | null) => schema?.length === 1 && schema[0] === 'object';
    if (!isObject(types) || !isObject(otherTypes)) return false;
    const [properties, otherProperties] = [propertiesOf(one), propertiesOf(other)];
    const isRequired = (schema: SchemaObject, name: string) => listOf(schema.required ?? []).includes(name);
    for (const [name, property] of properties ?? []) {
      const twin = otherProperties?.get(name);
      if (!isRequired(one, name) && !isRequired(other, name)) continue;
      if (twin === undefined) {
        if (isRequired(one, name) && other.additionalProperties === false) return true;
      } else if (
        isRequired(one, name) &&
        isRequired(other, name) &&
        this.#areDisjoint(property, twin, depth + 1)
      )
        return true;
    }
    return [...(otherProperties?.keys() ?? [])].some(
      (name) =>
        properties?.has(name) !== true && isRequired(other, name) && one.additionalProperties === false,
    );
  }

  #values(schema: SchemaObject): GrammarNode {
    const { const: value, enum: values, type: _type, ...rest } = schema;
    const [beside] = Object.keys(rest);
    if (beside !== undefined) refuseSchema(beside, 'beside "enum" or "const" cannot be enforced', this.param);
    if (values !== undefined && !Array.isArray(values)) refuseSchema('enum', 'is not a list', this.param);
    const all = has(schema, 'const') ? [value] : listOf(values);
    const types = has(schema, 'type') ? this.#types(schema) : typeNames;
    const kept = all.filter((one) => types.some((type) => isOfType(one, type)));
    const listed =
      has(schema, 'const') && Array.isArray(values)
        ? kept.filter((one) => values.some((other) => sameJson(one, other)))
        : kept;
    return choice(...listed.map(literalOf));
  }

  #types(schema: SchemaObject): readonly TypeName[] {
    if (!has(schema, 'type')) {
      const implied = impliedTypes(schema);
      return implied.length > 0 ? implied : typeNames.filter((type) => type !== 'integer');
    }
    const types = listOf(schema.type);
    const strange = types.find((type) => !typeNames.includes(type as TypeName));
    if (strange !== undefined || types.length === 0)
      refuseSchema('type', `${JSON.stringify(schema.type)} is no type`, this.param);
    return types.includes('number')
      ? (types.filter((type) => type !== 'integer') as TypeName[])
      : (types as TypeName[]);
  }

  #typed(type: TypeName, schema: SchemaObject): GrammarNode {
    switch (type) {
      case 'null':
        return literalOf(null);
      case 'boolean':
        return choice(literalOf(true), literalOf(false));
      case 'string':
        return this.#string(schema);
      case 'integer':
      case 'number':
        return this.#number(type, schema);
      case 'array':
        return arrayNode(schema, this);
      case 'object':
        return objectNode(schema, this);
    }
  }

  #string(schema: SchemaObject): GrammarNode {
    const [min, max] = [this.count(schema, 'minLength') ?? 0, this.count(schema, 'maxLength')];
    const hasLength = min > 0 || max !== null;
    const hasFormat = has(schema, 'format');
    if (has(schema, 'pattern')) {
      if (typeof schema.pattern !== 'string') refuseSchema('pattern', 'is not a string', this.param);
      if (hasFormat) refuseSchema('format', 'beside "pattern" cannot be enforced', this.param);
      if (hasLength)
        refuseSchema(
          max === null ? 'minLength' : 'maxLength',
          'beside "pattern" cannot be enforced: write the length into the pattern',
          this.param,
        );
      return stringOfPattern(String(schema.pattern), `${this.param}: "pattern"`);
    }
    if (!hasFormat) return max !== null && min > max ? never : stringOfLength(min, max);
    if (hasLength)
      refuseSchema(
        max === null ? 'minLength' : 'maxLength',
        'beside "format" cannot be enforced',
        this.param,
      );
    return (
      stringOfFormat(String(schema.format), this.param) ??
      refuseSchema('format', `${JSON.stringify(schema.format)} cannot be enforced`, this.param)
    );
  }

  #number(type: 'integer' | 'number', schema: SchemaObject): GrammarNode {
    const bounds = {
      low: this.#bound(schema, 'minimum', 'exclusiveMinimum'),
      high: this.#bound(schema, 'maximum', 'exclusiveMaximum'),
    };
    const isBounded = bounds.low !== null || bounds.high !== null;
    if (has(schema, 'multipleOf')) {
      const divisor = schema.multipleOf;
      if (typeof divisor !== 'number' || !(divisor > 0))
        return refuseSchema('multipleOf', 'is not a number above 0', this.param);
      if (divisor === 1) return integerInBounds(bounds);
      if (isBounded) refuseSchema('multipleOf', 'beside bounds cannot be enforced', this.param);
      if (!Number.isInteger(divisor) || divisor > 128)
        refuseSchema(
          'multipleOf',
          'of this value cannot be enforced: whole numbers up to 128 can',
          this.param,
        );
      const { root, rules } = multiplesOf(divisor, `m${this.#ruleCount++}-`);
      Object.assign(this.#rules, rules);
      return root;
    }
    if (!isBounded) return rule(type);
    return type === 'integer' ? integerInBounds(bounds) : numberInBounds(bounds);
  }

  /** In draft 4 the exclusive one is a boolean. */
  #bound(schema: SchemaObject, keyword: string, exclusiveKeyword: string): Bound | null {
    const number = (name: string): number | null => {
      const value = has(schema, name) ? schema[name] : null;
      if (value === null || (typeof value === 'number' && Number.isFinite(value) && Math.abs(value) < 1e15))
        return value;
      return refuseSchema(name, 'is not a number that can be enforced', this.param);
    };
    const inclusive = number(keyword);
    if (typeof schema[exclusiveKeyword] === 'boolean') {
      return inclusive === null ? null : { value: inclusive, isExclusive: schema[exclusiveKeyword] === true };
    }
    const exclusive = number(exclusiveKeyword);
    if (exclusive === null) return inclusive === null ? null : { value: inclusive, isExclusive: false };
    const isTighter =
      inclusive === null || (keyword === 'minimum' ? exclusive >= inclusive : exclusive <= inclusive);
    return isTighter ? { value: exclusive, isExclusive: true } : { value: inclusive, isExclusive: false };
  }
}

/** null: not listed. */
function valuesOf(schema: SchemaObject): readonly unknown[] | null {
  if (has(schema, 'const')) return [schema.const];
  return has(schema, 'enum') ? listOf(schema.enum) : null;
}

function declaredTypes(schema: SchemaObject): readonly unknown[] | null {
  if (has(schema, 'type')) return listOf(schema.type);
  const values = valuesOf(schema);
  return values === null
    ? null
    : [...new Set(values.map((value) => typeNames.find((type) => isOfType(value, type))))];
}

const isBothNumbers = (a: unknown, b: unknown) =>
  (a === 'number' && b === 'integer') || (a === 'integer' && b === 'number');

function isOfType(value: unknown, type: TypeName): boolean {
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  if (type === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value);
  if (type === 'integer') return Number.isInteger(value);
  return typeof value === type;
}

function safelyDecoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
