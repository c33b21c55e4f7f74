/** Fields that this server does not know: ignored and named, or refused by name when it is strict. */
import type { ServerResponse } from 'node:http';
import OpenAI from 'openai';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Logger } from '../../src/base/log.js';
import { UnknownFields } from '../../src/server/unknown-fields.js';
import { answerOf } from './answers.js';
import { say, startTestServer, type TestServer } from './demo-server.js';

const messages = [{ role: 'user' as const, content: 'Hi' }];
const header = 'x-twostroke-ignored-fields';
let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say('hello'));
});
afterAll(() => test.close());

async function ignored(path: string, body: object): Promise<string | null> {
  const response = await test.post(path, body);
  expect([response.status, await response.text()]).toEqual([200, expect.anything()]);
  return response.headers.get(header);
}

describe('an unknown field', () => {
  it('is ignored, and named in a header', async () => {
    expect(await ignored('/v1/chat/completions', { messages, temprature: 1, foo: null })).toBe(
      'temprature, foo',
    );
    expect(await ignored('/v1/completions', { prompt: 'a', bar: { deep: [1] } })).toBe('bar');
    expect(await ignored('/tokenize', { prompt: 'a', x: 1 })).toBe('x');
    expect(await ignored('/tokenize', { messages, x: 1 })).toBe('x');
    expect(await ignored('/detokenize', { tokens: [5], x: 1 })).toBe('x');
    expect(
      await ignored('/v1/chat/completions', { messages, user: 'known', metadata: { any: 1 } }),
    ).toBeNull();
  });

  it('deeper in the body too, once for all items of a list', async () => {
    const part = { type: 'text', text: 'a', cache_control: { type: 'ephemeral' } };
    const body = {
      messages: [
        { role: 'system', content: 'Be brief.', colour: 1 },
        { role: 'user', content: [part, part], colour: 2 },
      ],
      stream: true,
      stream_options: { include_usage: true, fancy: 1 },
      chat_template_kwargs: { anything: 1 },
      logit_bias: { 5: 1 },
    };
    expect(await ignored('/v1/chat/completions', body)).toBe(
      'messages[].colour, messages[].content[].cache_control, stream_options.fancy',
    );
  });

  it('is named in a header of bounded length, whatever it is called and however many there are', async () => {
    const many = Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`field_${index}`, 1]));
    const value = (await ignored('/v1/completions', { prompt: 'a', ...many })) ?? '';
    expect(value.startsWith('field_0, field_1, ')).toBe(true);
    expect(value.endsWith(', and more')).toBe(true);
    expect(value.length).toBeLessThan(2000);
    const strange = `{"prompt": "a", "a\\r\\nset-cookie: b": 1, "é\\ud800": 1, "${'x'.repeat(5000)}": 1, "__proto__": {"n": 9}, "": 1}`;
    const response = await test.post('/v1/completions', strange);
    expect(response.status).toBe(200);
    expect(response.headers.get('set-cookie')).toBeNull();
    expect(response.headers.get(header)).toBe(`a??set-cookie:?b, ??, ${'x'.repeat(64)}, __proto__, ?`);
    expect(test.gateway.submitted.at(-1)?.sampling.choiceCount).toBe(1);
  });

  it('passes with the official client, which can read the header', async () => {
    const client = new OpenAI({ baseURL: `${test.url}/v1`, apiKey: 'unused', maxRetries: 0 });
    const body = { model: 'demo', messages, enable_magic: true };
    const { data, response } = await client.chat.completions.create(body).withResponse();
    expect(data.choices[0]?.message.content).toBe('hello');
    expect(response.headers.get(header)).toBe('enable_magic');
  });

  it('that would change the answer and is known to others is refused by name', async () => {
    for (const field of ['bad_words', 'logits_processors', 'regex', 'ebnf']) {
      const response = await test.post('/v1/completions', { prompt: 'a', [field]: ['x'] });
      expect([response.status, (await answerOf(response)).error.param]).toEqual([400, field]);
    }
    for (const field of ['chat_template', 'documents']) {
      const response = await test.post('/v1/chat/completions', { messages, [field]: ['x'] });
      expect([response.status, (await answerOf(response)).error.param]).toEqual([400, field]);
    }
    const harmless = { bad_words: [], allowed_token_ids: null, logits_processors: [], documents: [] };
    expect((await test.post('/v1/chat/completions', { messages, ...harmless })).status).toBe(200);
  });
});

describe('the log', () => {
  const logged: string[] = [];
  const logger = { warn: ({ field }: { field: string }) => logged.push(field) } as unknown as Logger;
  const sink = { setHeader: () => undefined } as unknown as ServerResponse;
  beforeEach(() => logged.splice(0));

  it('names a field once, and a bounded number of them', () => {
    const fields = new UnknownFields('ignore', logger);
    for (let i = 0; i < 3; i++) fields.handle({ a: 1, b: 2 }, { a: 1 }, sink);
    expect(logged).toEqual(['b']);
    for (let i = 0; i < 1000; i++) fields.handle({ [`f${i}`]: 1 }, {}, sink);
    expect(logged.length).toBe(100);
  });
});

it('a strict server refuses it by name, with its exact place', async () => {
  const strict = await startTestServer(say('hello'), { http: { strictFields: true } });
  try {
    for (const [body, param] of [
      [{ messages, temprature: 1 }, 'temprature'],
      [{ messages: [...messages, { role: 'user', content: 'a', colour: 1 }] }, 'messages[1].colour'],
      [{ messages, stream: true, stream_options: { foo: 1 } }, 'stream_options.foo'],
    ] as const) {
      const response = await strict.post('/v1/chat/completions', body);
      const { error } = await answerOf(response);
      expect([response.status, error.param, error.message]).toEqual([
        400,
        param,
        expect.stringContaining('unknown field'),
      ]);
    }
    expect(strict.gateway.submitted).toHaveLength(0);
  } finally {
    await strict.close();
  }
});
