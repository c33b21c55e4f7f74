/** The package as others install it: packed, its entries resolve, and its types compile with old and new
 *  TypeScript. The old one takes five times as long as the new: it compiles with TWOSTROKE_TEST=full only. */
import { execFile } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { publint } from 'publint';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readBlocks } from './doc-blocks.js';

const root = path.resolve(import.meta.dirname, '../..');
const dependency = (name: string) => path.join(root, 'node_modules', name);
const runFile = promisify(execFile);

/** A package that has installed this one from its tarball. */
let consumer: string;
let tarball: string;

beforeAll(async () => {
  consumer = mkdtempSync(path.join(realpathSync(os.tmpdir()), 'twostroke-consumer-'));
  await runFile(process.execPath, [path.join(root, 'scripts/build.mjs'), '--native-only', '--prebuilt']);
  const { stdout } = await runFile(
    'npm',
    ['pack', '--ignore-scripts', '--json', '--pack-destination', consumer],
    {
      cwd: root,
      maxBuffer: 2 ** 26,
    },
  );
  const [{ filename }] = JSON.parse(stdout) as [{ filename: string }];
  tarball = path.join(consumer, filename);
  const modules = path.join(consumer, 'node_modules');
  mkdirSync(path.join(modules, 'twostroke'), { recursive: true });
  await runFile('tar', ['xzf', tarball, '--strip-components=1', '-C', path.join(modules, 'twostroke')]);
  const { dependencies } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
    dependencies: object;
  };
  for (const name of [...Object.keys(dependencies), '@types/node']) {
    mkdirSync(path.dirname(path.join(modules, name)), { recursive: true });
    symlinkSync(dependency(name), path.join(modules, name));
  }
  writeFileSync(
    path.join(consumer, 'package.json'),
    '{"name": "consumer", "type": "module", "private": true}',
  );
  copyFileSync(path.join(import.meta.dirname, 'consumer.ts'), path.join(consumer, 'consumer.ts'));
  for (const [i, { code }] of readBlocks().blocks.entries())
    writeFileSync(path.join(consumer, `block-${i}.ts`), code);
});
afterAll(() => rmSync(consumer, { recursive: true }));

interface Ended {
  readonly exitCode: number;
  readonly output: string;
}

function node(...args: readonly string[]): Promise<Ended> {
  return runFile(process.execPath, args, { cwd: consumer }).then(
    ({ stdout, stderr }) => ({ exitCode: 0, output: stdout + stderr }),
    ({ code, stdout, stderr }) => ({ exitCode: code, output: stdout + stderr }),
  );
}

it('publint finds nothing', async () => {
  const { messages } = await publint({
    pkgDir: path.join(consumer, 'node_modules/twostroke'),
    pack: false,
    strict: true,
  });
  expect(messages).toEqual([]);
});

it('its types resolve to what runs, from ES modules and bundlers', async () => {
  const attw = dependency('@arethetypeswrong/cli/dist/index.js');
  expect(await node(attw, tarball, '--profile', 'esm-only', '--format', 'ascii')).toMatchObject({
    exitCode: 0,
  });
});

describe('a consumer compiles', () => {
  const compilers = { 'TypeScript 5.9': 'typescript59', 'TypeScript 7': 'typescript' };
  const resolutions = {
    nodenext: { module: 'nodenext' },
    bundler: { module: 'esnext', moduleResolution: 'bundler' },
  };
  const all = Object.entries(compilers).flatMap(([compiler, name]) =>
    Object.entries(resolutions).map(([resolution, options]) => ({ compiler, name, resolution, options })),
  );
  const cases = process.env.TWOSTROKE_TEST === 'full' ? all : all.filter(({ name }) => name === 'typescript');

  it.each(cases)('with $compiler, $resolution', async ({ name, resolution, options }) => {
    const file = path.join(consumer, `tsconfig.${name}.${resolution}.json`);
    const compilerOptions = {
      ...options,
      target: 'es2022',
      lib: ['es2023', 'esnext.disposable'],
      types: ['node'],
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      noEmit: true,
    };
    writeFileSync(file, JSON.stringify({ compilerOptions, include: ['*.ts'] }));
    expect(await node(dependency(`${name}/bin/tsc`), '-p', file)).toEqual({ exitCode: 0, output: '' });
  });
});

it('generates without a compiler, with the library that it carries', async () => {
  const tools = path.join(consumer, 'tools');
  mkdirSync(tools);
  symlinkSync(process.execPath, path.join(tools, 'node'));
  const command = path.join(consumer, 'node_modules/twostroke/dist/src/cli/main.js');
  const args = [command, 'generate', '--model', 'demo', '--max-tokens', '2', '--json', 'Hello'];
  const env = { PATH: tools, HOME: consumer };
  const { stdout, stderr } = await runFile('node', args, { cwd: consumer, env });
  expect(stderr).toBe(''); // nothing was compiled
  expect(JSON.parse(stdout)).toMatchObject({ outputTokenCount: 2 });
});

it('has nothing but its entries', async () => {
  const { output } = await node(
    '--input-type=module',
    '--eval',
    "await import('twostroke/dist/src/engine/engine.js')",
  );
  expect(output).toContain('ERR_PACKAGE_PATH_NOT_EXPORTED');
  const names = `for (const entry of ['', '/server', '/client']) console.log(Object.keys(await import('twostroke' + entry)).join());`;
  expect((await node('--input-type=module', '--eval', names)).output).toBe(
    'TwostrokeError,loadModel\nTwostrokeError,startServer\n\n',
  );
});
