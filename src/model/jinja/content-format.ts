/** What a template expects a message's content to be, read off its syntax tree. Used by template.ts. */
import type { Statement } from './nodes.js';

/** string: a text. parts: it goes through a list of {"type": "text", …}. either: it asks which one it was
 *  given. */
export type ContentFormat = 'string' | 'parts' | 'either';

type Node = Readonly<Record<string, unknown>>;

export function contentFormatOf(body: readonly Statement[]): ContentFormat {
  const nodes = nodesIn(body);
  const names = new Set(['content']);
  for (const { kind, target, value } of nodes) {
    if (kind === 'set' && isNode(target) && target.kind === 'name' && isContent(value, names))
      names.add(String(target.name));
  }
  if (!nodes.some(({ kind, over }) => kind === 'for' && isContent(over, names))) return 'string';
  return nodes.some(({ kind, name, of }) => kind === 'test' && name === 'string' && isContent(of, names))
    ? 'either'
    : 'parts';
}

/** `message.content`, `message["content"]` or a variable that was set to it, filtered or sliced or not. */
function isContent(value: unknown, names: ReadonlySet<string>): boolean {
  if (!isNode(value)) return false;
  switch (value.kind) {
    case 'name':
      return names.has(String(value.name));
    case 'attribute':
      return value.name === 'content';
    case 'item':
      if (!isNode(value.key)) return false;
      return value.key.kind === 'slice'
        ? isContent(value.of, names)
        : value.key.kind === 'constant' && value.key.value === 'content';
    case 'filter':
    case 'test':
      return isContent(value.of, names);
    case 'if':
      return isContent(value.then, names) || isContent(value.else, names);
    default:
      return false;
  }
}

/** Without recursion: a long sum is a deep tree. */
function nodesIn(body: unknown): Node[] {
  const found: Node[] = [];
  const left: unknown[] = [body];
  while (left.length > 0) {
    const value = left.pop();
    if (Array.isArray(value)) for (const item of value) left.push(item);
    else if (isNode(value)) {
      if (typeof value.kind === 'string') found.push(value);
      if (value.kind !== 'constant') left.push(...Object.values(value));
    }
  }
  return found.reverse();
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
