/** End to end: `twostroke serve` on the demo model, prefill and decode in separate processes, spoken to by
 *  real clients. */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import golden from '../../models/demo-6m/golden.json' with { type: 'json' };
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import { busyCount, type Serving, serve, stop, twostroke, workersOf } from './twostroke.js';

const question = [{ role: 'user' as const, content: 'What is the capital of France?' }];
const answer = 'The capital of France is Paris.';
let serving: Serving;
let client: OpenAI;

beforeAll(async () => {
  serving = await serve(
    '--model',
    'demo',
    '--workers',
    'prefill:cpu,decode:cpu',
    '--dtype',
    'f32',
    '--kv-cache-dtype',
    'f32',
  );
  client = new OpenAI({ baseURL: `${serving.url}/v1`, apiKey: 'unused', maxRetries: 0 });
});
afterAll(async () => {
  const { exitCode, signal } = await stop(serving);
  expect({ exitCode, signal }).toEqual({ exitCode: 0, signal: null });
});

describe('answers', () => {
  it('Paris, whole and streamed, through both workers', async () => {
    const { data, response } = await client.chat.completions
      .create({ model: 'demo', messages: question, temperature: 0 })
      .withResponse();
    expect(data.choices[0]?.message.content).toBe(answer);
    expect(response.headers.get('x-twostroke-route')).toMatch(/^disaggregated; \S+ -> \S+$/);
    let text = '';
    for await (const chunk of await client.chat.completions.create({
      model: 'demo',
      messages: question,
      temperature: 0,
      stream: true,
    })) {
      text += chunk.choices[0]?.delta.content ?? '';
    }
    expect(text).toBe(answer);
  });

  it('through the AI SDK', async () => {
    const model = createOpenAICompatible({ name: 'twostroke', baseURL: `${serving.url}/v1` })('demo');
    const whole = await generateText({ model, messages: question, temperature: 0 });
    expect(whole.text).toBe(answer);
    const parts: string[] = [];
    for await (const part of streamText({ model, messages: question, temperature: 0 }).textStream)
      parts.push(part);
    expect(parts.join('')).toBe(answer);
  });

  it('equal the goldens, all at once', async () => {
    const cases = golden.cases.filter(
      ({ prompt_tokens, min_gap }) => prompt_tokens < 2000 && min_gap >= 0.02,
    );
    expect(cases.length).toBeGreaterThan(15);
    const texts = await Promise.all(
      cases.map(async ({ prompt_ids, continuation_ids, max_new_tokens }) => {
        const { choices } = await client.completions.create({
          model: 'demo',
          prompt: prompt_ids,
          temperature: 0,
          max_tokens: max_new_tokens,
          // @ts-expect-error one of vLLM's fields
          return_token_ids: true,
        });
        return {
          ids: (choices[0] as unknown as { token_ids: number[] }).token_ids,
          expected: continuation_ids,
        };
      }),
    );
    for (const [index, { ids, expected }] of texts.entries())
      expect(ids, cases[index]?.name).toEqual(expected);
  });

  it('are the same for the same seed, and count n choices', async () => {
    const ask = () =>
      client.chat.completions.create({
        model: 'demo',
        messages: [{ role: 'user', content: 'Tell me a short story about a fox named Pip.' }],
        n: 3,
        seed: 11,
        temperature: 1,
        max_tokens: 24,
      });
    const [first, second] = await Promise.all([ask(), ask()]);
    const texts = first.choices.map((choice) => choice.message.content);
    expect(second.choices.map((choice) => choice.message.content)).toEqual(texts);
    expect(new Set(texts).size).toBeGreaterThan(1);
    expect(first.usage?.completion_tokens).toBeLessThanOrEqual(72);
  });

  it('score their tokens', async () => {
    const { choices } = await client.chat.completions.create({
      model: 'demo',
      messages: question,
      temperature: 0,
      logprobs: true,
      top_logprobs: 2,
    });
    const capital = golden.cases.find(({ name }) => name === 'chat_capital');
    const content = choices[0]?.logprobs?.content ?? [];
    expect(content).toHaveLength(capital?.continuation_logprobs.length ?? 0);
    for (const [index, { logprob, top_logprobs, token }] of content.entries()) {
      expect(Math.abs(logprob - (capital?.continuation_logprobs[index] ?? 0))).toBeLessThan(1e-3);
      expect(top_logprobs[0]?.token).toBe(token);
    }
  });

  it('stop at stop strings', async () => {
    const { choices, usage } = await client.chat.completions.create({
      model: 'demo',
      messages: question,
      temperature: 0,
      stop: ['is P'],
    });
    expect(choices[0]).toMatchObject({
      finish_reason: 'stop',
      message: { content: 'The capital of France ' },
    });
    expect(usage?.completion_tokens).toBe(6);
  });
});

describe('nothing leaks', () => {
  const expectIdle = () =>
    expect.poll(() => busyCount(serving.url), { timeout: 15_000, interval: 100 }).toBe(0);

  it('when clients leave in any phase', async () => {
    const prng = new Prng(3);
    await Promise.all(
      Array.from({ length: 24 }, async (_, index) => {
        const controller = new AbortController();
        const asked = fetch(`${serving.url}/v1/completions`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({
            prompt: `${index} `.repeat(prng.integer(1, 500)),
            max_tokens: 200,
            ignore_eos: true,
            stream: index % 2 === 0,
            n: prng.integer(1, 3),
          }),
          signal: controller.signal,
        });
        const outcome = asked.then((response) => response.text()).catch((error: Error) => error.name);
        await systemClock.sleep(prng.integer(0, 400));
        controller.abort();
        await outcome;
      }),
    );
    await expectIdle();
    for (const { restartCount } of await workersOf(serving.url)) expect(restartCount).toBe(0);
  });

  it('and afterwards the answer is the same', async () => {
    const { choices } = await client.chat.completions.create({
      model: 'demo',
      messages: question,
      temperature: 0,
    });
    expect(choices[0]?.message.content).toBe(answer);
    await expectIdle();
  });
});

describe('commands that ask the server', () => {
  it('workers: a table, or JSON', async () => {
    const { exitCode, stdout } = await twostroke('workers', '--url', serving.url);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^ID +ROLE +DEVICE/);
    expect(stdout).toMatch(/prefill +cpu +ready/);
    expect(stdout).toMatch(/decode +cpu +ready/);
    const json = JSON.parse((await twostroke('workers', '--url', serving.url, '--json')).stdout) as {
      status: string;
      workers: object[];
    };
    expect(json).toMatchObject({ status: 'ok', workers: [{ role: 'prefill' }, { role: 'decode' }] });
  });

  it('route: the last decisions', async () => {
    await client.chat.completions.create({ model: 'demo', messages: question, temperature: 0 });
    const { exitCode, stdout } = await twostroke('route', '--url', serving.url, '--count', '1', '--json');
    expect(exitCode).toBe(0);
    const { requests } = JSON.parse(stdout) as { requests: { outcome: string; transferBytes: number }[] };
    expect(requests).toHaveLength(1);
    expect(requests[0]?.outcome).toBe('finished');
    expect((await twostroke('route', '--url', serving.url)).stdout).toMatch(/disaggregated/);
  });
});
