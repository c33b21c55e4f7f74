/** How `twostroke serve` starts and ends: the screen, models it cannot serve, signals, shutdown under load,
 *  lost workers. */
import { cpSync, mkdtempSync, rmSync, truncateSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findLocalModel } from '../../src/hub/find-model.js';
import { Running, serve, stop, workersOf } from './twostroke.js';

const ask = (url: string, fields: object, path = '/v1/completions') =>
  fetch(url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(fields),
  });

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

describe('start', () => {
  it('shows one screen with model, workers, URL, the first answer and a line to paste', async () => {
    const running = new Running([
      'serve',
      '--model',
      'demo',
      '--workers',
      'prefill:cpu,decode:cpu',
      '--port',
      '0',
    ]);
    await expect.poll(() => running.stdout, { timeout: 60_000 }).toContain('curl');
    expect(running.stdout).toMatch(/model +demo {2}\(qwen3, 5.8 M parameters, bf16, context 4,096 tokens\)/);
    expect(running.stdout).toMatch(/prefill +cpu .* KV [\d,]+ tokens/);
    expect(running.stdout).toMatch(/decode +cpu .* KV [\d,]+ tokens/);
    expect(running.stdout).toMatch(
      /answered +The capital of France is Paris\. {2}\(disaggregated; \S+ -> \S+\)/,
    );
    const curl = /curl -N (\S+)\/v1\/chat\/completions -H 'content-type: application\/json' -d '(.*)'/.exec(
      running.stdout,
    );
    const response = await ask(curl?.[1] ?? '', JSON.parse(curl?.[2] ?? '{}'), '/v1/chat/completions');
    expect(await response.text()).toContain('data: [DONE]');
    expect((await stop(running)).exitCode).toBe(0);
  });

  it('serves token ids alone with --skip-tokenizer-init, and random weights with --load-format dummy', async () => {
    const serving = await serve(
      '--model',
      'demo',
      '--skip-tokenizer-init',
      '--load-format',
      'dummy',
      '--served-model-name',
      'ids',
    );
    const response = await ask(serving.url, {
      model: 'ids',
      prompt: [5, 6, 7],
      max_tokens: 4,
      ignore_eos: true,
    });
    const { choices } = (await response.json()) as { choices: { token_ids: number[] }[] };
    expect(choices[0]?.token_ids).toHaveLength(4);
    expect((await stop(serving)).exitCode).toBe(0);
  });

  describe('with a broken model', () => {
    let folder: string;
    beforeAll(() => {
      folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-broken-'));
      cpSync(findLocalModel('demo'), folder, { recursive: true });
      truncateSync(path.join(folder, 'model.safetensors'), 5_000_000);
    });
    afterAll(() => rmSync(folder, { recursive: true }));

    it('ends with one error that names the file, exit code 1', async () => {
      const { exitCode, stderr, stdout } = await new Running(['serve', '--model', folder, '--port', '0'])
        .finished;
      expect(stderr).toMatch(/^twostroke: .*model\.safetensors/m);
      expect(stderr).not.toMatch(/\n\s+at /);
      expect(stdout).toBe('');
      expect(exitCode).toBe(1);
    });
  });
});

describe('end', () => {
  it('lets an open stream finish on SIGTERM, exits with 0 and leaves no process', async () => {
    const serving = await serve('--model', 'demo', '--workers', 'prefill:cpu,decode:cpu');
    const pids = (await workersOf(serving.url)).map(({ pid }) => pid ?? 0);
    expect(pids.every(isAlive)).toBe(true);
    const response = await ask(serving.url, {
      prompt: 'Once upon',
      stream: true,
      max_tokens: 300,
      ignore_eos: true,
    });
    serving.child.kill('SIGTERM');
    const text = await response.text();
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
    expect(text).toContain('"finish_reason":"length"');
    expect((await serving.finished).exitCode).toBe(0);
    expect(pids.some(isAlive)).toBe(false);
  });

  it('tells a stream that is still open at the deadline why it ends', async () => {
    const serving = await serve('--model', 'demo', '--drain', '1');
    const response = await ask(serving.url, {
      prompt: 'Once upon',
      stream: true,
      max_tokens: 4000,
      ignore_eos: true,
    });
    serving.child.kill('SIGTERM');
    const text = await response.text();
    expect(text).toMatch(
      /data: \{"error":\{"message":"The server is shutting down".*\}\}\n\ndata: \[DONE\]\n\n$/,
    );
    expect((await serving.finished).exitCode).toBe(0);
  });

  it('ends at once on a second signal, and the workers follow', async () => {
    const serving = await serve('--model', 'demo', '--drain', '600');
    const pids = (await workersOf(serving.url)).map(({ pid }) => pid ?? 0);
    const response = await ask(serving.url, {
      prompt: 'Once upon',
      stream: true,
      max_tokens: 4000,
      ignore_eos: true,
    });
    serving.child.kill('SIGINT');
    await expect
      .poll(() =>
        fetch(serving.url).then(
          () => 'open',
          () => 'closed',
        ),
      )
      .toBe('closed');
    serving.child.kill('SIGINT');
    expect((await serving.finished).exitCode).toBe(130);
    await response.text().catch(() => undefined);
    await expect.poll(() => pids.some(isAlive), { timeout: 10_000 }).toBe(false);
  });
});

describe('a killed worker', () => {
  it('is replaced, and its streams go on', async () => {
    const serving = await serve('--model', 'demo', '--workers', 'any:cpu*2');
    const [victim] = await workersOf(serving.url);
    const open = ask(serving.url, {
      prompt: 'Once upon a time',
      stream: true,
      max_tokens: 1500,
      ignore_eos: true,
    });
    const other = ask(serving.url, {
      prompt: 'Once upon a day',
      stream: true,
      max_tokens: 1500,
      ignore_eos: true,
    });
    await Promise.all([open, other]);
    process.kill(victim?.pid ?? 0, 'SIGKILL');
    for (const response of [await open, await other]) {
      const text = await response.text();
      expect(text).toContain('"finish_reason":"length"');
      expect(text).not.toContain('"error"');
    }
    await expect
      .poll(
        async () => (await workersOf(serving.url)).map(({ state, restartCount }) => [state, restartCount]),
        {
          timeout: 20_000,
        },
      )
      .toEqual([
        ['ready', 1],
        ['ready', 0],
      ]);
    expect((await stop(serving)).exitCode).toBe(0);
  });
});
