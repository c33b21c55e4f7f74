/** Every command with an output that takes nothing: a closed pipe ends it without a word, a full disk with
 *  one line and exit code 1, and a closed stdout is as good as /dev/null. Then files that cannot be written,
 *  and signals that come too early. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Finished, Running, type Serving, serve, stop } from './twostroke.js';

const root = path.resolve(import.meta.dirname, '../..');
const entry = path.join(root, 'dist/src/cli/main.js');
const profile = path.join(
  root,
  'profiles',
  readdirSync(path.join(root, 'profiles')).find((name) => name.endsWith('.json'))!,
);
const story = ['generate', '--model', 'demo', '--raw', '--max-tokens', '200', 'Once upon a time'];

/** In a shell, as a person would: `redirect` is what follows the command. */
function inShell(
  redirect: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Finished> {
  const child = spawn(
    'bash',
    ['-c', `set -o pipefail; "$@" ${redirect}`, 'bash', process.execPath, entry, ...args],
    {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const texts = { stdout: '', stderr: '' };
  child.stdout.on('data', (bytes) => (texts.stdout += String(bytes)));
  child.stderr.on('data', (bytes) => (texts.stderr += String(bytes)));
  return new Promise((resolve) =>
    child.on('close', (exitCode, signal) => resolve({ exitCode, signal, ...texts })),
  );
}

const oneLine = (stderr: string) =>
  stderr.split('\n').filter((line) => line !== '' && !/^(loading|written:) /.test(line));

describe('an output that takes nothing', () => {
  let server: Serving;
  beforeAll(async () => {
    server = await serve('--model', 'demo', '--workers', 'any:cpu?threads=1');
  }, 60_000);
  afterAll(async () => {
    await stop(server);
  });

  const commands: readonly (readonly [string, () => readonly string[]])[] = [
    ['--help', () => ['--help']],
    ['--version', () => ['--version']],
    ['serve --help', () => ['serve', '--help']],
    ['generate', () => story],
    ['generate --json', () => [...story, '--json']],
    ['workers', () => ['workers', '--url', server.url]],
    ['workers --json', () => ['workers', '--url', server.url, '--json']],
    ['route', () => ['route', '--url', server.url]],
    ['route --json', () => ['route', '--url', server.url, '--json']],
    [
      'bench serve',
      () => [
        'bench',
        'serve',
        '--base-url',
        server.url,
        '--num-prompts',
        '1',
        '--random-input-len',
        '8',
        '--random-output-len',
        '2',
      ],
    ],
    [
      'bench static',
      () => [
        'bench',
        'static',
        '--base-url',
        server.url,
        '--num-prompts',
        '1',
        '--random-input-len',
        '8',
        '--random-output-len',
        '2',
        '--json',
      ],
    ],
    ['simulate', () => ['simulate', '--profile', profile, '--rate', '5', '--requests', '3']],
    ['simulate --json', () => ['simulate', '--profile', profile, '--rate', '5', '--requests', '3', '--json']],
  ];

  it.each(commands)(
    '%s: a reader that has left ends it quietly',
    async (_name, args) => {
      const { exitCode, stderr } = await inShell('| true', args());
      expect({ exitCode, told: oneLine(stderr) }).toEqual({ exitCode: 0, told: [] });
    },
    60_000,
  );

  it.each(commands)(
    '%s: a full disk is one line and exit code 1',
    async (_name, args) => {
      const { exitCode, stderr } = await inShell('> /dev/full', args());
      expect(oneLine(stderr)).toEqual([
        'twostroke: cannot write to standard output: no space left on device',
      ]);
      expect(exitCode).toBe(1);
    },
    60_000,
  );

  it.each(commands)(
    '%s: without a stdout it does its work',
    async (_name, args) => {
      const { exitCode, stderr } = await inShell('>&-', args());
      expect({ exitCode, told: oneLine(stderr) }).toEqual({ exitCode: 0, told: [] });
    },
    60_000,
  );

  it.each(['2> /dev/full', '2>&-', '2> >(true)'])(
    'errors with %s: the exit code alone says it',
    async (redirect) => {
      expect((await inShell(redirect, ['workers', '--url', 'http://127.0.0.1:1'])).exitCode).toBe(1);
      expect((await inShell(redirect, ['nosuch'])).exitCode).toBe(2);
    },
  );

  it('a reader that leaves ends a long answer early', async () => {
    const all = [
      'generate',
      '--model',
      'demo',
      '--raw',
      '--temperature',
      '1',
      '--top-k',
      '0',
      '--max-tokens',
      '100000',
      'Once upon a time',
    ];
    const { exitCode, stdout, stderr } = await inShell('| head -c 20', all);
    expect({ exitCode, stderr, length: stdout.length }).toEqual({ exitCode: 0, stderr: '', length: 20 });
  }, 60_000);
});

describe('serve', () => {
  const args = ['serve', '--model', 'demo', '--port', '0', '--workers', 'any:cpu?threads=1'];

  it('on a full disk: one line, exit code 1, and it ends its workers', async () => {
    const { exitCode, stderr } = await inShell('> /dev/full', [...args, '--json']);
    expect(stderr).toMatch(/^twostroke: cannot write to standard output: no space left on device$/m);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(exitCode).toBe(1);
  }, 60_000);

  it.each([
    ['its screen', '| true'],
    ['its log', '2> /dev/full'],
    ['its log and its screen', '2>&1 | true'],
  ])(
    'goes on when nobody reads %s, and ends in order',
    async (_what, redirect) => {
      const probe = mkdtempSync(path.join(os.tmpdir(), 'twostroke-cli-'));
      const port = await freePort();
      const shown = [...args.slice(0, 4), String(port), ...args.slice(5), '--log-level', 'debug'];
      // a child of the shell, so that the signal reaches the server alone
      const pidFile = path.join(probe, 'pid');
      const child = spawn(
        'bash',
        [
          '-c',
          `set -o pipefail; (echo $BASHPID > ${pidFile}; exec "$@") ${redirect}`,
          'bash',
          process.execPath,
          entry,
          ...shown,
        ],
        {
          cwd: root,
          stdio: 'ignore',
        },
      );
      const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
      const health = async () =>
        (await fetch(`http://127.0.0.1:${port}/health`).catch(() => null))?.status ?? 0;
      await expect.poll(health, { timeout: 30_000 }).toBe(200);
      await expect.poll(health, { timeout: 30_000 }).toBe(200); // also after its screen
      process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGTERM');
      expect(await ended).toBe(0);
      rmSync(probe, { recursive: true });
    },
    60_000,
  );
});

describe('a file that cannot be written', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-cli-'));
    writeFileSync(path.join(folder, 'file'), '');
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  const inside = () => path.join(folder, 'file', 'out');

  it.each([
    ['profile --out', () => ['profile', '--model', 'demo', '--out', path.join(inside(), 'x.json')]],
    [
      'bench serve --result-dir',
      () => ['bench', 'serve', '--base-url', 'http://127.0.0.1:1', '--save-result', '--result-dir', inside()],
    ],
    [
      'bench static --result-dir',
      () => [
        'bench',
        'static',
        '--base-url',
        'http://127.0.0.1:1',
        '--save-result',
        '--result-dir',
        inside(),
      ],
    ],
    [
      'bench sweep --result-dir',
      () => [
        'bench',
        'sweep',
        '--target',
        'a=http://127.0.0.1:1',
        '--target',
        'adaptive=http://127.0.0.1:1',
        '--result-dir',
        inside(),
      ],
    ],
    [
      'simulate --log',
      () => ['simulate', '--profile', profile, '--rate', '5', '--requests', '3', '--log', inside()],
    ],
    [
      'simulate --log',
      () => ['simulate', '--profile', profile, '--rate', '5', '--requests', '3', '--log', '/dev/full'],
    ],
  ] as const)(
    '%s: one line before the work, and no stack',
    async (option, args) => {
      const { exitCode, stderr, stdout } = await new Running(args()).finished;
      expect(stderr.trim().split('\n')).toHaveLength(1);
      expect(stderr).toContain(option.split(' ').at(-1));
      expect(stderr).toMatch(/not a directory|no space left on device/);
      if (!args().includes('/dev/full')) expect(stdout).toBe('');
      expect([1, 2]).toContain(exitCode);
    },
    60_000,
  );
});

describe('Ctrl-C before anything has begun', () => {
  const start = (args: readonly string[]) => {
    const child = spawn(process.execPath, [entry, ...args], { cwd: root, stdio: ['pipe', 'ignore', 'pipe'] });
    const running = {
      child,
      stderr: '',
      ended: new Promise<number | null>((resolve) => child.on('close', resolve)),
    };
    child.stdin.on('error', () => {});
    child.stderr.on('data', (bytes) => {
      running.stderr += String(bytes);
    });
    return running;
  };

  it('generate, while it reads its prompt: exit code 130, without a word', async () => {
    const { child, ended } = start(['generate', '--model', 'demo', '-']);
    await new Promise((resolve) => child.stdin.write('x'.repeat(2 ** 21), resolve)); // more than fits before it reads
    child.kill('SIGINT');
    expect(await ended).toBe(130);
  }, 60_000);

  it.each([
    ['serve', ['serve', '--model', 'demo', '--port', '0', '--workers', 'any:cpu?threads=1'], 0],
    [
      'profile',
      ['profile', '--model', 'demo', '--workers', 'any:cpu?threads=1', '--out', os.tmpdir() + path.sep],
      130,
    ],
  ] as const)(
    '%s, while its worker loads: it ends in order',
    async (_name, args, code) => {
      const running = start(args);
      await expect.poll(() => childrenOf(running.child.pid!).length, { timeout: 30_000 }).toBe(1);
      const [worker] = childrenOf(running.child.pid!);
      running.child.kill('SIGINT');
      expect(await running.ended).toBe(code);
      expect(running.stderr).not.toMatch(/\n\s+at /);
      expect(existsSync(`/proc/${worker}`)).toBe(false);
    },
    60_000,
  );
});

const childrenOf = (pid: number) =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter((text) => text !== '');

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}
