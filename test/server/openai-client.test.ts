/** The official `openai` client, unchanged, against the real server over a real port. */
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { say, startTestServer, type TestServer, tokenizer } from './demo-server.js';

const answerText = 'The capital of France is Paris.';
const messages = [{ role: 'user' as const, content: 'What is the capital of France?' }];
let test: TestServer;
let client: OpenAI;

beforeAll(async () => {
  test = await startTestServer(say(answerText));
  client = new OpenAI({ baseURL: `${test.url}/v1`, apiKey: 'unused', maxRetries: 0 });
});
afterAll(async () => {
  expect(test.gateway.activeCount).toBe(0);
  await test.close();
});

describe('chat completions', () => {
  it('answers whole, with exact usage', async () => {
    test.gateway.cachedTokenCount = 8;
    const result = await client.chat.completions.create({ model: 'demo', messages });
    test.gateway.cachedTokenCount = 0;
    expect(result.choices).toHaveLength(1);
    expect(result.choices[0]?.message).toMatchObject({ role: 'assistant', content: answerText });
    expect(result.choices[0]?.finish_reason).toBe('stop');
    const outputCount = tokenizer.encode(answerText, { addSpecialTokens: 'none' }).length + 1;
    expect(result.usage).toMatchObject({
      prompt_tokens: 15,
      completion_tokens: outputCount,
      total_tokens: 15 + outputCount,
      prompt_tokens_details: { cached_tokens: 8 },
    });
    expect(result.id).toMatch(/^chatcmpl-/);
    expect(result.model).toBe('demo');
    expect(result._request_id).toMatch(/^req-/);
  });

  it('streams the same text in many chunks, role first, finish last, usage when asked', async () => {
    const stream = await client.chat.completions.create({
      model: 'demo',
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    expect(chunks.length).toBeGreaterThan(4);
    expect(chunks[0]?.choices[0]?.delta).toEqual({ role: 'assistant', content: '' });
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe(answerText);
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('stop');
    expect(chunks.at(-1)?.choices).toEqual([]);
    expect(chunks.at(-1)?.usage?.completion_tokens).toBe(
      tokenizer.encode(answerText, { addSpecialTokens: 'none' }).length + 1,
    );
    expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true);
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
  });

  it('passes the stream helper', async () => {
    const final = await client.chat.completions.stream({ model: 'demo', messages }).finalChatCompletion();
    expect(final.choices[0]?.message.content).toBe(answerText);
  });

  it('gives n choices, whole and streamed', async () => {
    test.gateway.script = say('one', 'two words', 'three little words');
    const whole = await client.chat.completions.create({ model: 'demo', messages, n: 3 });
    expect(whole.choices.map((choice) => choice.message.content)).toEqual([
      'one',
      'two words',
      'three little words',
    ]);
    const texts = ['', '', ''];
    for await (const chunk of await client.chat.completions.create({
      model: 'demo',
      messages,
      n: 3,
      stream: true,
    })) {
      for (const choice of chunk.choices) texts[choice.index] += choice.delta.content ?? '';
    }
    expect(texts).toEqual(['one', 'two words', 'three little words']);
    test.gateway.script = say(answerText);
  });

  it('scores tokens', async () => {
    const result = await client.chat.completions.create({
      model: 'demo',
      messages,
      logprobs: true,
      top_logprobs: 3,
    });
    const content = result.choices[0]?.logprobs?.content ?? [];
    expect(
      content
        .slice(0, -1)
        .map(({ token }) => token)
        .join(''),
    ).toBe(answerText);
    expect(content).toHaveLength(result.usage?.completion_tokens ?? 0);
    for (const entry of content) {
      expect(entry.logprob).toBe(-0.25);
      expect(entry.top_logprobs.map(({ logprob }) => logprob)).toEqual([-0.25, -1.25, -2.25]);
      expect(entry.top_logprobs[0]?.token).toBe(entry.token);
      expect(entry.bytes).toEqual([...Buffer.from(entry.token)]);
    }
  });

  it('streams log-probabilities for every token exactly once', async () => {
    const tokens: string[] = [];
    const stream = await client.chat.completions.create({
      model: 'demo',
      messages,
      logprobs: true,
      stream: true,
    });
    for await (const chunk of stream)
      tokens.push(...(chunk.choices[0]?.logprobs?.content ?? []).map(({ token }) => token));
    expect(tokens.slice(0, -1).join('')).toBe(answerText);
  });

  it('raises typed errors', async () => {
    await expect(client.chat.completions.create({ model: 'nope', messages })).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
    });
    await expect(
      client.chat.completions.create({ model: 'demo', messages, temperature: -1 }),
    ).rejects.toMatchObject({
      status: 400,
      param: 'temperature',
      type: 'invalid_request_error',
    });
    const long = [{ role: 'user' as const, content: 'word '.repeat(600) }];
    await expect(client.chat.completions.create({ model: 'demo', messages: long })).rejects.toMatchObject({
      status: 400,
      param: 'messages',
      code: 'context_length_exceeded',
    });
  });

  it('works with a base URL that ends in a slash', async () => {
    const careless = new OpenAI({ baseURL: `${test.url}//v1/`, apiKey: 'unused', maxRetries: 0 });
    expect((await careless.models.retrieve('demo')).id).toBe('demo');
  });

  it('cancels when the caller stops reading', async () => {
    test.gateway.script = () => [70];
    test.gateway.stepMs = 2;
    const stream = await client.chat.completions.create({
      model: 'demo',
      messages,
      stream: true,
      // @ts-expect-error one of vLLM's fields
      ignore_eos: true,
    });
    for await (const _ of stream) break;
    await expect.poll(() => test.gateway.activeCount).toBe(0);
    expect(test.gateway.eventCount).toBeLessThan(5000);
    test.gateway.script = say(answerText);
    test.gateway.stepMs = 0;
  });
});

describe('completions', () => {
  it('takes text, texts, ids and lists of ids', async () => {
    const text = 'Once upon a time';
    const ids = [...tokenizer.encode(text, { addSpecialTokens: 'auto' })];
    for (const prompt of [text, [text, text], ids, [ids, ids, ids]]) {
      const result = await client.completions.create({ model: 'demo', prompt });
      const expectedCount = typeof prompt === 'string' || typeof prompt[0] === 'number' ? 1 : prompt.length;
      expect(result.choices.map(({ index }) => index)).toEqual([...Array(expectedCount).keys()]);
      expect(result.choices.every((choice) => choice.text === answerText)).toBe(true);
      expect(result.usage?.prompt_tokens).toBe(ids.length * expectedCount);
      expect(test.gateway.submitted.at(-1)?.promptIds).toEqual(ids);
    }
  });

  it('defaults to 16 tokens', async () => {
    test.gateway.script = () => [70];
    const result = await client.completions.create({ model: 'demo', prompt: 'a' });
    test.gateway.script = say(answerText);
    expect(result.usage?.completion_tokens).toBe(2);
    expect(test.gateway.submitted.at(-1)?.sampling.maxTokenCount).toBe(16);
  });

  it('echoes and scores the prompt', async () => {
    const prompt = 'The 2 cats';
    const ids = tokenizer.encode(prompt, { addSpecialTokens: 'auto' });
    const result = await client.completions.create({
      model: 'demo',
      prompt,
      echo: true,
      logprobs: 2,
      max_tokens: 3,
    });
    const [choice] = result.choices;
    expect(choice?.text.startsWith(prompt)).toBe(true);
    const logprobs = choice?.logprobs;
    expect(logprobs?.tokens?.join('')).toBe(choice?.text);
    expect(logprobs?.token_logprobs?.[0]).toBeNull();
    expect(logprobs?.top_logprobs?.[0]).toBeNull();
    expect(logprobs?.token_logprobs?.slice(1).every((value) => value === -0.25)).toBe(true);
    expect(Object.keys(logprobs?.top_logprobs?.[1] ?? {})).toHaveLength(2);
    expect(logprobs?.tokens).toHaveLength(ids.length + 3);
    for (const [index, offset] of (logprobs?.text_offset ?? []).entries()) {
      expect(choice?.text.slice(offset).startsWith(logprobs?.tokens?.[index] ?? '?')).toBe(true);
    }
  });

  it('scores a prompt alone with max_tokens 0', async () => {
    const result = await client.completions.create({
      model: 'demo',
      prompt: 'The cat',
      echo: true,
      logprobs: 1,
      max_tokens: 0,
    });
    expect(result.choices[0]?.text).toBe('The cat');
    expect(result.choices[0]?.logprobs?.tokens?.join('')).toBe('The cat');
    expect(result.usage?.completion_tokens).toBe(0);
  });

  it('streams several prompts at once', async () => {
    const texts = ['', ''];
    const stream = await client.completions.create({ model: 'demo', prompt: ['a', 'b'], stream: true });
    for await (const chunk of stream) for (const choice of chunk.choices) texts[choice.index] += choice.text;
    expect(texts).toEqual([answerText, answerText]);
  });
});

describe('models', () => {
  it('lists and shows', async () => {
    const list = await client.models.list();
    expect(list.data.map(({ id }) => id)).toEqual(['demo', 'demo-6m']);
    expect((await client.models.retrieve('demo-6m')).id).toBe('demo-6m');
    await expect(client.models.retrieve('nope')).rejects.toMatchObject({ status: 404 });
  });
});
