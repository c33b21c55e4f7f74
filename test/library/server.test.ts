/** `twostroke/server`: a server of one's own program answers, ends, and says what is wrong. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { TwostrokeError } from '../../src/library/load-model.js';
import type { ServerOptions } from '../../src/library/options.js';
import { type Server, startServer } from '../../src/library/start-server.js';
import { ThreadedText } from '../../src/server/text-service.js';

const demo: ServerOptions = { model: 'demo', port: 0, drain: 0 };

async function ask(server: Server): Promise<string> {
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      messages: [{ role: 'user', content: 'What is the capital of France?' }],
      temperature: 0,
    }),
  });
  const answer = (await response.json()) as { choices: readonly { message: { content: string } }[] };
  return answer.choices[0]?.message.content ?? JSON.stringify(answer);
}

/** Of libuv in a worker, for native waits; all start with the first. Node by default has 4, and fewer than
 *  these in all. */
const poolThreadCount = 16;
const threadCount = (pid: number) => readdirSync(`/proc/${pid}/task`).length;

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

async function failure(attempt: Promise<unknown>): Promise<TwostrokeError> {
  const error = await attempt.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(TwostrokeError);
  return error as TwostrokeError;
}

describe('startServer', () => {
  it('answers when it resolves; after close nothing listens and no worker is left', async () => {
    const server = await startServer({
      ...demo,
      workers: 'prefill:cpu?threads=1,decode:cpu?threads=1',
      servedModelName: ['tiny'],
    });
    expect(await ask(server)).toBe('The capital of France is Paris.');
    expect(await (await fetch(`${server.url}/v1/models`)).json()).toMatchObject({ data: [{ id: 'tiny' }] });
    const { workers } = (await (await fetch(`${server.url}/workers`)).json()) as {
      workers: readonly { pid: number }[];
    };
    expect(workers).toHaveLength(2);
    for (const { pid } of workers) expect(threadCount(pid)).toBeGreaterThan(poolThreadCount);
    await Promise.all([server.close(), server.close()]);
    await server.close();
    await expect(fetch(server.url)).rejects.toThrow();
    expect(workers.filter(({ pid }) => isAlive(pid))).toEqual([]);
  });

  it('a port in use: an error that says so, and no worker is left', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as { port: number };
    const closeText = vi.spyOn(ThreadedText.prototype, 'close');
    const error = await failure(startServer({ ...demo, port }));
    other.close();
    expect(closeText).toHaveBeenCalledTimes(1);
    closeText.mockRestore();
    expect(error.code).toBe('unavailable');
    expect(error.message).toMatch(new RegExp(`^port ${port} on 127.0.0.1 is already in use`));
    expect(error.message).not.toContain('--');
  });

  it('knows the classes of its qos file, and the slo they change', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-library-'));
    const qos = path.join(folder, 'qos.yaml');
    writeFileSync(
      qos,
      `scheduler: { qos_classes: [{ name: premium, slo: "tpot:3x" }] }\nrequest_router: { routes: [{ qos: premium }] }\n`,
    );
    try {
      await using server = await startServer({
        ...demo,
        qos,
        slo: 'ttft:9000',
        pacing: 'off',
        onOverload: 'shed',
      });
      expect(await ask(server)).toBe('The capital of France is Paris.');
      expect(await (await fetch(`${server.url}/metrics`)).text()).toContain('class="premium"');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('workers that cannot load: the error of the worker', async () => {
    const { code, message } = await failure(startServer({ ...demo, numBlocks: 2, logLevel: 'silent' }));
    expect(code).toBe('model_error');
    expect(message).toMatch(/one context of 4096 tokens needs 256 KV blocks/);
  });

  it.each([
    { options: { ...demo, port: 99999 }, message: /^port: / },
    { options: { ...demo, workers: 'king:cpu' }, message: /'king' is not one of any, prefill, decode/ },
    { options: { ...demo, workers: '' }, message: /^workers: empty/ },
    { options: { ...demo, strategy: 'disaggregated' }, message: /disaggregated/ },
    { options: { ...demo, split: '1' }, message: /^split: expected PREFILL:DECODE/ },
    { options: { ...demo, apiKey: [''] }, message: /^apiKey.*: expected letters/ },
    { options: { ...demo, adminKey: ['two words'] }, message: /^adminKey.*: expected letters/ },
    { options: { ...demo, slo: 'ttft:soon' }, message: /^slo ttft:soon: expected/ },
    { options: { ...demo, onOverload: 'drop' }, message: /^onOverload: Invalid option/ },
    { options: { ...demo, pacing: true }, message: /^pacing: Invalid option/ },
    { options: { ...demo, qos: './nowhere.yaml' }, message: /^qos \.\/nowhere\.yaml: .*no such file/ },
    { options: { ...demo, profile: './nowhere.json' }, message: /nowhere\.json/ },
    { options: { ...demo, model: './nowhere' }, message: /^\.\/nowhere: no such folder/ },
    { options: { port: 0 }, message: /^model: required, but missing/ },
    { options: { ...demo, workrs: 'any:cpu' }, message: 'Unrecognized key: "workrs"' },
    { options: undefined, message: 'the options must be an object, not undefined' },
  ])('$options is refused', async ({ options, message }) => {
    expect((await failure(startServer(options as ServerOptions))).message).toMatch(message);
  });
});
