/** The examples and the code blocks of docs/architecture/library.md run as they stand and print what is
 *  written beside them. */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import ts from 'typescript59';
import { describe, expect, it } from 'vitest';
import { readBlocks } from './doc-blocks.js';

const root = path.resolve(import.meta.dirname, '../..');
const runFile = promisify(execFile);
const run = async (...args: readonly string[]) =>
  (await runFile(process.execPath, args, { cwd: root })).stdout;

describe.concurrent('examples', () => {
  it('collocated answers five questions', async () => {
    const stdout = await run('dist/examples/collocated.js', '--max-new-tokens', '12');
    expect(stdout).toContain(
      '> What is the capital of France?\nThe capital of France is Paris.\n  15 prompt tokens, 8 generated\n',
    );
    expect(stdout.match(/^> /gm)).toHaveLength(5);
  });

  it('disaggregated answers by both workers', async () => {
    expect(await run('dist/examples/disaggregated.js')).toBe(
      'The capital of France is Paris.  (disaggregated; w0 -> w1)\n',
    );
  });
});

describe.concurrent('docs/architecture/library.md', () => {
  const { text, blocks } = readBlocks();

  it('prints something in every block', () => {
    expect(blocks.length).toBeGreaterThan(2);
    expect(text.match(/^```ts$/gm)).toHaveLength(blocks.length);
  });

  it.each(blocks)('$printed', async ({ code, printed }) => {
    const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
    const { outputText } = ts.transpileModule(code, { compilerOptions });
    const stdout = await run('--input-type=module', '--eval', outputText);
    expect(stdout.trimEnd()).toBe(printed.trimEnd());
  });
});
