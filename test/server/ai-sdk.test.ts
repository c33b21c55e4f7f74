/** The Vercel AI SDK, unchanged, against the real server over a real port. */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { say, startTestServer, type TestServer, tokenizer } from './demo-server.js';

const answerText = 'The capital of France is Paris. 😀';
const outputCount = tokenizer.encode(answerText, { addSpecialTokens: 'none' }).length + 1;
let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say(answerText));
});
afterAll(() => test.close());

const model = () =>
  createOpenAICompatible({ name: 'twostroke', baseURL: `${test.url}/v1`, includeUsage: true })('demo');

it('generates text', async () => {
  const result = await generateText({
    model: model(),
    system: 'Be brief.',
    prompt: 'What is the capital of France?',
    temperature: 0,
  });
  expect(result.text).toBe(answerText);
  expect(result.finishReason).toBe('stop');
  expect(result.usage.outputTokens).toBe(outputCount);
});

it('streams text with usage', async () => {
  const result = streamText({
    model: model(),
    messages: [{ role: 'user', content: 'What is the capital of France?' }],
  });
  const parts: string[] = [];
  for await (const part of result.textStream) parts.push(part);
  expect(parts.join('')).toBe(answerText);
  expect(parts.length).toBeGreaterThan(4);
  expect(await result.finishReason).toBe('stop');
  expect((await result.usage).outputTokens).toBe(outputCount);
});

it('aborts', async () => {
  test.gateway.script = () => [70];
  test.gateway.stepMs = 2;
  const controller = new AbortController();
  const result = streamText({
    model: model(),
    prompt: 'Go on',
    abortSignal: controller.signal,
    providerOptions: { twostroke: { ignore_eos: true } },
  });
  for await (const _ of result.textStream) {
    controller.abort();
    break;
  }
  await expect.poll(() => test.gateway.activeCount).toBe(0);
});
