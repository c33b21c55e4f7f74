/** Requests that ask for much at once: refused before work is done on them, or answered prompt by prompt; and
 *  nothing of them keeps running. */
import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OverloadedError } from '../../src/control/admission.js';
import { chatSchema } from '../../src/server/chat-schema.js';
import { completionSchema } from '../../src/server/completion-schema.js';
import { validate } from '../../src/server/validation.js';
import { startTestServer, type TestServer } from './demo-server.js';

let test: TestServer;
beforeEach(async () => {
  test = await startTestServer(() => [70, 71], { bodyBytesMax: 8 << 20 });
});
afterEach(async () => {
  expect([test.gateway.activeCount, test.gateway.placeCount]).toEqual([0, 0]);
  await test.close();
});

const completion = (fields: object) => test.post('/v1/completions', { prompt: ['a', 'b', 'c'], ...fields });

describe('a client that leaves', () => {
  it.each([true, false])('cancels every prompt of its request, streamed or not (%s)', async (stream) => {
    const controller = new AbortController();
    const asked = fetch(`${test.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: ['a', 'b', 'c'], stream, ignore_eos: true, max_tokens: 500 }),
      signal: controller.signal,
    });
    const outcome = asked.then((response) => response.text()).catch((error: Error) => error.name);
    // well before the end
    await expect.poll(() => test.gateway.eventCount, { interval: 1 }).toBeGreaterThan(6);
    controller.abort();
    expect(await outcome).toBe('AbortError');
    await expect.poll(() => test.gateway.activeCount).toBe(0);
    expect([...test.gateway.cancelledIds].sort()).toEqual(test.gateway.submitted.map(({ id }) => id).sort());
    await expect.poll(() => test.gateway.placeCount).toBe(0);
  });
});

it('a client that reads slowly keeps no place of those that are computed', async () => {
  test.gateway.script = () => [70];
  const socket = net.connect(test.server.port, '127.0.0.1');
  socket.pause();
  const body = JSON.stringify({
    prompt: ['a', 'b'],
    n: 100,
    logprobs: 20,
    max_tokens: 500,
    ignore_eos: true,
    stream: true,
  });
  socket.write(
    `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  await expect.poll(() => test.gateway.submitted.length).toBe(2);
  await expect.poll(() => test.gateway.placeCount).toBe(0); // a real one is also held by what runs in it
  expect(test.gateway.activeCount).toBe(2);
  socket.destroy();
  await expect.poll(() => test.gateway.activeCount).toBe(0);
});

it('a prompt that fails ends the request, and the others with it', async () => {
  test.gateway.failure = { code: 'device_error', message: 'broken', afterEventCount: 2 };
  const response = await completion({ ignore_eos: true, max_tokens: 500 });
  expect(response.status).toBe(500);
  await expect.poll(() => test.gateway.activeCount).toBe(0);
});

it('prompts take turns in the place that their request has', async () => {
  test.gateway.promptsAtOnceMax = 2;
  let most = 0;
  test.gateway.script = () => {
    most = Math.max(most, test.gateway.activeCount);
    return [70, 71];
  };
  const answer = (await (await completion({ prompt: ['a', 'b', 'c', 'd', 'e'] })).json()) as {
    choices: { index: number }[];
  };
  expect(answer.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4]);
  expect(most).toBe(2);
});

describe('what is too much', () => {
  it('of tokens, over all prompts and choices, is a 400 before anything is submitted', async () => {
    test.gateway.choiceCountMax = 128;
    const response = await completion({ prompt: Array(1024).fill('a'), n: 64, max_tokens: 400 });
    expect(response.status).toBe(400);
    expect(await response.text()).toMatch(
      /1024 prompts × n 64 × max_tokens 400 are 26214400 tokens.*at most 65536/,
    );
    expect(test.gateway.submitted).toHaveLength(0);
  });

  it.each([
    ['prompt scores', { prompt: Array(150).fill('a b c '.repeat(80)), prompt_logprobs: 20, max_tokens: 1 }],
    [
      'prompt scores by echo',
      { prompt: Array(150).fill('a b c '.repeat(80)), echo: true, logprobs: 20, max_tokens: 0 },
    ],
    ['output scores', { prompt: Array(16).fill('a'), n: 8, logprobs: 20, max_tokens: 400 }],
  ])('of %s is a 400 before anything is submitted', async (_, fields) => {
    const response = await completion(fields);
    expect(response.status).toBe(400);
    expect(await response.text()).toMatch(/log-probabilities were asked for, and one answer may have 524288/);
    expect(test.gateway.submitted).toHaveLength(0);
  });

  it.each([
    ['prompt scores', { prompt_logprobs: 20 }],
    ['echoed scores', { echo: true, logprobs: 20 }],
    ['prompt ids', { return_token_ids: true }],
    ['echoed texts', { echo: true }],
  ])('of %s in every choice is a 400 before anything is submitted', async (_, fields) => {
    const count = 'prompt_logprobs' in fields || 'logprobs' in fields ? 10 : 150;
    const response = await completion({
      prompt: Array(count).fill(Array(500).fill(7)),
      n: 64,
      max_tokens: 1,
      ...fields,
    });
    expect(response.status).toBe(400);
    expect(await response.text()).toMatch(
      /each of 64 choices would repeat its prompt, \d+ .* may have 4194304/,
    );
    expect(test.gateway.submitted).toHaveLength(0);
  });

  it('is not what is kept once and repeated in turns', async () => {
    const prompt = Array(300).fill(7);
    const response = await completion({ prompt, n: 20, prompt_logprobs: 20, max_tokens: 1 });
    const { choices } = (await response.json()) as { choices: { prompt_logprobs: unknown[] }[] };
    expect(choices.map(({ prompt_logprobs: scores }) => scores.length)).toEqual(Array(20).fill(300));
  });

  it('is not the longest answer of one choice, nor one that streams', async () => {
    expect((await completion({ prompt: 'a', logprobs: 20, max_tokens: 500 })).status).toBe(200);
    const streamed = await completion({
      prompt: Array(16).fill('a'),
      n: 8,
      logprobs: 20,
      max_tokens: 400,
      stream: true,
    });
    expect(streamed.status).toBe(200);
    await streamed.text();
  });

  it('for now is a 429 that says when to come back, before its body is read', async () => {
    test.gateway.overload = new OverloadedError('128 requests are running or waiting', 2500);
    const socket = net.connect(test.server.port, '127.0.0.1');
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{',
    );
    const [bytes] = await new Promise<Buffer[]>((resolve) => socket.once('data', (...args) => resolve(args)));
    socket.destroy();
    expect(bytes?.toString()).toMatch(/^HTTP\/1.1 429 .*retry-after: 3/is);
    expect(test.gateway.submitted).toHaveLength(0);
  });

  it.each([
    ['token ids', `[${'1,'.repeat(600_000)}1]`],
    ['lists', `[${'[],'.repeat(200_000)}[]]`],
    ['fields', `"a","logit_bias":{${Array.from({ length: 40_000 }, (_, i) => `"${i}":1`)}}`],
  ])('of %s is a 413 before it is parsed', async (_what, prompt) => {
    const response = await test.post('/v1/completions', `{"prompt":${prompt}}`);
    expect(response.status).toBe(413);
    expect(await response.text()).toMatch(/too many values/);
  });

  it.each(['chat_template_kwargs', 'metadata', 'a_field_that_nobody_knows'])(
    'of depth is a 400, in %s too',
    async (field) => {
      const nested = (depth: number) => `{"a":${'['.repeat(depth)}"[{"${']'.repeat(depth)}}`;
      const ask = (depth: number) =>
        test.post(
          '/v1/chat/completions',
          `{"messages":[{"role":"user","content":"Hi"}],"${field}":${nested(depth)}}`,
        );
      expect((await ask(254)).status).toBe(200);
      for (const depth of [255, 3000, 100_000]) {
        const response = await ask(depth);
        expect(response.status).toBe(400);
        expect(await response.text()).toMatch(/more than 256 deep/);
      }
    },
  );

  it('is not a long text, whatever is written in it', async () => {
    const text = '[{"a":1,"b\\\\":2},'.repeat(50_000);
    const response = await completion({ prompt: text });
    expect(response.status).toBe(400);
    expect(await response.text()).toMatch(/cannot fit this model's maximum context length/);
  });
});

describe('a list that is wrong', () => {
  /** Counts how often an item is read. */
  function watched(items: unknown[]) {
    const reads = { count: 0 };
    const list = new Proxy(items, {
      get: (target, key) => {
        if (typeof key === 'string' && /^\d+$/.test(key)) reads.count++;
        return Reflect.get(target, key);
      },
    });
    return { list, reads };
  }

  const chat = (content: unknown) => ({ messages: [{ role: 'user', content }] });

  it.each<[string, unknown, (list: unknown) => object, RegExp]>([
    ['prompt', -1, (prompt) => ({ prompt }), /prompt\[0\]: .*>=0/],
    ['prompt', 1.5, (prompt) => ({ prompt }), /prompt\[0\]: expected int/],
    ['prompt', [], (prompt) => ({ prompt }), /list of up to 1024|prompt\[0\]/],
    ['prompt', '', (prompt) => ({ prompt }), /up to 1024/],
    ['stop_token_ids', -1, (list) => ({ prompt: 'a', stop_token_ids: list }), /<=1024/],
    ['stop', 0, (stop) => ({ prompt: 'a', stop }), /list of up to 16/],
    ['messages', 0, (messages) => ({ messages }), /messages\[0\]: expected object/],
    ['messages', {}, (messages) => ({ messages }), /messages\[0\]\.role: /],
    ['content', 0, chat, /messages\[0\]\.content\[0\]: expected a content part/],
    ['content', { type: 'x' }, chat, /messages\[0\]\.content\[0\]\.type: only content parts/],
  ])('%s of many %j is looked at up to the first', (_field, item, body, message) => {
    const { list, reads } = watched(Array(100_000).fill(item));
    const given = body(list);
    const parse = () =>
      'messages' in given
        ? validate(chatSchema, given, () => {})
        : validate(completionSchema, given, () => {});
    expect(parse).toThrow(message);
    expect(reads.count).toBeLessThan(20);
  });

  it('logit_bias of many wrong values is looked at up to the first', () => {
    const reads = { count: 0 };
    const bias = Object.defineProperties(
      {},
      Object.fromEntries(
        Array.from({ length: 10_000 }, (_, id) => [
          id,
          {
            enumerable: true,
            get: () => {
              reads.count++;
              return 'x';
            },
          },
        ]),
      ),
    );
    expect(() => validate(completionSchema, { prompt: 'a', logit_bias: bias }, () => {})).toThrow(
      /logit_bias\.0: /,
    );
    expect(reads.count).toBeLessThanOrEqual(1);
  });
});

it('bytes that are no UTF-8 are found wherever they are', async () => {
  for (const place of [70_000, 65_535, 65_536, 200_001]) {
    const bytes = Buffer.from(`{"prompt":"${'aé'.repeat(100_000)}"}`);
    while (((bytes[place] ?? 0) & 0xc0) === 0x80) bytes[place] = 0x61;
    bytes[place] = 0xff;
    const response = await fetch(`${test.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: bytes,
    });
    const [, found] = /first bad byte at (\d+)/.exec(await response.text()) ?? [];
    // a character cut short by it begins a byte before
    expect(Math.abs(Number(found) - place)).toBeLessThanOrEqual(1);
  }
});
