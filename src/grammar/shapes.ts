/** What an answer must look like, as plain data that a request is turned into, and the grammar it stands
 *  for. Made by server/; turned into a grammar on a thread, since schemas and patterns are a client's. */
import { parseEbnf } from './ebnf.js';
import { type Grammar, type GrammarNode, packGrammar, rule } from './grammar.js';
import { type SchemaOptions, schemaGrammar } from './json-schema.js';
import { regexNode } from './regex.js';
import { SchemaError } from './schema-keywords.js';

export type Shape =
  /** `fallback`: the schema that stands in for one that cannot be enforced. */
  | {
      readonly kind: 'schema';
      readonly schema: unknown;
      readonly whiteSpace?: 'free' | 'none';
      readonly fallback?: unknown;
    }
  /** The whole text. */
  | { readonly kind: 'regex'; readonly pattern: string }
  | { readonly kind: 'ebnf'; readonly source: string }
  | { readonly kind: 'text'; readonly text: string }
  /** A special token, or its text where the vocabulary has none. */
  | { readonly kind: 'marker'; readonly text: string }
  | { readonly kind: 'free'; readonly stops: readonly string[] }
  | { readonly kind: 'sequence' | 'choice'; readonly items: readonly Shape[] }
  | { readonly kind: 'repeat'; readonly item: Shape; readonly min: number; readonly max: number | null };

/** As packGrammar. `param`: the field of the request that it came in. @throws InvalidRequestError */
export function packShape(shape: Shape, param: string): string {
  const rules: Record<string, GrammarNode> = {};
  let partCount = 0;
  const adopt = (grammar: Grammar): GrammarNode => {
    const prefix = `${partCount++}-`;
    for (const [name, node] of Object.entries(grammar.rules)) rules[prefix + name] = renamed(node, prefix);
    return renamed(grammar.root, prefix);
  };
  const nodeOf = (part: Shape): GrammarNode => {
    switch (part.kind) {
      case 'schema': {
        const options: SchemaOptions = {
          param,
          ...(part.whiteSpace === undefined ? {} : { whiteSpace: part.whiteSpace }),
        };
        return adopt(enforceable(part, options));
      }
      case 'ebnf':
        return adopt(parseEbnf(part.source, param));
      case 'regex':
        return regexNode(part.pattern, {
          spell: (ranges) => ({ kind: 'chars', ranges }),
          match: 'whole',
          param,
        });
      case 'sequence':
      case 'choice':
        return { kind: part.kind, items: part.items.map(nodeOf) };
      case 'repeat':
        return { ...part, item: nodeOf(part.item) };
      default:
        return part;
    }
  };
  const root = nodeOf(shape);
  return packGrammar({ root, rules }, param);
}

function enforceable(part: Extract<Shape, { kind: 'schema' }>, options: SchemaOptions): Grammar {
  try {
    return schemaGrammar(part.schema, options);
  } catch (error) {
    if (!(error instanceof SchemaError) || part.fallback === undefined) throw error;
    return schemaGrammar(part.fallback, options);
  }
}

function renamed(node: GrammarNode, prefix: string): GrammarNode {
  if (node.kind === 'rule') return rule(prefix + node.name);
  if (node.kind === 'sequence' || node.kind === 'choice')
    return { ...node, items: node.items.map((item) => renamed(item, prefix)) };
  return node.kind === 'repeat' ? { ...node, item: renamed(node.item, prefix) } : node;
}
