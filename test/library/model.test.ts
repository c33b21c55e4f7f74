/** `twostroke` as a library: text from an engine in this process, its end in every way, and what it says when
 *  something is wrong. */
import { mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import golden from '../../models/demo-6m/golden.json' with { type: 'json' };
import { systemClock } from '../../src/base/clock.js';
import { findLocalModel } from '../../src/hub/find-model.js';
import { loadModel, TwostrokeError } from '../../src/library/load-model.js';
import { LocalModel } from '../../src/library/local-model.js';
import { readModelText } from '../../src/library/model-text.js';
import { checkedModelOptions } from '../../src/library/option-schemas.js';
import type { GenerateOptions, Prompt, TextChunk } from '../../src/library/options.js';
import { ThreadedText } from '../../src/server/text-service.js';

const question = [{ role: 'user', content: 'What is the capital of France?' }] as const;
const capital = golden.cases.find(({ name }) => name === 'chat_capital')!;
const greedy = { temperature: 0 };

let model: LocalModel;

beforeAll(async () => {
  const text = await readModelText(findLocalModel('demo'), { names: ['demo'], tokenizer: 'load' });
  model = await LocalModel.load(text, checkedModelOptions({ dtype: 'f32', maxNumSeqs: 4 }));
});
afterAll(() => model.close());

async function chunksOf(prompt: Prompt, options: GenerateOptions): Promise<readonly TextChunk[]> {
  const chunks: TextChunk[] = [];
  for await (const chunk of model.generate(prompt, options)) chunks.push(chunk);
  return chunks;
}

/** Until the steps that were in flight have ended. */
async function stepCountAtRest(): Promise<number> {
  for (let before = -1; ; ) {
    const { stepCount, runningCount, waitingCount } = model.snapshot;
    if (runningCount + waitingCount === 0 && stepCount === before) return stepCount;
    before = stepCount;
    await systemClock.sleep(20);
  }
}

async function failure(attempt: Promise<unknown>): Promise<TwostrokeError> {
  const error = await attempt.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(TwostrokeError);
  return error as TwostrokeError;
}

describe('text', () => {
  it('of a chat: the golden tokens, and what they cost', async () => {
    const { text, tokenIds, finishReason, usage } = await model.complete(question, greedy);
    expect(text).toBe('The capital of France is Paris.');
    expect(tokenIds).toEqual(capital.continuation_ids);
    expect(finishReason).toBe('stop');
    expect(usage).toMatchObject({
      promptTokens: capital.prompt_tokens,
      completionTokens: capital.continuation_ids.length,
    });
  });

  it('comes in chunks, the last of which says why it ended', async () => {
    const chunks = await chunksOf(question, greedy);
    expect(chunks.length).toBeGreaterThan(3);
    expect(chunks.map(({ text }) => text).join('')).toBe('The capital of France is Paris.');
    expect(chunks.slice(0, -1).every(({ finishReason }) => finishReason === null)).toBe(true);
    expect(chunks.at(-1)).toMatchObject({
      finishReason: 'stop',
      usage: { completionTokens: capital.continuation_ids.length },
    });
  });

  it('is the same of text and of its token ids, for the same seed', async () => {
    const options = { maxTokens: 12, seed: 7, temperature: 1 };
    const ofText = await model.complete('Once upon a time', options);
    const { served } = await readModelText(findLocalModel('demo'), { names: ['demo'], tokenizer: 'load' });
    const [ids = new Int32Array()] = await served.text!.encode(['Once upon a time'], {
      addSpecialTokens: 'auto',
    });
    expect(await model.complete(Array.from(ids), options)).toMatchObject({
      text: ofText.text,
      tokenIds: ofText.tokenIds,
    });
    expect(ofText.finishReason).toBe('length');
  });

  it('ends before a stop string', async () => {
    const { text, finishReason } = await model.complete(question, { ...greedy, stop: ' is' });
    expect({ text, finishReason }).toEqual({ text: 'The capital of France', finishReason: 'stop' });
    expect(model.snapshot).toMatchObject({ runningCount: 0 });
  });

  it('of more requests at once than seats is the text of each alone', async () => {
    const prompts = ['Once', 'The', 'A dog', 'I am', 'He said', 'Count'];
    const options = { maxTokens: 16, seed: 3, temperature: 0.8 };
    const alone = [];
    for (const prompt of prompts) alone.push((await model.complete(prompt, options)).text);
    const together = await Promise.all(prompts.map((prompt) => model.complete(prompt, options)));
    expect(together.map(({ text }) => text)).toEqual(alone);
  });

  it('of two requests comes in turns', async () => {
    const order: string[] = [];
    const read = async (name: string) => {
      for await (const _ of model.generate(name, { maxTokens: 24, ignoreEos: true, ...greedy }))
        order.push(name);
    };
    await Promise.all([read('One'), read('Two')]);
    expect(order.indexOf('Two')).toBeLessThan(order.lastIndexOf('One'));
    expect(order.indexOf('One')).toBeLessThan(order.lastIndexOf('Two'));
  });
});

describe('an end before the end', () => {
  const endless = { maxTokens: 2000, ignoreEos: true, ...greedy };
  /** Steps in flight, and those until the abort is heard: how many is the machine's business, but not the
   *  whole answer. */
  const stepCountMax = endless.maxTokens / 4;

  it('by the signal: the iteration throws, and the device computes no more', async () => {
    const before = await stepCountAtRest();
    const stop = new AbortController();
    const reason = new Error('enough');
    const read = async () => {
      for await (const _ of model.generate('Once', { ...endless, signal: stop.signal })) stop.abort(reason);
    };
    const error = await failure(read());
    expect({ code: error.code, cause: error.cause }).toEqual({ code: 'cancelled', cause: reason });
    expect((await stepCountAtRest()) - before).toBeLessThan(stepCountMax);
    expect(model.snapshot).toMatchObject({ runningCount: 0, waitingCount: 0, ownedBlockCount: 0 });
  });

  it('by a signal that came before: nothing is computed', async () => {
    const before = await stepCountAtRest();
    const { code } = await failure(model.complete('Once', { ...endless, signal: AbortSignal.abort() }));
    expect(code).toBe('cancelled');
    expect(await stepCountAtRest()).toBe(before);
  });

  it('by leaving the loop: the device computes no more', async () => {
    const before = await stepCountAtRest();
    for await (const _ of model.generate('Once', endless)) break;
    expect((await stepCountAtRest()) - before).toBeLessThan(stepCountMax);
    expect(model.snapshot).toMatchObject({ runningCount: 0, waitingCount: 0, ownedBlockCount: 0 });
  });

  it('of one request leaves the others alone', async () => {
    const stop = new AbortController();
    const aborted = failure(model.complete('Once', { ...endless, signal: stop.signal }));
    const whole = model.complete(question, greedy);
    stop.abort();
    expect((await aborted).code).toBe('cancelled');
    expect((await whole).text).toBe('The capital of France is Paris.');
  });
});

describe('close', () => {
  it('ends what runs, may be called again, and after it there is nothing', async () => {
    await using other = await loadModel('demo', { threads: 1 });
    const running = failure(other.complete('Once', { maxTokens: 2000, ignoreEos: true }));
    await Promise.all([other.close(), other.close()]);
    expect((await running).message).toBe('the model was closed');
    expect((await failure(other.complete('Once'))).message).toBe('the model was closed');
    expect((await failure(other.complete('Once'))).code).toBe('unavailable');
    await other.close();
  });

  it.each([
    { what: 'no room', broken: '{}', options: { numBlocks: 2 }, message: /needs 256 KV blocks/ },
    {
      what: 'a broken generation_config.json',
      broken: '{"top_p": 7}',
      options: {},
      message: /generation_config\.json/,
    },
  ])(
    'of what could not be loaded, $what: its text threads have ended',
    async ({ broken, options, message }) => {
      const demo = findLocalModel('demo');
      const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-library-'));
      const close = vi.spyOn(ThreadedText.prototype, 'close');
      try {
        for (const name of readdirSync(demo)) symlinkSync(path.join(demo, name), path.join(folder, name));
        rmSync(path.join(folder, 'generation_config.json'), { force: true });
        writeFileSync(path.join(folder, 'generation_config.json'), broken);
        expect((await failure(loadModel(folder, options))).message).toMatch(message);
        expect(close).toHaveBeenCalledTimes(1);
      } finally {
        close.mockRestore();
        rmSync(folder, { recursive: true });
      }
    },
  );
});

describe('what is wrong is said in one sentence', () => {
  let empty: string;
  beforeAll(() => {
    empty = mkdtempSync(path.join(os.tmpdir(), 'twostroke-library-'));
  });
  afterAll(() => rmSync(empty, { recursive: true }));

  it.each([
    {
      what: 'a folder that is nowhere',
      name: './nowhere',
      code: 'model_error',
      message: /^\.\/nowhere: no such folder/,
    },
    { what: 'a folder without a model', name: 'EMPTY', code: 'model_error', message: /config\.json/ },
    {
      what: 'no name',
      name: undefined,
      code: 'invalid_request',
      message: /^model: expected a folder or a name/,
    },
  ])('$what', async ({ name, code, message }) => {
    const error = await failure(loadModel((name === 'EMPTY' ? empty : name) as string));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error.message).not.toContain('--model');
  });

  it.each([
    { options: { device: 'tpu' }, message: 'device: expected cpu or cuda:N' },
    { options: { dtype: 'f8' }, message: /^dtype: Invalid option: expected one of "auto"\|"f32"/ },
    { options: { blockSize: 17 }, message: /^blockSize: .*8\|16\|32/ },
    { options: { threads: 0 }, message: /^threads: / },
    { options: { maxModelLen: 5000 }, message: /5000 is more than the 4096 positions/ },
    { options: { kvCacheMemory: 1 }, message: /give more KV memory/ },
    { options: { thread: 1 }, message: 'Unrecognized key: "thread"' },
    { options: null, message: 'the options must be an object, not null' },
  ])('options $options', async ({ options, message }) => {
    expect((await failure(loadModel('demo', options as object))).message).toMatch(message);
  });

  it.each([
    { prompt: '', options: {}, message: /prompt is empty/ },
    { prompt: [], options: {}, message: /^prompt: expected text, or a list/ },
    { prompt: 7, options: {}, message: /^prompt: expected text, or a list/ },
    { prompt: [1.5], options: {}, message: /^prompt\[0\]: expected int/ },
    { prompt: [-1], options: {}, message: /^prompt\[0\]: / },
    { prompt: [99999], options: {}, message: /^prompt: 99999 is not a token id/ },
    { prompt: [{ role: 'king', content: 'Hi' }], options: {}, message: /^messages\[0\]\.role: / },
    { prompt: 'Hi', options: { topP: 2 }, message: /^topP: / },
    { prompt: 'Hi', options: { max_tokens: 2 }, message: 'Unrecognized key: "max_tokens"' },
    {
      prompt: 'Hi',
      options: { maxTokens: 5000 },
      message: /^maxTokens: this model's maximum context length is 4096/,
    },
    { prompt: 'Hi', options: { minTokens: 9, maxTokens: 3 }, message: /^minTokens: 9 is more than the 3/ },
    { prompt: 'Hi', options: { stopTokenIds: [99999] }, message: /^stopTokenIds: 99999 is not a token id/ },
    { prompt: 'Hi', options: { signal: 'x' }, message: 'signal: expected an AbortSignal' },
  ])('prompt $prompt with $options', async ({ prompt, options, message }) => {
    const error = await failure(model.complete(prompt as Prompt, options as GenerateOptions));
    expect(error.message).toMatch(message);
    expect(['invalid_request', 'context_length_exceeded']).toContain(error.code);
  });
});
