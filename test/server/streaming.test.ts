/** What the bytes of a stream look like, and what happens when the reader is slow or gone. Raw sockets where
 *  `fetch` hides too much. */
import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { assert } from '../../src/base/assert.js';
import { type Clock, systemClock } from '../../src/base/clock.js';
import { type Answer, answerOf, firstChoice } from './answers.js';
import { say, startTestServer, type TestServer, tokenizer } from './demo-server.js';

const messages = [{ role: 'user', content: 'Hi' }];
let test: TestServer;
beforeEach(async () => {
  test = await startTestServer(say('hello there'));
});
afterEach(async () => {
  await test.close();
  await expect.poll(() => test.gateway.activeCount).toBe(0);
});

/** The JSON payloads of an event stream, which must consist of nothing but `data:` lines and end with
 *  [DONE]. */
async function payloads(response: Response): Promise<Answer[]> {
  expect(response.status).toBe(200);
  const events = (await response.text()).split('\n\n');
  expect(events.pop()).toBe('');
  expect(events.pop()).toBe('data: [DONE]');
  return events.map((event) => {
    expect(event).toMatch(/^data: [^\n]*$/);
    return JSON.parse(event.slice('data: '.length)) as Answer;
  });
}

async function chatText(fields: object): Promise<{ text: string; last: Answer; chunks: Answer[] }> {
  const chunks = await payloads(
    await test.post('/v1/chat/completions', { messages, stream: true, ...fields }),
  );
  const last = chunks.at(-1);
  assert(last !== undefined, 'a stream without chunks');
  return { text: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), last, chunks };
}

describe('format', () => {
  it('has the headers that keep proxies from buffering, the route and the request id', async () => {
    const response = await test.post(
      '/v1/chat/completions',
      { messages, stream: true },
      { 'x-request-id': 'mine-1' },
    );
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
      'x-request-id': 'mine-1',
      'x-twostroke-route': 'disaggregated; fake-0 -> fake-1',
    });
    await payloads(response);
  });

  it('counts usage in every chunk when asked to', async () => {
    const { chunks } = await chatText({
      stream_options: { include_usage: true, continuous_usage_stats: true },
    });
    const counts = chunks.map((chunk) => chunk.usage.completion_tokens);
    expect(counts).toEqual([...counts].sort((a, b) => a - b));
    expect(counts.at(-1)).toBe(tokenizer.encode('hello there', { addSpecialTokens: 'none' }).length + 1);
  });

  it('gives token ids when asked to', async () => {
    const { chunks } = await chatText({ return_token_ids: true });
    expect(chunks[0]?.prompt_token_ids).toEqual(test.gateway.submitted[0]?.promptIds);
    const ids = chunks.flatMap((chunk) => chunk.choices[0]?.token_ids ?? []);
    expect(ids).toEqual([...tokenizer.encode('hello there', { addSpecialTokens: 'none' }), 2]);
  });

  it('survives two requests on one kept-alive connection', async () => {
    const body = JSON.stringify({ messages, stream: true });
    const request = `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    const socket = net.connect(test.server.port, '127.0.0.1');
    let received = '';
    socket.on('data', (bytes) => {
      received += bytes;
    });
    socket.write(request);
    await expect.poll(() => received.split('[DONE]').length - 1).toBe(1);
    socket.write(request);
    await expect.poll(() => received.split('[DONE]').length - 1).toBe(2);
    socket.destroy();
  });
});

describe('text', () => {
  const difficult = 'héllo 😀👩‍👩‍👧 日本語 … ﷽ end';

  it('never cuts a character, whatever tokens it is made of', async () => {
    test.gateway.script = say(difficult);
    const { text, chunks } = await chatText({});
    expect(text).toBe(difficult);
    for (const chunk of chunks) expect(firstChoice(chunk).delta.content ?? '').not.toContain('\uFFFD');
  });

  it('shows an incomplete last character as U+FFFD, as the whole answer does', async () => {
    const ids = tokenizer.encode('😀', { addSpecialTokens: 'none' });
    expect(ids.length).toBeGreaterThan(1);
    test.gateway.script = () => ids.slice(0, -1);
    const { text } = await chatText({});
    const whole = await answerOf(await test.post('/v1/chat/completions', { messages }));
    expect(text).toContain('\uFFFD');
    expect(firstChoice(whole).message.content).toBe(text);
  });

  it.each([
    { stop: 'brown', expected: 'The quick ' },
    { stop: ['own f', 'zzz'], expected: 'The quick br' },
    { stop: ['fox jumps over the moon', 'ju'], expected: 'The quick brown fox ' },
    { stop: ['nothing of it'], expected: 'The quick brown fox jumps' },
    { stop: ['The'], expected: '' },
  ])('ends at the stop string $stop across token borders', async ({ stop, expected }) => {
    test.gateway.script = say('The quick brown fox jumps');
    const found = expected !== 'The quick brown fox jumps';
    const { text, last, chunks } = await chatText({ stop, return_token_ids: true });
    expect(text).toBe(expected);
    expect(firstChoice(last)).toMatchObject({ finish_reason: 'stop' });
    expect([stop].flat()).toContain(found ? firstChoice(last).stop_reason : [stop].flat()[0]);
    if (found) expect(test.gateway.stoppedChoices).toHaveLength(1);
    const whole = await answerOf(await test.post('/v1/chat/completions', { messages, stop }));
    expect(firstChoice(whole).message.content).toBe(expected);
    expect(whole.usage.completion_tokens).toBe(
      chunks.flatMap((chunk) => chunk.choices[0]?.token_ids ?? []).length,
    );
    const kept = await answerOf(
      await test.post('/v1/chat/completions', { messages, stop, include_stop_str_in_output: true }),
    );
    expect(firstChoice(kept).message.content).toBe(
      found ? expected + firstChoice(last).stop_reason : expected,
    );
  });

  it('tells a stop token of the request from the end of the model', async () => {
    const ids = tokenizer.encode('one two three', { addSpecialTokens: 'none' });
    test.gateway.script = () => ids;
    const stopped = await answerOf(
      await test.post('/v1/chat/completions', { messages, stop_token_ids: [ids[1]] }),
    );
    expect(firstChoice(stopped)).toMatchObject({ finish_reason: 'stop', stop_reason: ids[1] });
    expect(firstChoice(stopped).message.content).toBe(tokenizer.decode(ids.slice(0, 1), { special: 'skip' }));
    const ended = await answerOf(await test.post('/v1/chat/completions', { messages }));
    expect(firstChoice(ended)).toMatchObject({ finish_reason: 'stop', stop_reason: null });
    const cut = await answerOf(await test.post('/v1/chat/completions', { messages, max_tokens: 2 }));
    expect(firstChoice(cut)).toMatchObject({ finish_reason: 'length', stop_reason: null });
    expect(cut.usage.completion_tokens).toBe(2);
  });

  it('skips special tokens unless asked to keep them', async () => {
    test.gateway.script = () => [1, ...tokenizer.encode('x', { addSpecialTokens: 'none' })];
    expect((await chatText({})).text).toBe('x');
    expect((await chatText({ skip_special_tokens: false })).text).toBe('<|im_start|>x');
  });
});

describe('failures', () => {
  it('before the first token get a status of their own', async () => {
    test.gateway.failure = { code: 'overloaded', message: 'too busy', afterEventCount: 1 };
    const response = await test.post('/v1/chat/completions', { messages, stream: true });
    expect(response.status).toBe(429);
    expect(response.headers.get('retry-after')).toBe('1');
    expect((await answerOf(response)).error).toMatchObject({
      message: 'too busy',
      type: 'rate_limit_error',
      code: 'rate_limit_exceeded',
    });
  });

  it('after it end the stream with an error event and [DONE]', async () => {
    test.gateway.failure = { code: 'unavailable', message: 'worker lost', afterEventCount: 2 };
    const chunks = await payloads(await test.post('/v1/chat/completions', { messages, stream: true }));
    expect(chunks[1]?.choices[0]?.delta.content).toBe('he');
    expect(chunks.at(-1)?.error).toMatchObject({ message: 'worker lost', type: 'server_error' });
  });

  it('of one prompt cancel the others', async () => {
    test.gateway.script = (input) => (input.id.endsWith('-1') ? [70] : Array(300).fill(70));
    test.gateway.failure = { code: 'device_error', message: 'boom', afterEventCount: 20 };
    const response = await test.post('/v1/completions', { prompt: ['a', 'b', 'c'], max_tokens: 400 });
    expect(response.status).toBe(500);
    expect((await answerOf(response)).error.message).toBe('boom');
    await expect.poll(() => test.gateway.activeCount).toBe(0);
  });

  it('500 with its own code when the model computes no number, or an event in a stream', async () => {
    test.gateway.failure = { code: 'numeric_error', message: 'not numbers', afterEventCount: 0 };
    const expected = { message: 'not numbers', type: 'server_error', param: null, code: 'numeric_error' };
    for (const body of [{}, { stream: true }]) {
      const response = await test.post('/v1/completions', { prompt: 'a', max_tokens: 4, ...body });
      expect(response.status).toBe(500);
      expect((await answerOf(response)).error).toEqual(expected);
    }
    test.gateway.failure = { ...test.gateway.failure, afterEventCount: 2 };
    const chunks = await payloads(
      await test.post('/v1/completions', { prompt: 'a', max_tokens: 4, stream: true }),
    );
    expect(chunks.at(-1)?.error).toEqual(expected);
  });

  it('503 while loading, and /health says so', async () => {
    test.gateway.healthNow = { status: 'loading', detail: '1 of 2 workers' };
    const response = await test.post('/v1/chat/completions', { messages });
    expect(response.status).toBe(503);
    const health = await fetch(`${test.url}/health`);
    expect(health.status).toBe(503);
    expect(await health.json()).toEqual({ status: 'loading', detail: '1 of 2 workers' });
    test.gateway.healthNow = { status: 'ok', detail: '' };
    expect((await fetch(`${test.url}/health`)).status).toBe(200);
  });
});

/** Its timers fire after a thousandth of their time. */
const hasty: Clock = {
  nowMs: () => systemClock.nowMs(),
  wallMs: () => systemClock.wallMs(),
  sleep: (delayMs) => systemClock.sleep(delayMs),
  yield: () => systemClock.yield(),
  after: (delayMs, fire) => systemClock.after(delayMs / 1000, fire),
};

describe('a long wait for the first token', () => {
  it('is bridged by comments; a failure then comes in the stream', async () => {
    const waiting = await startTestServer(say('at last'), { clock: hasty });
    waiting.gateway.stepMs = 60;
    try {
      const text = await (await waiting.post('/v1/chat/completions', { messages, stream: true })).text();
      expect(text).toMatch(/^(: waiting for the first token\n\n)+data: \{/);
      expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
      waiting.gateway.failure = { code: 'unavailable', message: 'nobody left', afterEventCount: 0 };
      const failed = await waiting.post('/v1/chat/completions', { messages, stream: true });
      expect(failed.status).toBe(200);
      expect(await failed.text()).toMatch(
        /^(: waiting.*\n\n)+data: \{"error":\{"message":"nobody left".*\n\ndata: \[DONE\]\n\n$/,
      );
    } finally {
      await waiting.close();
    }
  });
});

describe('clients that leave', () => {
  const endless = { messages, ignore_eos: true, max_tokens: 400 };

  it.each([true, false])('cancel their generation within moments (stream: %s)', async (stream) => {
    test.gateway.script = () => [70];
    test.gateway.stepMs = 5;
    const controller = new AbortController();
    const asked = fetch(`${test.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...endless, stream }),
      signal: controller.signal,
    });
    const outcome = asked.then((response) => response.text()).catch((error: Error) => error.name);
    await expect.poll(() => test.gateway.eventCount).toBeGreaterThan(3);
    controller.abort();
    expect(await outcome).toBe('AbortError');
    await expect.poll(() => test.gateway.activeCount).toBe(0);
    expect(test.gateway.cancelledIds).toHaveLength(1);
    expect(test.gateway.eventCount).toBeLessThan(300);
  });

  it('before their body is complete, are forgotten', async () => {
    const socket = net.connect(test.server.port, '127.0.0.1');
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"prompt',
    );
    await systemClock.sleep(50);
    socket.destroy();
    await systemClock.sleep(50);
    expect(test.gateway.submitted).toHaveLength(0);
    expect((await fetch(`${test.url}/health`)).status).toBe(200);
  });

  it('but stay connected without reading, hold their generation back and cost nothing', async () => {
    const longToken = 70;
    test.gateway.script = () => [longToken];
    const body = JSON.stringify({
      prompt: 'a',
      stream: true,
      ignore_eos: true,
      max_tokens: 500,
      n: 100,
      logprobs: 20,
    });
    const socket = net.connect({ port: test.server.port, host: '127.0.0.1' });
    socket.pause();
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    await expect.poll(() => test.gateway.eventCount).toBeGreaterThan(0);
    let before = -1;
    await expect
      .poll(
        () => {
          const isStill = test.gateway.eventCount === before;
          before = test.gateway.eventCount;
          return isStill;
        },
        { interval: 300, timeout: 20_000 },
      )
      .toBe(true);
    expect(test.gateway.eventCount).toBeLessThan(100 * 500);
    socket.destroy();
    await expect.poll(() => test.gateway.activeCount).toBe(0);
  });

  it('are cut when they have taken nothing for ten minutes', async () => {
    const patient = await startTestServer(() => [70], { clock: hasty });
    const body = JSON.stringify({
      prompt: 'a',
      stream: true,
      ignore_eos: true,
      max_tokens: 500,
      n: 100,
      logprobs: 20,
    });
    const socket = net.connect({ port: patient.server.port, host: '127.0.0.1' });
    try {
      socket.pause().on('error', () => undefined);
      socket.write(
        `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
      );
      await expect.poll(() => patient.gateway.cancelledIds.length, { timeout: 10_000 }).toBe(1);
      await expect.poll(() => patient.gateway.activeCount).toBe(0);
    } finally {
      socket.destroy();
      await patient.close();
    }
  });
});

describe('bodies on the wire', () => {
  /** Writes the pieces with pauses and gives everything that comes back until the connection closes. */
  async function exchange(pieces: readonly (string | Buffer)[]): Promise<string> {
    const socket = net.connect(test.server.port, '127.0.0.1');
    let received = '';
    socket.on('data', (bytes) => {
      received += bytes;
    });
    socket.on('error', () => undefined);
    const closed = new Promise((resolve) => socket.on('close', resolve));
    for (const piece of pieces) {
      socket.write(piece);
      await systemClock.sleep(15);
    }
    await closed;
    return received;
  }
  const head = (extra: string) =>
    `POST /tokenize HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n${extra}\r\n\r\n`;

  it('may be cut anywhere, also within a character', async () => {
    const body = Buffer.from(JSON.stringify({ prompt: 'a😀b' }));
    const at = body.indexOf(0xf0) + 2;
    const received = await exchange([
      head(`content-length: ${body.length}`),
      body.subarray(0, at),
      body.subarray(at),
    ]);
    const expected = tokenizer.encode('a😀b', { addSpecialTokens: 'auto' });
    expect(received).toContain(`"tokens":${JSON.stringify(expected)}`);
  });

  it('may be chunked', async () => {
    const received = await exchange([
      head('transfer-encoding: chunked'),
      'c\r\n{"prompt":"H\r\n',
      '3\r\ni"}\r\n',
      '0\r\n\r\n',
    ]);
    expect(received).toContain('HTTP/1.1 200 OK');
  });

  it('that lie about their size are cut off with 413', async () => {
    const piece = 'a'.repeat(300_000);
    const chunk = `${piece.length.toString(16)}\r\n${piece}\r\n`;
    const received = await exchange([head('transfer-encoding: chunked'), chunk, chunk, chunk, chunk, chunk]);
    expect(received).toContain('HTTP/1.1 413');
    expect(received).toContain('"code":"too_large"');
  });

  it('that are not HTTP get a 400 in the same shape', async () => {
    const received = await exchange(['nonsense\r\n\r\n']);
    expect(received).toMatch(/^HTTP\/1.1 400 Bad Request/);
    expect(received).toContain('"type":"invalid_request_error"');
  });
});

describe('shutdown', () => {
  it('lets open requests finish, refuses new connections, and cuts what is left at the deadline', async () => {
    test.gateway.stepMs = 20;
    const open = test.post('/v1/chat/completions', { messages, stream: true });
    await expect.poll(() => test.gateway.activeCount).toBe(1);
    const closing = test.server.close(10_000);
    await expect(fetch(`${test.url}/health`)).rejects.toThrow();
    const chunks = await payloads(await open);
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe('hello there');
    await closing;
  });

  it('ends with clients that never sent a request, and with one that reads nothing', async () => {
    const idle = net.connect(test.server.port, '127.0.0.1').on('error', () => undefined);
    await new Promise((resolve) => idle.on('connect', resolve));
    test.gateway.script = () => [70];
    test.gateway.stepMs = 5;
    const endless = test.post('/v1/completions', {
      prompt: 'a',
      stream: true,
      ignore_eos: true,
      max_tokens: 500,
    });
    await (await endless).body?.getReader().read();
    await test.server.close(100);
    await expect.poll(() => test.gateway.activeCount).toBe(0);
    await expect.poll(() => idle.destroyed).toBe(true);
  });

  it('does not wait for connections that are idle or never sent a request', async () => {
    const silent = net.connect(test.server.port, '127.0.0.1').on('error', () => undefined);
    await new Promise((resolve) => silent.on('connect', resolve));
    await (await fetch(`${test.url}/health`)).text();
    const waitedTooLong = systemClock.sleep(20_000).then(() => 'waited for the deadline');
    expect(await Promise.race([test.server.close(60_000).then(() => 'closed'), waitedTooLong])).toBe(
      'closed',
    );
  });
});
