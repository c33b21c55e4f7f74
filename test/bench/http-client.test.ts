/** The HTTP client against every kind of answer a server may give. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import type { CompletionAnswer } from '../../src/bench/completion-client.js';
import { type HttpClientOptions, HttpCompletionClient } from '../../src/bench/http-client.js';
import type { PlannedRequest } from '../../src/bench/load-record.js';
import { SseReader } from '../../src/bench/sse-reader.js';
import {
  type CompletionScript,
  event,
  type FakeOpenAi,
  startFakeOpenAi,
  wellBehaved,
} from './fake-openai.js';

const planned: PlannedRequest = {
  index: 0,
  at: 0,
  prompt: { kind: 'ids', ids: [5, 6, 7] },
  promptTokenCount: 3,
  wantedTokenCount: 4,
  maxTokenCount: 20,
};

let server: FakeOpenAi;
afterEach(() => server.close());

async function ask(
  script: CompletionScript,
  options: Partial<HttpClientOptions> = {},
  request = planned,
  signal?: AbortSignal,
): Promise<CompletionAnswer> {
  server = await startFakeOpenAi(script);
  const client = new HttpCompletionClient(
    {
      baseUrl: server.url,
      api: 'completions',
      model: 'fake',
      apiKey: null,
      temperature: null,
      ignoreEos: false,
      outputLength: 'limit',
      ...options,
    },
    systemClock,
  );
  try {
    return await client.prepare(request).send(signal ?? new AbortController().signal);
  } finally {
    client.close();
  }
}

const open: CompletionScript = (_request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
};

describe('HttpCompletionClient', () => {
  it('tells the server the SLO that was planned, and none that was not', async () => {
    const seen = (name: string) => server.requests[0]?.headers[`x-slo-${name}-ms`];
    await ask(wellBehaved, {}, { ...planned, slo: { ttftMs: 250.5, e2elMs: 9000 } });
    expect([seen('ttft'), seen('tpot'), seen('e2el')]).toEqual(['250.5', undefined, '9000']);
    await server.close();
    await ask(wellBehaved);
    expect([seen('ttft'), seen('tpot'), seen('e2el')]).toEqual([undefined, undefined, undefined]);
  });

  it('sends token ids and the wanted length, and reads a stream', async () => {
    const answer = await ask(wellBehaved, {
      outputLength: 'forced',
      ignoreEos: true,
      temperature: 0,
      apiKey: 'key',
    });
    const [{ body, headers, path }] = server.requests as [(typeof server.requests)[number]];
    expect(path).toBe('/v1/completions');
    expect(headers.authorization).toBe('Bearer key');
    expect(body).toEqual({
      model: 'fake',
      prompt: [5, 6, 7],
      max_tokens: 20,
      forced_output_tokens: 4,
      ignore_eos: true,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
    });
    expect(answer).toMatchObject({
      outcome: 'completed',
      status: 200,
      outputTokenCount: 4,
      promptTokenCount: 7,
      id: 'id-text',
      route: 'disaggregated; w0 -> w1',
    });
    expect(answer.chunkMs).toHaveLength(4);
    expect(answer.endMs).toBe(answer.chunkMs.at(-1));
    expect(answer.sentMs).toBeLessThanOrEqual(answer.chunkMs[0]!);
  });

  it('speaks chat, where the opening role is no token', async () => {
    const answer = await ask(
      (request, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write(
          event({ id: 'c', choices: [{ delta: { role: 'assistant', content: '' }, finish_reason: null }] }),
        );
        return wellBehaved(request, Object.assign(response, { writeHead: () => response }));
      },
      { api: 'chat' },
      { ...planned, prompt: { kind: 'text', text: 'Hi' }, maxTokenCount: 3 },
    );
    expect(server.requests[0]).toMatchObject({
      path: '/v1/chat/completions',
      body: { messages: [{ role: 'user', content: 'Hi' }] },
    });
    expect(server.requests[0]!.body).not.toHaveProperty('forced_output_tokens');
    expect(answer).toMatchObject({ outcome: 'completed', outputTokenCount: 3 });
    expect(answer.chunkMs).toHaveLength(3);
  });

  it.each([
    [429, 'rejected', { error: { message: 'too many requests' } }, /status 429: too many requests/],
    [503, 'rejected', { error: { message: 'loading' } }, /status 503: loading/],
    [400, 'failed', { error: { message: 'max_tokens: too large' } }, /status 400: max_tokens/],
    [500, 'failed', 'plain text', /status 500: "plain text"/],
  ] as const)('status %d is %s', async (status, outcome, body, message) => {
    const answer = await ask((_request, response) => {
      response.writeHead(status);
      response.end(JSON.stringify(body));
    });
    expect(answer).toMatchObject({ outcome, status, outputTokenCount: 0 });
    expect(answer.error).toMatch(message);
    expect(answer.chunkMs).toEqual([]);
  });

  it('an error in the stream is a failure, with the tokens so far', async () => {
    const answer = await ask((request, response) => {
      void open(request, response);
      response.write(event({ id: 'x', choices: [{ text: 'a', finish_reason: null }] }));
      response.write(event({ error: { message: 'the worker died' } }));
      response.end(event('[DONE]'));
    });
    expect(answer).toMatchObject({ outcome: 'failed', error: 'the worker died', outputTokenCount: 1 });
  });

  it('a stream that ends without an end is a failure', async () => {
    const answer = await ask((request, response) => {
      void open(request, response);
      response.end(event({ id: 'x', choices: [{ text: 'a', finish_reason: null }] }));
    });
    expect(answer).toMatchObject({ outcome: 'failed', error: 'the stream ended early' });
  });

  it('a cut connection and a closed port are failures', async () => {
    const cut = await ask((request, response) => {
      void open(request, response);
      response.write(event({ id: 'x', choices: [{ text: 'a', finish_reason: null }] }), () =>
        response.destroy(),
      );
    });
    expect(cut.outcome).toBe('failed');
    await server.close();
    const closed = await ask(wellBehaved, { baseUrl: 'http://127.0.0.1:9' });
    expect(closed.outcome).toBe('failed');
    expect(closed.error).toMatch(/ECONNREFUSED/);
  });

  it('a cut by the generator is unfinished', async () => {
    const cut = new AbortController();
    const answer = await ask(
      (request, response) => {
        void open(request, response);
        response.write(event({ id: 'x', choices: [{ text: 'a', finish_reason: null }] }), () => cut.abort());
      },
      {},
      planned,
      cut.signal,
    );
    expect(answer.outcome).toBe('unfinished');
  });

  it('reads events however the bytes are split, and counts tokens without visible text', async () => {
    const bytes = Buffer.from(
      [
        ': a comment\r\n\r\n',
        event({ id: 'x', choices: [{ text: 'é🙂', finish_reason: null }] }),
        event({ id: 'x', choices: [{ text: '', finish_reason: null }] }),
        event({ id: 'x', choices: [{ text: 'z', finish_reason: 'length' }] }),
      ].join(''),
    );
    const answer = await ask(async (request, response) => {
      await open(request, response);
      for (const byte of bytes)
        await new Promise<void>((resolve) => response.write(Buffer.from([byte]), () => resolve()));
      response.end();
    });
    expect(answer).toMatchObject({ outcome: 'completed', outputTokenCount: 3 });
  });
});

describe('SseReader', () => {
  it('gives payloads when their line is whole', () => {
    const reader = new SseReader();
    expect(reader.push('data: on')).toEqual([]);
    expect(reader.push('e\r\ndata:two\nevent: x\n\ndata: {"a":\n')).toEqual(['one', 'two', '{"a":']);
  });
});
