/** The code blocks of docs/architecture/library.md, each with the output written below it. Used by
 *  examples.test.ts, which runs them, and package.test.ts, which compiles them. */
import { readFileSync } from 'node:fs';
import path from 'node:path';

interface DocBlock {
  readonly code: string;
  readonly printed: string;
}

export function readBlocks(): { readonly text: string; readonly blocks: readonly DocBlock[] } {
  const text = readFileSync(path.resolve(import.meta.dirname, '../../docs/architecture/library.md'), 'utf8');
  const matches = text.matchAll(/^```ts\n(.*?)^```\n\n```text\n(.*?)^```$/gms);
  return { text, blocks: Array.from(matches, ([, code = '', printed = '']) => ({ code, printed })) };
}
