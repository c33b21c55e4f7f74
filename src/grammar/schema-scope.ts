/** What json-arrays.ts and json-objects.ts need of the whole schema. Made by json-schema.ts. */
import type { GrammarNode } from './grammar.js';
import type { Schema, SchemaObject } from './schema-keywords.js';

export interface SchemaScope {
  readonly param: string;
  node(schema: Schema): GrammarNode;
  /** A rule of its own for what several places share. */
  named(make: () => GrammarNode): GrammarNode;
  count(schema: SchemaObject, keyword: string): number | null;
}
