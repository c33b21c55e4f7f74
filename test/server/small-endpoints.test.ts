/** Small things of the API: /ping, /apply-template, truncate_prompt_tokens. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { contextTokenCount, say, startTestServer, type TestServer } from './demo-server.js';

let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say('ok'));
});
afterAll(() => test.close());
const messages = [{ role: 'user', content: 'Hi there' }];

it('answers /ping with nothing', async () => {
  const response = await fetch(`${test.url}/ping`);
  expect([response.status, await response.text()]).toEqual([200, '']);
});

it('tells the prompt that messages become, as they are generated from', async () => {
  const { prompt } = (await (await test.post('/apply-template', { messages })).json()) as { prompt: string };
  expect(prompt).toBe('<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n');
  await test.post('/v1/chat/completions', { messages });
  const tokenized = (await (await test.post('/tokenize', { messages })).json()) as { tokens: number[] };
  expect(test.gateway.submitted.at(-1)?.promptIds).toEqual(tokenized.tokens);
});

it('keeps the last tokens of a prompt', async () => {
  const prompt = Array.from({ length: 20 }, (_, i) => 30 + i);
  await test.post('/v1/completions', { prompt, truncate_prompt_tokens: 5 });
  expect(test.gateway.submitted.at(-1)?.promptIds).toEqual(prompt.slice(-5));
  const long = Array.from({ length: 2 * contextTokenCount }, () => 31);
  await test.post('/v1/completions', { prompt: long, truncate_prompt_tokens: -1, max_tokens: 1 });
  expect(test.gateway.submitted.at(-1)?.promptIds).toHaveLength(contextTokenCount - 1);
  await test.post('/v1/chat/completions', { messages, truncate_prompt_tokens: 3 });
  expect(test.gateway.submitted.at(-1)?.promptIds).toHaveLength(3);
  const echoed = await test.post('/v1/completions', { prompt, truncate_prompt_tokens: 5, echo: true });
  expect(echoed.status).toBe(400);
});
