/** The `twostroke` command and a stand-in hub: a model served by its name, two processes that pull at once,
 *  one that is killed, and the commands about models. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { Running } from '../cli/twostroke.js';
import { StandInHub } from './stand-in-hub.js';

const demoFolder = path.resolve(import.meta.dirname, '../../models/demo-6m');
const weightsByteCount = readFileSync(path.join(demoFolder, 'model.safetensors')).length;
let hub: StandInHub;
let cacheFolder: string;

beforeAll(async () => {
  hub = await StandInHub.start();
  const names = [
    'config.json',
    'generation_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
    'model.safetensors',
    'train_log.json',
  ];
  hub.add(
    'org/demo',
    Object.fromEntries(names.map((name) => [name, readFileSync(path.join(demoFolder, name))])),
  );
});
afterAll(() => hub.close());

beforeEach(() => {
  cacheFolder = mkdtempSync(path.join(tmpdir(), 'hub-'));
  hub.asked.length = 0;
  hub.fault = () => null;
  hub.stalledCount = 0;
  return () => rmSync(cacheFolder, { recursive: true });
});

function start(...args: string[]): Running {
  const none = {
    HF_TOKEN: '',
    HF_HUB_OFFLINE: '',
    HTTP_PROXY: '',
    http_proxy: '',
    HF_TOKEN_PATH: '/nowhere',
  };
  return new Running(args, { env: { ...none, HF_ENDPOINT: hub.url, HF_HUB_CACHE: cacheFolder } });
}

/** Bytes of weights that left the servers' files: a range counts from where it starts. */
const weightsAsked = () => hub.asked.filter(({ server }) => server === 'cdn').map(({ range }) => range);

it('generates with a model by its name, and offline afterwards', async () => {
  const first = await start('generate', '--model', 'org/demo', '--max-tokens', '2', 'Hello').finished;
  expect(first.stderr).toMatch(/downloading org\/demo \[#+\] 100% {2}.* MiB of .* MiB/);
  expect(first.exitCode).toBe(0);
  hub.asked.length = 0;
  const offline = new Running(['generate', '--model', 'org/demo', '--max-tokens', '2', 'Hello'], {
    env: { HF_HUB_OFFLINE: '1', HF_ENDPOINT: hub.url, HF_HUB_CACHE: cacheFolder },
  });
  expect((await offline.finished).stdout).toBe(first.stdout);
  expect(hub.asked).toEqual([]);
});

it('shows what a model is without its weights', async () => {
  const shown = await start('models', 'show', 'org/demo', '--json').finished;
  expect(JSON.parse(shown.stdout)).toMatchObject({
    licence: 'apache-2.0',
    architecture: 'qwen3',
    dtype: 'bf16',
    contextTokenCount: 4096,
    weightBytes: weightsByteCount,
    kvBytesPerToken: 3072,
    devices: [{ device: 'cpu', kind: 'cpu' }],
  });
  expect(hub.asked.map((asked) => path.basename(asked.path))).toEqual(['main?blobs=true', 'config.json']);
});

it('pulls in two processes at once, each byte once', async () => {
  const both = await Promise.all([1, 2].map(() => start('models', 'pull', 'org/demo', '--json').finished));
  const [one, two] = both.map(({ stdout, stderr }) => {
    expect(stderr).not.toMatch(/internal/);
    return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as { path: string; byteCount: number };
  });
  expect(one?.path).toBe(two?.path);
  expect(weightsAsked()).toEqual([null]);
  expect(readFileSync(path.join(one?.path ?? '', 'model.safetensors')).length).toBe(weightsByteCount);
  expect(readdirSync(one?.path ?? '')).not.toContain('train_log.json');
});

it('continues what a killed process has left', async () => {
  hub.fault = ({ server }) => (server === 'cdn' ? { stallAfter: 3_000_000 } : null);
  const killed = start('models', 'pull', 'org/demo');
  const blobs = path.join(cacheFolder, 'models--org--demo/blobs');
  const arrived = () => {
    try {
      const [name = ''] = readdirSync(blobs).filter(
        (blob) => blob.endsWith('.incomplete') && blob.length > 64,
      );
      return readFileSync(path.join(blobs, name)).length;
    } catch {
      return 0;
    }
  };
  while (arrived() < 3_000_000) await systemClock.sleep(20);
  killed.child.kill('SIGKILL');
  await killed.finished;

  hub.fault = () => null;
  const { exitCode, stdout } = await start('models', 'pull', 'org/demo').finished;
  expect(exitCode).toBe(0);
  expect(weightsAsked()).toEqual([null, 'bytes=3000000-']);
  const [file] = ['model.safetensors'].map((name) => readFileSync(path.join(stdout.trim(), name)));
  expect(file?.equals(readFileSync(path.join(demoFolder, 'model.safetensors')))).toBe(true);

  const list = await start('models', 'list', '--json').finished;
  expect(JSON.parse(list.stdout)).toMatchObject({
    models: [{ id: 'org/demo', incompleteByteCount: 0, snapshots: [{ revisions: ['main'] }] }],
  });
  const removed = await start('models', 'remove', 'org/demo', '--json').finished;
  expect(JSON.parse(removed.stdout).freedBytes).toBeGreaterThan(weightsByteCount);
});
