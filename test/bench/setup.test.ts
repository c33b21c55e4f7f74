/** What is asked of a server before a load test: facts, texts, tokens, predictions; and data sets made into
 *  workloads. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { fallbackTokenIds } from '../../src/bench/prompts.js';
import { readRouted, readServerFacts, withRouted } from '../../src/bench/server-facts.js';
import {
  type ClientSettings,
  openServer,
  openWorkload,
  type WorkloadSettings,
} from '../../src/bench/setup.js';
import { type FakeOpenAi, startFakeOpenAi, wellBehaved } from './fake-openai.js';
import { record } from './records.js';

const folder = mkdtempSync(path.join(tmpdir(), 'twostroke-setup-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let server: FakeOpenAi;
afterEach(() => server.close());

const client: ClientSettings = {
  api: 'completions',
  model: null,
  apiKey: null,
  temperature: null,
  ignoreEos: false,
  outputLength: 'limit',
};
const settings: WorkloadSettings = {
  name: 'random',
  path: null,
  inputTokenCount: 20,
  outputTokenCount: 8,
  rangeRatio: 0,
  outputShape: 'auto',
  lengthScale: 1,
  requestCountMax: 5,
};
const tokenizing = { '/tokenize': { tokens: [9, 4, 9, 7] }, '/detokenize': { prompt: 'some text' } };

async function open(
  extras: Readonly<Record<string, unknown>>,
  workload: Partial<WorkloadSettings>,
  api: ClientSettings['api'] = 'completions',
) {
  server = await startFakeOpenAi(wellBehaved, extras);
  const address = { baseUrl: server.url, apiKey: null };
  const facts = await openServer(server.url, client);
  return openWorkload({ ...settings, ...workload }, { seed: 1, contentSeed: 1 }, address, facts, {
    ...client,
    api,
  });
}

describe('readServerFacts', () => {
  it("takes the first model, its context and its tokenizer's ids", async () => {
    server = await startFakeOpenAi(wellBehaved, tokenizing);
    expect(await readServerFacts({ baseUrl: server.url, apiKey: null }, null)).toEqual({
      model: 'fake',
      contextTokenCount: 512,
      tokenIdPool: [4, 7, 9],
      tokenizer: 'served',
    });
  });

  it('does without a tokenizer', async () => {
    server = await startFakeOpenAi(wellBehaved);
    const facts = await readServerFacts({ baseUrl: server.url, apiKey: null }, 'fake');
    expect(facts).toMatchObject({ tokenIdPool: fallbackTokenIds, tokenizer: 'none' });
  });

  it('says what is wrong: model, address', async () => {
    server = await startFakeOpenAi(wellBehaved);
    await expect(readServerFacts({ baseUrl: server.url, apiKey: null }, 'gpt')).rejects.toThrow(
      /no model gpt: it has fake/,
    );
    await expect(readServerFacts({ baseUrl: 'http://127.0.0.1:9', apiKey: null }, null)).rejects.toThrow(
      /no server at/,
    );
  });
});

describe('openWorkload', () => {
  it('chat prompts are texts, made by the server', async () => {
    const workload = await open(tokenizing, {}, 'chat');
    expect(workload.sampleCount).toBe(5);
    expect(workload.sample(4)).toMatchObject({
      prompt: { kind: 'text', text: 'some text' },
      promptTokenCount: 20,
      outputTokenCount: 8,
    });
  });

  it('chat without a tokenizer is refused', async () => {
    await expect(open({}, {}, 'chat')).rejects.toThrow(/no \/detokenize/);
  });

  it('ShareGPT lengths are counted by the server, or from characters', async () => {
    const file = path.join(folder, 'share.json');
    writeFileSync(
      file,
      JSON.stringify([{ conversations: [{ value: 'a question' }, { value: 'a'.repeat(40) }] }]),
    );
    const served = await open(tokenizing, { name: 'sharegpt', path: file });
    expect(served.sample(0)).toEqual({
      prompt: { kind: 'text', text: 'a question' },
      promptTokenCount: 4,
      outputTokenCount: 4,
    });
    await server.close();
    const guessed = await open({}, { name: 'sharegpt', path: file });
    expect(guessed.sample(0)).toMatchObject({ promptTokenCount: 3, outputTokenCount: 10 });
  });

  it('names a data set that is missing', async () => {
    await expect(open({}, { name: 'trace' })).rejects.toThrow(/needs --dataset-path/);
    await server.close();
    await expect(open({}, { name: 'trace', path: path.join(folder, 'none.csv') })).rejects.toThrow(
      /none.csv/,
    );
  });
});

describe('what the server knows of a request', () => {
  it('is joined by request id, the estimates from the last route of each', async () => {
    const routes = [{ estimates: { ttftMs: 9 } }, { estimates: { ttftMs: 12.00049, cost: 3, stepMs: 2 } }];
    const requests = [
      { id: 'cmpl-1', routes, exposedTransferMs: 1.5, resumedMs: 20 },
      { id: 'cmpl-3', routes: [], exposedTransferMs: 0 },
    ];
    server = await startFakeOpenAi(wellBehaved, { '/routes': { requests } });
    const routed = await readRouted({ baseUrl: server.url, apiKey: null });
    const records = withRouted(
      [
        record({ extra: { id: 'cmpl-1' } }),
        record({ extra: { id: 'cmpl-2' } }),
        record(),
        record({ extra: { id: 'cmpl-3' } }),
      ],
      routed,
    );
    expect(records.map(({ predicted }) => predicted)).toEqual([
      { ttftMs: 12, stepMs: 2 },
      undefined,
      undefined,
      undefined,
    ]);
    expect(records.map(({ transferMs }) => transferMs)).toEqual([1.5, undefined, undefined, undefined]);
  });

  it('is nothing on other servers', async () => {
    server = await startFakeOpenAi(wellBehaved);
    expect((await readRouted({ baseUrl: server.url, apiKey: null })).size).toBe(0);
  });
});
