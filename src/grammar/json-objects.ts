/** Objects of a schema as grammar: members in the schema's order, then further ones. Used by
 *  json-schema.ts. A further member's name is none of those that the schema names, however it is spelt:
 *  else it would take that one's place. */
import {
  type CharRange,
  chars,
  choice,
  complement,
  type GrammarNode,
  never,
  nothing,
  repeat,
  rule,
  sequence,
  text,
} from './grammar.js';
import { plainRanges } from './json-text.js';
import { has, isSchema, refuseSchema, type Schema, type SchemaObject } from './schema-keywords.js';
import { listOf } from './schema-merge.js';
import type { SchemaScope } from './schema-scope.js';

interface Member {
  readonly node: GrammarNode;
  readonly isRequired: boolean;
}

interface Counts {
  readonly min: number;
  readonly max: number | null;
}

const stateCountMax = 20_000;

export function objectNode(schema: SchemaObject, scope: SchemaScope): GrammarNode {
  const { param } = scope;
  const patterns = has(schema, 'patternProperties') ? schema.patternProperties : {};
  if (typeof patterns !== 'object' || patterns === null || Object.keys(patterns).length > 0) {
    refuseSchema('patternProperties', 'cannot be enforced', param);
  }
  const counts = {
    min: scope.count(schema, 'minProperties') ?? 0,
    max: scope.count(schema, 'maxProperties'),
  };
  const named = namedProperties(schema, param);
  const required = requiredNames(schema, param);
  const further = furtherOf(schema, named !== null, param);
  const all = new Map(named ?? []);
  for (const name of required)
    if (!all.has(name)) all.set(name, further ?? !has(schema, 'additionalProperties'));
  const key = furtherKey(schema, [...all.keys()], scope);
  const members = [...all].map(([name, property]): Member => {
    return {
      node: memberNode(text(JSON.stringify(name)), scope.node(property)),
      isRequired: required.has(name),
    };
  });
  if (further !== null && counts.min > required.size) {
    refuseSchema(
      'minProperties',
      'cannot be enforced where members may have any name: one name twice is one member',
      param,
    );
  }
  const furtherMember = further === null ? null : scope.named(() => memberNode(key, scope.node(further)));
  if (has(schema, 'propertyNames') && all.size > 0 && !isAnyName(schema.propertyNames)) {
    refuseSchema('propertyNames', 'beside "properties" or "required" cannot be enforced', param);
  }
  const content = new MemberList(members, furtherMember, counts, scope).node();
  return sequence(text('{'), rule('ws'), content, text('}'));
}

function memberNode(key: GrammarNode, value: GrammarNode): GrammarNode {
  return sequence(key, rule('colon'), value);
}

function namedProperties(schema: SchemaObject, param: string): readonly (readonly [string, Schema])[] | null {
  if (!has(schema, 'properties')) return null;
  const { properties } = schema;
  if (typeof properties !== 'object' || properties === null || Array.isArray(properties)) {
    return refuseSchema('properties', 'is not an object', param);
  }
  return Object.entries(properties).map(([name, property]) => {
    return [
      name,
      isSchema(property)
        ? property
        : refuseSchema('properties', `has no schema for ${JSON.stringify(name)}`, param),
    ];
  });
}

function requiredNames(schema: SchemaObject, param: string): ReadonlySet<string> {
  const names = listOf(has(schema, 'required') ? schema.required : []);
  if (names.every((name) => typeof name === 'string')) return new Set(names as string[]);
  return refuseSchema('required', 'is not a list of names', param);
}

/** What members that are not named may be; null: there are none. Not said: none where some are named. */
function furtherOf(schema: SchemaObject, hasNamed: boolean, param: string): Schema | null {
  if (!has(schema, 'additionalProperties')) return hasNamed ? null : true;
  const { additionalProperties: further } = schema;
  if (!isSchema(further)) return refuseSchema('additionalProperties', 'is not a schema', param);
  return further === false ? null : further;
}

function isAnyName(names: unknown): boolean {
  if (names === true) return true;
  if (typeof names !== 'object' || names === null) return false;
  return Object.entries(names).every(([keyword, value]) => keyword === 'type' && value === 'string');
}

function furtherKey(schema: SchemaObject, taken: readonly string[], scope: SchemaScope): GrammarNode {
  const names = has(schema, 'propertyNames') ? schema.propertyNames : true;
  if (!isAnyName(names) && isSchema(names))
    return scope.node(typeof names === 'boolean' ? names : { type: 'string', ...names });
  if (taken.length === 0) return rule('string');
  return sequence(text('"'), otherThan(taken.map((name) => [...name])));
}

/** The rest of a name and its quote. Without escapes, so that no name has two spellings. */
function otherThan(taken: readonly (readonly string[])[]): GrammarNode {
  const any = sequence(repeat(chars(...plainRanges), 0, null), text('"'));
  const byFirst = new Map<string, string[][]>();
  for (const [first, ...rest] of taken)
    if (first !== undefined) byFirst.set(first, [...(byFirst.get(first) ?? []), rest]);
  const firsts = [...byFirst.keys()].map((character): CharRange => {
    const codePoint = character.codePointAt(0) ?? 0;
    return [codePoint, codePoint];
  });
  const others = complement([...complement(plainRanges), ...firsts]);
  const parts: GrammarNode[] = taken.some((name) => name.length === 0) ? [] : [text('"')];
  for (const [first, rest] of byFirst) parts.push(sequence(text(first), otherThan(rest)));
  parts.push(sequence(chars(...others), any));
  return choice(...parts);
}

/** Which members come, and how many: a rule for each place and count that several ways come to. */
class MemberList {
  readonly #members: readonly Member[];
  readonly #further: GrammarNode | null;
  readonly #counts: Counts;
  readonly #scope: SchemaScope;
  /** Counts beyond it are as good as it. */
  readonly #countMax: number;
  readonly #rules = new Map<string, GrammarNode>();

  constructor(members: readonly Member[], further: GrammarNode | null, counts: Counts, scope: SchemaScope) {
    this.#members = members;
    this.#further = further;
    this.#counts = counts;
    this.#scope = scope;
    const isBounded = counts.max !== null && (further !== null || counts.max < members.length);
    this.#countMax = Math.max(1, counts.min, isBounded ? (counts.max ?? 0) : 0);
    if (this.#countMax * (members.length + 1) > stateCountMax) {
      refuseSchema(
        counts.min > 1 ? 'minProperties' : 'maxProperties',
        'is too large to be enforced',
        scope.param,
      );
    }
  }

  /** From the end, so that nothing here is as deep as the list is long. */
  node(): GrammarNode {
    for (let index = this.#members.length; index > 0; index--) {
      for (let count = 0; count <= Math.min(index, this.#countMax); count++) this.#from(index, count);
    }
    return this.#from(0, 0);
  }

  #from(index: number, count: number): GrammarNode {
    const key = `${index}/${count}`;
    const known = this.#rules.get(key);
    if (known !== undefined) return known;
    const made = this.#scope.named(() => this.#make(index, count));
    this.#rules.set(key, made);
    return made;
  }

  #make(index: number, count: number): GrammarNode {
    const comma = count === 0 ? nothing : rule('comma');
    const isFull = this.#counts.max !== null && count >= this.#counts.max;
    const member = this.#members[index];
    if (member === undefined) return this.#rest(count, comma, isFull);
    const parts: GrammarNode[] = member.isRequired ? [] : [this.#from(index + 1, count)];
    if (!isFull)
      parts.push(sequence(comma, member.node, this.#from(index + 1, Math.min(count + 1, this.#countMax))));
    return parts.length === 0 ? never : choice(...parts);
  }

  #rest(count: number, comma: GrammarNode, isFull: boolean): GrammarNode {
    const parts: GrammarNode[] = count >= this.#counts.min ? [count === 0 ? nothing : rule('ws')] : [];
    if (this.#further !== null && !isFull) {
      const more = Math.max(0, this.#counts.min - count - 1);
      const most = this.#counts.max === null ? null : this.#counts.max - count - 1;
      parts.push(
        sequence(
          comma,
          this.#further,
          repeat(sequence(rule('comma'), this.#further), more, most),
          rule('ws'),
        ),
      );
    }
    return parts.length === 0 ? never : choice(...parts);
  }
}
