/** A context-free grammar over code points, as plain data: what the shapes of an answer (a schema, a
 *  regular expression, a tool call) become before they are sent to a worker. Made by the other files here;
 *  read by automaton.ts. */
import { InvalidRequestError } from '../base/errors.js';

export type GrammarNode =
  | { readonly kind: 'text'; readonly text: string }
  /** One code point out of ranges, both ends included. */
  | { readonly kind: 'chars'; readonly ranges: readonly CharRange[] }
  | { readonly kind: 'sequence'; readonly items: readonly GrammarNode[] }
  | { readonly kind: 'choice'; readonly items: readonly GrammarNode[] }
  /** `max` null: any number of times. */
  | { readonly kind: 'repeat'; readonly item: GrammarNode; readonly min: number; readonly max: number | null }
  | { readonly kind: 'rule'; readonly name: string }
  /** The special token of this text where the vocabulary has one, else the text. */
  | { readonly kind: 'marker'; readonly text: string }
  /** Any text without one of the stops. Special tokens are no text. */
  | { readonly kind: 'free'; readonly stops: readonly string[] };

export type CharRange = readonly [first: number, last: number];

export interface Grammar {
  readonly root: GrammarNode;
  readonly rules: Readonly<Record<string, GrammarNode>>;
}

export const text = (value: string): GrammarNode => ({ kind: 'text', text: value });
export const chars = (...ranges: CharRange[]): GrammarNode => ({ kind: 'chars', ranges });
export const sequence = (...items: GrammarNode[]): GrammarNode => ({ kind: 'sequence', items });
export const choice = (...items: GrammarNode[]): GrammarNode => ({ kind: 'choice', items });
export const optional = (item: GrammarNode): GrammarNode => ({ kind: 'repeat', item, min: 0, max: 1 });
export const repeat = (item: GrammarNode, min: number, max: number | null): GrammarNode => ({
  kind: 'repeat',
  item,
  min,
  max,
});
export const rule = (name: string): GrammarNode => ({ kind: 'rule', name });
export const marker = (value: string): GrammarNode => ({ kind: 'marker', text: value });
/** Nothing at all matches it. */
export const never: GrammarNode = { kind: 'choice', items: [] };
export const nothing: GrammarNode = { kind: 'text', text: '' };

export const codePointMax = 0x10ffff;

/** What the ranges leave of all code points that may stand in a text. */
export function complement(ranges: readonly CharRange[]): CharRange[] {
  const left: CharRange[] = [];
  let first = 0;
  for (const [from, to] of [...ranges].sort((a, b) => a[0] - b[0])) {
    if (from > first) left.push([first, from - 1]);
    first = Math.max(first, to + 1);
  }
  if (first <= codePointMax) left.push([first, codePointMax]);
  return left;
}

/** Of the text that a worker is sent. */
const grammarTextMax = 2 ** 20;
const nodeCountMax = 2 ** 17;

/** The grammar without what can never end, as the text that goes to workers. @throws InvalidRequestError
 *  naming `param`. */
export function packGrammar(grammar: Grammar, param: string): string {
  const refuse = (message: string): never => {
    throw new InvalidRequestError(`${param}: ${message}`, param);
  };
  const nodeCount =
    countNodes(grammar.root) + Object.values(grammar.rules).reduce((sum, node) => sum + countNodes(node), 0);
  if (nodeCount > nodeCountMax)
    refuse(`too large: ${nodeCount} parts, at most ${nodeCountMax} can be enforced`);
  const used = usedRules(grammar);
  for (const name of used) if (!Object.hasOwn(grammar.rules, name)) refuse(`there is no rule "${name}"`);
  const loop = leftRecursiveRule(grammar);
  if (loop !== null) refuse(`rule "${loop}" begins with itself (left recursion), which cannot be enforced`);
  const productive = productiveRules(grammar);
  const root = pruned(grammar.root, productive);
  if (root === null)
    return refuse('nothing satisfies it: every way through it goes on for ever or contradicts itself');
  const rules: Record<string, GrammarNode> = {};
  for (const [name, node] of Object.entries(grammar.rules)) {
    const kept = used.has(name) && productive.has(name) ? pruned(node, productive) : null;
    if (kept !== null) rules[name] = kept;
  }
  const packed = JSON.stringify({ root, rules } satisfies Grammar);
  if (packed.length > grammarTextMax)
    refuse(`too large: ${packed.length} characters as a grammar, at most ${grammarTextMax}`);
  return packed;
}

function childrenOf(node: GrammarNode): readonly GrammarNode[] {
  if (node.kind === 'sequence' || node.kind === 'choice') return node.items;
  return node.kind === 'repeat' ? [node.item] : [];
}

function countNodes(node: GrammarNode): number {
  const own = node.kind === 'chars' ? node.ranges.length : 1;
  return childrenOf(node).reduce((sum, child) => sum + countNodes(child), own);
}

function usedRules({ root, rules }: Grammar): ReadonlySet<string> {
  const used = new Set<string>();
  const note = (node: GrammarNode): void => {
    if (node.kind === 'rule') used.add(node.name);
    for (const child of childrenOf(node)) note(child);
  };
  note(root);
  for (const name of used) {
    const node = Object.hasOwn(rules, name) ? rules[name] : undefined;
    if (node !== undefined) note(node); // the set grows while it is gone through
  }
  return used;
}

/** Rules that some finite text satisfies. */
function productiveRules({ rules }: Grammar): ReadonlySet<string> {
  const productive = new Set<string>();
  for (let grew = true; grew; ) {
    grew = false;
    for (const [name, node] of Object.entries(rules)) {
      if (productive.has(name) || !isProductive(node, productive)) continue;
      productive.add(name);
      grew = true;
    }
  }
  return productive;
}

function isProductive(node: GrammarNode, productive: ReadonlySet<string>): boolean {
  if (node.kind === 'rule') return productive.has(node.name);
  if (node.kind === 'chars') return node.ranges.length > 0;
  if (node.kind === 'sequence') return node.items.every((item) => isProductive(item, productive));
  if (node.kind === 'choice') return node.items.some((item) => isProductive(item, productive));
  if (node.kind === 'repeat') return node.min === 0 || isProductive(node.item, productive);
  return true;
}

function pruned(node: GrammarNode, productive: ReadonlySet<string>): GrammarNode | null {
  if (!isProductive(node, productive)) return null;
  const keep = (items: readonly GrammarNode[]) => items.flatMap((item) => pruned(item, productive) ?? []);
  if (node.kind === 'sequence' || node.kind === 'choice') return { ...node, items: keep(node.items) };
  if (node.kind !== 'repeat') return node;
  const item = pruned(node.item, productive);
  return item === null ? nothing : { ...node, item };
}

/** A rule that may begin with itself before anything is read; null: none. */
function leftRecursiveRule({ rules }: Grammar): string | null {
  const nullable = nullableRules(rules);
  const firsts = new Map(
    Object.entries(rules).map(([name, node]) => [name, new Set(firstRules(node, nullable))]),
  );
  const state = new Map<string, 'open' | 'done'>();
  for (const name of firsts.keys()) {
    const stack = [name]; // rules may be in a row thousands long
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const next = [...(firsts.get(top) ?? [])].find((one) => state.get(one) !== 'done');
      state.set(top, next === undefined ? 'done' : 'open');
      if (next === undefined) stack.pop();
      else if (state.get(next) === 'open') return next;
      else stack.push(next);
    }
  }
  return null;
}

function nullableRules(rules: Grammar['rules']): ReadonlySet<string> {
  const nullable = new Set<string>();
  for (let grew = true; grew; ) {
    grew = false;
    for (const [name, node] of Object.entries(rules)) {
      if (nullable.has(name) || !isNullable(node, nullable)) continue;
      nullable.add(name);
      grew = true;
    }
  }
  return nullable;
}

function isNullable(node: GrammarNode, nullable: ReadonlySet<string>): boolean {
  if (node.kind === 'text' || node.kind === 'marker') return node.text === '';
  if (node.kind === 'rule') return nullable.has(node.name);
  if (node.kind === 'sequence') return node.items.every((item) => isNullable(item, nullable));
  if (node.kind === 'choice') return node.items.some((item) => isNullable(item, nullable));
  if (node.kind === 'repeat') return node.min === 0 || isNullable(node.item, nullable);
  return node.kind === 'free';
}

function firstRules(node: GrammarNode, nullable: ReadonlySet<string>): readonly string[] {
  if (node.kind === 'rule') return [node.name];
  if (node.kind === 'choice') return node.items.flatMap((item) => firstRules(item, nullable));
  if (node.kind === 'repeat') return firstRules(node.item, nullable);
  if (node.kind !== 'sequence') return [];
  const end = node.items.findIndex((item) => !isNullable(item, nullable));
  return node.items.slice(0, end === -1 ? undefined : end + 1).flatMap((item) => firstRules(item, nullable));
}
