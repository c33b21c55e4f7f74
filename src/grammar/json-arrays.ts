/** Arrays of a schema as grammar. Used by json-schema.ts. */
import { choice, type GrammarNode, never, repeat, rule, sequence, text } from './grammar.js';
import { has, isSchema, refuseSchema, type Schema, type SchemaObject } from './schema-keywords.js';
import type { SchemaScope } from './schema-scope.js';

export function arrayNode(schema: SchemaObject, scope: SchemaScope): GrammarNode {
  const min = scope.count(schema, 'minItems') ?? 0;
  const max = scope.count(schema, 'maxItems');
  if (has(schema, 'uniqueItems') && schema.uniqueItems !== false && (max === null || max > 1)) {
    refuseSchema('uniqueItems', 'cannot be enforced', scope.param);
  }
  const { first, further } = itemsOf(schema, scope);
  if (max !== null && max < min) return never;
  const leading = first.slice(0, max ?? first.length);
  const item = further === null ? null : scope.named(() => scope.node(further));
  const content = from(
    0,
    leading.map((one) => scope.node(one)),
    item,
    { min, max },
  );
  return content === null ? never : sequence(text('['), rule('ws'), content, text(']'));
}

/** The items from `index` on, with what comes before the closing bracket; null: there is no such array. */
function from(
  index: number,
  leading: readonly GrammarNode[],
  item: GrammarNode | null,
  { min, max }: { min: number; max: number | null },
): GrammarNode | null {
  const close = index === 0 ? text('') : rule('ws');
  const comma = index === 0 ? text('') : rule('comma');
  const parts: GrammarNode[] = index >= min ? [close] : [];
  const next = leading[index];
  if (next !== undefined) {
    const rest = from(index + 1, leading, item, { min, max });
    if (rest !== null) parts.push(sequence(comma, next, rest));
  } else if (item !== null && (max === null || max > index)) {
    const more = repeat(
      sequence(rule('comma'), item),
      Math.max(0, min - index - 1),
      max === null ? null : max - index - 1,
    );
    parts.push(sequence(comma, item, more, rule('ws')));
  }
  const [only] = parts;
  if (only === undefined) return null;
  return parts.length === 1 ? only : choice(...parts);
}

/** `further` null: no more than the first ones. In draft 7 a list under "items" is what "prefixItems" is
 *  now. */
function itemsOf(
  schema: SchemaObject,
  { param }: SchemaScope,
): { first: readonly Schema[]; further: Schema | null } {
  const isOld = Array.isArray(schema.items);
  const list = isOld ? schema.items : has(schema, 'prefixItems') ? schema.prefixItems : [];
  if (!Array.isArray(list) || !list.every(isSchema))
    return refuseSchema(isOld ? 'items' : 'prefixItems', 'is not a list of schemas', param);
  const keyword = isOld ? 'additionalItems' : 'items';
  if (!has(schema, keyword)) return { first: list, further: list.length > 0 ? null : true };
  const further = schema[keyword];
  if (!isSchema(further)) return refuseSchema(keyword, 'is not a schema', param);
  return { first: list, further: further === false ? null : further };
}
