/** Every 4xx: OpenAI's error shape, the status, the field and the reason. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { contextTokenCount, say, startTestServer, type TestServer, tokenizer } from './demo-server.js';

let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say('hello'), { bodyBytesMax: 64 * 1024, http: { strictFields: true } });
});
afterAll(async () => {
  expect(test.gateway.submitted).toHaveLength(0);
  await test.close();
});

interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

const messages = [{ role: 'user', content: 'Hi' }];
const chat = (fields: object) => ['/v1/chat/completions', { messages, ...fields }] as const;
const text = (fields: object) => ['/v1/completions', { prompt: 'Hi', ...fields }] as const;
const longText = 'word '.repeat(contextTokenCount + 10);

/** [request, param, part of the message] */
const cases: readonly (readonly [readonly [string, unknown], string | null, RegExp])[] = [
  [chat({ temprature: 1 }), 'temprature', /temprature: unknown field/],
  [text({ foo: 1, bar: 2 }), 'foo', /unknown field/],
  [chat({ temperature: 'hot' }), 'temperature', /temperature: .*expected number, received string/],
  [chat({ temperature: -0.1 }), 'temperature', />=0/],
  [chat({ top_p: -0.1 }), 'top_p', />=0/],
  [chat({ top_p: 1.01 }), 'top_p', /<=1/],
  [chat({ top_k: -2 }), 'top_k', />=-1/],
  [chat({ top_k: 1.5 }), 'top_k', /expected int/],
  [chat({ min_p: 2 }), 'min_p', /<=1/],
  [chat({ presence_penalty: 3 }), 'presence_penalty', /<=2/],
  [chat({ frequency_penalty: -3 }), 'frequency_penalty', />=-2/],
  [chat({ repetition_penalty: 0 }), 'repetition_penalty', />0/],
  [chat({ n: 0 }), 'n', />=1/],
  [chat({ n: 1000 }), 'n', /<=128/],
  [chat({ seed: 1.5 }), 'seed', /int/],
  [chat({ seed: 2 ** 64 }), 'seed', /./],
  [chat({ max_tokens: 0 }), 'max_tokens', />=1/],
  [chat({ max_completion_tokens: -1 }), 'max_completion_tokens', />=1/],
  [chat({ min_tokens: 20, max_tokens: 10 }), 'min_tokens', /more than the 10/],
  [chat({ stop: '' }), 'stop', /must not be empty/],
  [chat({ stop: Array(17).fill('x') }), 'stop', /list of up to 16/],
  [chat({ stop: [1] }), 'stop[0]', /expected string/],
  [chat({ stop_token_ids: [4096] }), 'stop_token_ids', /not a token id \(0 to 4095\)/],
  [chat({ logit_bias: { cat: 1 } }), 'logit_bias', /"cat" is not a token id/],
  [chat({ logit_bias: { 5000: 1 } }), 'logit_bias', /"5000" is not a token id/],
  [chat({ logit_bias: { 5: 101 } }), 'logit_bias.5', /<=100/],
  [chat({ logprobs: 2 }), 'logprobs', /expected boolean/],
  [chat({ logprobs: true, top_logprobs: 21 }), 'top_logprobs', /<=20/],
  [chat({ top_logprobs: 2 }), 'top_logprobs', /needs "logprobs": true/],
  [chat({ stream: 'yes' }), 'stream', /expected boolean/],
  [chat({ stream_options: { include_usage: true } }), 'stream_options', /only allowed with "stream": true/],
  [chat({ stream: true, stream_options: { foo: 1 } }), 'stream_options.foo', /unknown field/],
  [chat({ stream: true, prompt_logprobs: 1 }), 'prompt_logprobs', /not available with "stream"/],
  [chat({ tools: [{ type: 'function', function: {} }] }), 'tools[0].function.name', /required/],
  [chat({ tool_choice: 'required' }), 'tool_choice', /needs "tools"/],
  [chat({ functions: [{ name: 'f' }] }), 'functions', /not supported yet/],
  [chat({ guided_regex: 7 }), 'guided_regex', /expected string/],
  [chat({ modalities: ['audio'] }), 'modalities', /not supported yet/],
  [chat({ guided_json: 7 }), 'guided_json', /JSON Schema/],
  [chat({ messages: undefined }), 'messages', /required, but missing/],
  [chat({ messages: [] }), 'messages', /at least one message/],
  [chat({ messages: 'Hi' }), 'messages', /expected array/],
  [chat({ messages: [{ role: 'king', content: 'Hi' }] }), 'messages[0].role', /"system"\|/],
  [
    chat({ messages: [{ role: 'user', content: 3 }] }),
    'messages[0].content',
    /a string or a list of text parts/,
  ],
  [chat({ messages: [{ role: 'user', content: 'a', colour: 1 }] }), 'messages[0].colour', /unknown field/],
  [
    chat({ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] }),
    'messages[0].content[0].type',
    /only content parts of type "text"/,
  ],
  [
    chat({ messages: [{ role: 'assistant', content: 'a', tool_calls: [{}] }] }),
    'messages[0].tool_calls[0].function',
    /required|expected/,
  ],
  [text({ prompt: undefined }), 'prompt', /required, but missing|expected/],
  [text({ prompt: '' }), 'prompt', /empty/],
  [text({ prompt: [] }), 'prompt', /./],
  [text({ prompt: {} }), 'prompt', /expected a string, a list of token ids/],
  [text({ prompt: [1, 'a'] }), 'prompt[1]', /expected number, received string/],
  [text({ prompt: [4096] }), 'prompt', /4096 is not a token id/],
  [text({ prompt: [-1] }), 'prompt[0]', />=0/],
  [text({ suffix: 'x' }), 'suffix', /not supported yet/],
  [text({ best_of: 3 }), 'best_of', /not supported yet/],
  [text({ max_tokens: 0 }), 'max_tokens', /only allowed with "echo": true/],
  [text({ logprobs: 21 }), 'logprobs', /<=20/],
  [text({ model: 7 }), 'model', /expected string/],
  [['/tokenize', {}], 'prompt', /required, but missing/],
  [['/tokenize', { prompt: 'a', x: 1 }], 'x', /unknown field/],
  [['/detokenize', { tokens: ['a'] }], 'tokens[0]', /expected number|expected int/],
  [['/detokenize', { tokens: [99999] }], 'tokens', /not a token id/],
  [['/v1/completions', [1, 2]], null, /must be a JSON object/],
  [['/v1/completions', '"text"'], null, /must be a JSON object/],
  [['/v1/completions', '{"prompt": "a",}'], null, /not valid JSON.*position 15/],
  [['/v1/completions', '{"prompt": abc}'], null, /not valid JSON.*position 11/],
  [['/v1/completions', '{"prompt": "a"'], null, /not valid JSON.*position 14/],
  [['/v1/completions', ''], null, /body is empty/],
];

it.each(cases)('refuses %j', async ([path, body], param, message) => {
  const response = await test.post(path, body);
  const { error } = (await response.json()) as ErrorBody;
  expect(error.message).toMatch(message);
  expect(response.status).toBe(400);
  expect(error).toEqual({ message: error.message, type: 'invalid_request_error', param, code: null });
  expect(response.headers.get('content-type')).toMatch(/^application\/json/);
});

/** What clients that shorten a conversation and try again look for. */
const tooLong: typeof cases = [
  [
    chat({ max_tokens: contextTokenCount }),
    'max_tokens',
    /maximum context length is 512 tokens, but \d+ were asked for/,
  ],
  [
    chat({ max_completion_tokens: contextTokenCount }),
    'max_completion_tokens',
    /maximum context length is 512 tokens, but/,
  ],
  [
    chat({ messages: [{ role: 'user', content: longText }] }),
    'messages',
    /maximum context length is 512 tokens. The prompt has \d+/,
  ],
  [chat({ messages: [{ role: 'user', content: 'a'.repeat(40_000) }] }), 'messages', /characters cannot fit/],
  [text({ prompt: Array(contextTokenCount).fill(5) }), 'prompt', /The prompt has 512 tokens/],
  [text({ prompt: ['a', longText] }), 'prompt', /maximum context length/],
  [text({ max_tokens: contextTokenCount }), 'max_tokens', /maximum context length/],
  [['/tokenize', { prompt: 'a'.repeat(40_000) }], 'prompt', /characters cannot fit/],
];

it.each(tooLong)('says that a context is too small (case %#)', async ([path, body], param, message) => {
  const response = await test.post(path, body);
  const { error } = (await response.json()) as ErrorBody;
  expect(error.message).toMatch(message);
  expect(response.status).toBe(400);
  expect(error).toEqual({
    message: error.message,
    type: 'invalid_request_error',
    param,
    code: 'context_length_exceeded',
  });
});

describe('other statuses', () => {
  const errorOf = async (response: Response) => ((await response.json()) as ErrorBody).error;

  it('404 for unknown paths and models, 405 with Allow for unknown methods', async () => {
    const nowhere = await fetch(`${test.url}/v1/embeddings`);
    expect(nowhere.status).toBe(404);
    expect(await errorOf(nowhere)).toMatchObject({
      code: 'not_found',
      message: expect.stringContaining('/v1/embeddings'),
    });
    const unknownModel = await test.post('/v1/chat/completions', { messages, model: 'gpt-9' });
    expect(unknownModel.status).toBe(404);
    expect(await errorOf(unknownModel)).toMatchObject({ code: 'model_not_found', param: 'model' });
    const wrongMethod = await fetch(`${test.url}/v1/chat/completions`);
    expect(wrongMethod.status).toBe(405);
    expect(wrongMethod.headers.get('allow')).toBe('POST');
    expect(await errorOf(wrongMethod)).toMatchObject({ type: 'invalid_request_error' });
  });

  it('413 for a body over the limit, 415 for another content type', async () => {
    const huge = await test.post('/v1/completions', { prompt: 'x'.repeat(70_000) });
    expect(huge.status).toBe(413);
    expect(await errorOf(huge)).toMatchObject({
      code: 'too_large',
      message: expect.stringContaining('65536 bytes'),
    });
    const xml = await test.post('/v1/completions', '<a/>', { 'content-type': 'application/xml' });
    expect(xml.status).toBe(415);
  });

  it('400 for bytes that are not UTF-8, with the place', async () => {
    const response = await fetch(`${test.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: Buffer.from([0x7b, 0x22, 0x61, 0xff, 0x22, 0x7d]),
    });
    expect(response.status).toBe(400);
    expect((await errorOf(response)).message).toMatch(/not valid UTF-8.*byte at 3/);
  });

  it('accepts what clients send without meaning it', async () => {
    const ignored = {
      user: 'u',
      store: true,
      metadata: { a: 'b' },
      service_tier: 'auto',
      parallel_tool_calls: true,
      seed: null,
      stop: null,
    };
    const harmless = {
      tools: [],
      tool_choice: 'none',
      response_format: { type: 'text' },
      logit_bias: {},
      n: null,
      modalities: ['text'],
    };
    const response = await test.post('/tokenize', { prompt: 'x' });
    expect(response.status).toBe(200);
    const other = await startTestServer(say('hello'));
    try {
      const answer = await other.post('/v1/chat/completions', { messages, ...ignored, ...harmless });
      expect(answer.status).toBe(200);
    } finally {
      await other.close();
    }
  });
});

describe('api keys', () => {
  it('asks for the right key, except on open paths', async () => {
    const guarded = await startTestServer(say('hello'), { http: { apiKeys: ['sesame', 'second'] } });
    try {
      const ask = (headers: Record<string, string>) =>
        guarded.post('/v1/chat/completions', { messages }, headers);
      for (const headers of [
        {},
        { authorization: 'Bearer wrong' },
        { authorization: 'Basic sesame' },
        { authorization: 'sesame' },
      ]) {
        const response = await ask(headers as Record<string, string>);
        expect(response.status).toBe(401);
        expect(((await response.json()) as ErrorBody).error).toMatchObject({
          code: 'invalid_api_key',
          type: 'authentication_error',
        });
      }
      expect((await ask({ authorization: 'Bearer sesame' })).status).toBe(200);
      expect((await ask({ authorization: 'bearer second' })).status).toBe(200);
      for (const path of ['/health', '/version', '/'])
        expect((await fetch(guarded.url + path)).status).toBe(200);
      for (const path of ['/v1/models', '/metrics', '/workers', '/routes'])
        expect((await fetch(guarded.url + path)).status).toBe(401);
      const metrics = await (
        await fetch(`${guarded.url}/metrics`, { headers: { authorization: 'Bearer second' } })
      ).text();
      const refused = [...metrics.matchAll(/http_responses_total\{.*status="401".*\} (\d+)/g)];
      expect(refused.reduce((sum, [, count]) => sum + Number(count), 0)).toBeGreaterThanOrEqual(3);
    } finally {
      await guarded.close();
    }
  });
});

describe('without a tokenizer', () => {
  it('takes and gives token ids only', async () => {
    const bare = await startTestServer(() => [70, 71], { model: { tokenizer: null, text: null } });
    try {
      const ids = [...tokenizer.encode('Hi', { addSpecialTokens: 'none' })];
      const answer = (await (await bare.post('/v1/completions', { prompt: ids })).json()) as {
        choices: object[];
      };
      expect(answer.choices[0]).toMatchObject({
        text: '',
        token_ids: [70, 71, 2],
        prompt_token_ids: ids,
        finish_reason: 'stop',
      });
      const streamed = await (await bare.post('/v1/completions', { prompt: ids, stream: true })).text();
      expect(streamed.match(/"token_ids":\[\d+\]/g)).toEqual([
        '"token_ids":[70]',
        '"token_ids":[71]',
        '"token_ids":[2]',
      ]);
      for (const [path, body] of [
        ['/v1/completions', { prompt: 'Hi' }],
        ['/v1/chat/completions', { messages }],
        ['/v1/completions', { prompt: ids, stop: 'x' }],
        ['/v1/completions', { prompt: ids, echo: true }],
        ['/tokenize', { prompt: 'Hi' }],
      ] as const) {
        const response = await bare.post(path, body);
        expect(response.status).toBe(400);
        expect(((await response.json()) as ErrorBody).error.message).toContain('--skip-tokenizer-init');
      }
    } finally {
      await bare.close();
    }
  });
});

it.each([
  ['a model name', { prompt: 'Hi', model: 'x'.repeat(50_000) }, 404],
  ['a token id', { prompt: 'Hi', logit_bias: { ['9'.repeat(50_000)]: 1 } }, 400],
  ['a field', { prompt: 'Hi', ['x'.repeat(50_000)]: 1 }, 400],
  ['an entry of a field', { prompt: 'Hi', logit_bias: { ['x'.repeat(50_000)]: 'a' } }, 400],
])('does not send back all of %s, however long it is', async (_, body, status) => {
  const response = await test.post('/v1/completions', body);
  expect(response.status).toBe(status);
  expect((await response.text()).length).toBeLessThan(5000);
});
