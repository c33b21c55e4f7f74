/** A program that imports the package ends by itself once it has closed what it opened; an error ends it with
 *  code 1. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');

/** Runs `code` as a module of this package, which therefore finds it by its name. */
function run(
  code: string,
): Promise<{ readonly exitCode: number | null; readonly stdout: string; readonly stderr: string }> {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', code], { cwd: root });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (bytes) => {
    stdout += bytes;
  });
  child.stderr.on('data', (bytes) => {
    stderr += bytes;
  });
  return new Promise((resolve) => child.on('close', (exitCode) => resolve({ exitCode, stdout, stderr })));
}

describe.concurrent('a program ends by itself', () => {
  it('after a model was closed', async () => {
    const ended = await run(`
      import { loadModel } from 'twostroke';
      const model = await loadModel('demo', { threads: 1 });
      const { finishReason } = await model.complete('Once', { maxTokens: 4 });
      await model.close();
      process.on('exit', () => console.log(finishReason, process.getActiveResourcesInfo().filter((name) => !name.includes('Pipe'))));
    `);
    expect(ended).toEqual({ exitCode: 0, stdout: 'length []\n', stderr: '' });
  });

  it('after a model was closed while it generated', async () => {
    const ended = await run(`
      import { loadModel } from 'twostroke';
      const model = await loadModel('demo', { threads: 1 });
      const running = model.complete('Once', { maxTokens: 4000, ignoreEos: true }).catch(({ message }) => console.log(message));
      setTimeout(() => model.close(), 100);
    `);
    expect(ended).toEqual({ exitCode: 0, stdout: 'the model was closed\n', stderr: '' });
  });

  it('after a server was closed', async () => {
    const ended = await run(`
      import { startServer } from 'twostroke/server';
      const server = await startServer({ model: 'demo', workers: 'any:cpu', port: 0 });
      console.log((await fetch(server.url + '/health')).status);
      await server.close();
    `);
    expect(ended).toEqual({ exitCode: 0, stdout: '200\n', stderr: '' });
  });

  it('after neither could start', async () => {
    const ended = await run(`
      import { loadModel, TwostrokeError } from 'twostroke';
      import { startServer } from 'twostroke/server';
      const say = (error) => console.log(error instanceof TwostrokeError, error.code);
      await loadModel('demo', { kvCacheMemory: 1 }).catch(say);
      await startServer({ model: 'demo', port: 0, numBlocks: 2, logLevel: 'silent' }).catch(say);
    `);
    expect(ended).toEqual({ exitCode: 0, stdout: 'true model_error\ntrue model_error\n', stderr: '' });
  });
});
