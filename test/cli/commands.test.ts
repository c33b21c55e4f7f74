/** The command line: usage errors, exit codes, generate, and looking at servers that are not there. */

import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import golden from '../../models/demo-6m/golden.json' with { type: 'json' };
import { Running, twostroke } from './twostroke.js';

const capital = golden.cases.find(({ name }) => name === 'chat_capital');

describe.concurrent('a wrong command line', () => {
  it.each([
    { args: ['serve'], message: /required option '--model <model>'/ },
    { args: ['serve', '--model', 'demo', '--bogus'], message: /unknown option '--bogus'/ },
    { args: ['serve', '--model', 'demo', '--port', '99999'], message: /whole number from 0 to 65535/ },
    {
      args: ['serve', '--model', 'demo', '--workers', 'king:cpu'],
      message: /'king' is not one of any, prefill, decode/,
    },
    { args: ['serve', '--model', 'demo', '--workers', 'any:cpu?x=1'], message: /setting 'x' is not one of/ },
    { args: ['serve', '--model', 'demo', '--kv-cache-memory', 'lots'], message: /such as 512MiB/ },
    {
      args: ['serve', '--model', 'demo', '--kv-cache-memory', '1GiB', '--num-blocks', '9'],
      message: /cannot be used with/,
    },
    { args: ['serve', '--model', 'demo', '--block-size', '17'], message: /8, 16, 32/ },
    {
      args: ['serve', '--model', 'demo', '--strategy', 'magic'],
      message: /Allowed choices are adaptive, collocated, disaggregated/,
    },
    {
      args: ['serve', '--model', 'demo', '--max-model-len', '5000'],
      message: /more than the 4096 positions/,
    },
    {
      args: ['serve', '--model', 'demo', '--workers', 'prefill:cpu,decode:cpu', '--strategy', 'collocated'],
      message: /collocated/,
    },
    {
      args: ['serve', '--model', 'demo', '--workers', 'any:cpu', '--strategy', 'disaggregated'],
      message: /disaggregated/,
    },
    {
      args: ['serve', '--model', 'demo', '--slo', 'ttft:soon'],
      message: /--slo ttft:soon: expected ttft:MS,tpot:MS,e2el:MS/,
    },
    { args: ['serve', '--model', 'demo', '--pacing', 'fast'], message: /Allowed choices are on, off/ },
    {
      args: ['serve', '--model', 'demo', '--on-overload', 'panic'],
      message: /Allowed choices are shed, late/,
    },
    { args: ['bench', 'serve', '--send-slo'], message: /--send-slo needs --goodput/ },
    { args: ['generate', '--model', 'demo'], message: /missing required argument 'prompt'/ },
    { args: ['generate', '--model', 'demo', '', '--raw'], message: /prompt is empty/ },
    { args: ['route', '--count', '0'], message: /whole number from 1 to 1000/ },
    { args: ['workers', '--url', 'nonsense'], message: /URL such as http:/ },
    { args: ['route', '--url', 'http://127.0.0.1:99999'], message: /URL such as http:/ },
    { args: ['workers', '--url', 'ftp://127.0.0.1'], message: /URL such as http:/ },
    { args: ['bench', 'serve', '--base-url', 'http://'], message: /URL such as http:/ },
    { args: ['serve', '--model', 'demo', '--api-key', ''], message: /key of letters/ },
    { args: ['serve', '--model', 'demo', '--admin-key', 'schlüssel'], message: /key of letters/ },
    { args: ['workers', '--api-key', 'a\nb'], message: /key of letters/ },
    { args: ['nonsense'], message: /unknown command 'nonsense'/ },
  ])('$args is refused with exit code 2', async ({ args, message }) => {
    const { exitCode, stderr, stdout } = await twostroke(...args);
    expect(stderr).toMatch(message);
    expect(stderr.split('\n')[0]).toMatch(/^twostroke: /);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(stdout).toBe('');
    expect(exitCode).toBe(2);
  });
});

describe('what cannot be done', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-cli-'));
    writeFileSync(path.join(folder, 'config.json'), '{"architectures": ["MambaForCausalLM"]}');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each([
    {
      what: 'a model that is nowhere',
      args: ['generate', '--model', './nowhere', 'Hi'],
      message: /nowhere: no such folder/,
    },
    { what: 'an unsupported architecture', args: ['MODEL'], message: /MambaForCausalLM" is not supported/ },
    {
      what: 'a server that is not there',
      args: ['workers', '--url', 'http://127.0.0.1:1'],
      message: /no server at http:\/\/127.0.0.1:1/,
    },
  ])('$what: one line, exit code 1', async ({ args, message }) => {
    const { exitCode, stderr } = await twostroke(
      ...(args[0] === 'MODEL' ? ['generate', '--model', folder, 'Hi'] : args),
    );
    expect(stderr).toMatch(message);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(exitCode).toBe(1);
  });

  it('a port in use: one line, exit code 1, and no worker is left behind', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as { port: number };
    const { exitCode, stderr } = await twostroke('serve', '--model', 'demo', '--port', String(port));
    other.close();
    expect(stderr).toMatch(new RegExp(`^twostroke: port ${port} on 127.0.0.1 is already in use`, 'm'));
    expect(exitCode).toBe(1);
  });
});

describe('generate', () => {
  it('streams the answer to stdout', async () => {
    const { exitCode, stdout, stderr } = await twostroke(
      'generate',
      '--model',
      'demo',
      '--temperature',
      '0',
      'What is the capital of France?',
    );
    expect(stderr).toBe('');
    expect(stdout).toBe('The capital of France is Paris.\n');
    expect(exitCode).toBe(0);
  });

  it('ends a chat template that never does', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-endless-'));
    cpSync(path.resolve(import.meta.dirname, '../../models/demo-6m'), folder, { recursive: true });
    const loop = '{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}';
    writeFileSync(path.join(folder, 'chat_template.jinja'), loop);
    const { exitCode, stderr } = await twostroke('generate', '--model', folder, 'Hi');
    rmSync(folder, { recursive: true });
    expect(stderr).toMatch(
      /^twostroke: the model's chat template or tokenizer did not finish within 2.0 s and was stopped\n$/,
    );
    expect(exitCode).toBe(1);
  });

  it('gives the golden token ids as JSON', async () => {
    const { stdout } = await twostroke(
      'generate',
      '--model',
      'demo',
      '--temperature',
      '0',
      '--dtype',
      'f32',
      '--batch-invariant', // accepted: a CPU always is
      '--json',
      'What is the capital of France?',
    );
    expect(JSON.parse(stdout)).toMatchObject({
      tokenIds: capital?.continuation_ids,
      promptTokenCount: capital?.prompt_tokens,
      outputTokenCount: capital?.continuation_ids.length,
      finishReason: 'stop',
    });
  });

  it('reads stdin, takes the prompt raw, honours the seed and the limit', async () => {
    const args = [
      'generate',
      '--model',
      'demo',
      '--raw',
      '--seed',
      '7',
      '--temperature',
      '1',
      '--max-tokens',
      '12',
      '--json',
      '-',
    ];
    const [first, second] = await Promise.all(
      [1, 2].map(() => new Running(args, { stdin: 'Once upon' }).finished),
    );
    const { text, outputTokenCount, promptTokenCount } = JSON.parse(first?.stdout ?? '');
    expect(outputTokenCount).toBe(12);
    expect(promptTokenCount).toBeLessThan(6);
    expect(JSON.parse(second?.stdout ?? '').text).toBe(text);
  });

  it('runs on random weights', async () => {
    const { exitCode, stdout } = await twostroke(
      'generate',
      '--model',
      'demo',
      '--load-format',
      'dummy',
      '--max-tokens',
      '3',
      '--json',
      'Hi',
    );
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout).outputTokenCount).toBeGreaterThan(0);
  });

  it('ends in order on Ctrl-C', async () => {
    const running = new Running([
      'generate',
      '--model',
      'demo',
      '--raw',
      '--temperature',
      '1',
      '--max-tokens',
      '4000',
      '--top-k',
      '0',
      'Once upon a time',
    ]);
    await expect.poll(() => running.stdout.length, { timeout: 20_000 }).toBeGreaterThan(0);
    running.child.kill('SIGINT');
    const { exitCode, signal, stderr } = await running.finished;
    expect({ exitCode, signal, stderr }).toEqual({ exitCode: 0, signal: null, stderr: '' });
  });
});

it('shows help and version', async () => {
  expect((await twostroke('--version')).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  const help = await twostroke('serve', '--help');
  expect(help.exitCode).toBe(0);
  expect(help.stdout).toContain('--strategy <strategy>');
});
