/** Properties over random requests: no body makes the server fail, and a streamed answer always equals the
 *  whole one. Seeded. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { chatSchema } from '../../src/server/chat-schema.js';
import { completionSchema } from '../../src/server/completion-schema.js';
import { type Answer, answerOf } from './answers.js';
import { say, startTestServer, type TestServer, tokenizer } from './demo-server.js';

const seed = 20_260_102;
const runCount = process.env.TWOSTROKE_TEST === 'full' ? 2000 : 80;
let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say('hello there'));
});
afterAll(async () => {
  await vi.waitFor(() => expect(test.gateway.activeCount).toBe(0));
  await test.close();
});

/** A plausible body in which a few fields have been replaced by anything JSON can say. */
function strangeBody(fieldNames: readonly string[], base: object): fc.Arbitrary<object> {
  const smallNumber = fc.oneof(fc.integer({ min: -3, max: 40 }), fc.double({ noNaN: true, min: -3, max: 3 }));
  const value = fc.oneof(
    { weight: 3, arbitrary: smallNumber },
    { weight: 1, arbitrary: fc.boolean() },
    { weight: 2, arbitrary: fc.jsonValue({ maxDepth: 2 }) },
  );
  const fields = fc.dictionary(fc.constantFrom(...fieldNames), value, { maxKeys: 4 });
  return fields.map((strange) => ({ ...base, ...strange }));
}

it.each([
  [
    '/v1/chat/completions',
    Object.keys(chatSchema.shape),
    { messages: [{ role: 'user', content: 'Hi' }], max_tokens: 20 },
  ],
  ['/v1/completions', Object.keys(completionSchema.shape), { prompt: 'Hi', max_tokens: 20 }],
] as const)('%s answers anything with 200 or a 4xx that says something', async (path, fieldNames, base) => {
  await fc.assert(
    fc.asyncProperty(strangeBody(fieldNames, base), async (body) => {
      const response = await test.post(path, body);
      const text = await response.text();
      if (response.status === 200) return;
      const { error } = JSON.parse(text) as Answer;
      expect([400, 404]).toContain(response.status);
      expect(error.message.length).toBeGreaterThan(8);
      expect(error.type).toBe('invalid_request_error');
    }),
    { numRuns: runCount, seed },
  );
});

it('streams exactly what it would answer whole, whatever the tokens and stop strings are', async () => {
  const token = fc.integer({ min: 3, max: 4095 });
  const text = fc
    .string({ unit: 'grapheme', maxLength: 20 })
    .map((value) => tokenizer.encode(value, { addSpecialTokens: 'none' }));
  const script = fc.oneof(
    fc.array(token, { minLength: 1, maxLength: 30 }),
    text.filter((ids) => ids.length > 0),
  );
  const stop = fc.oneof(
    fc.string({ minLength: 1, maxLength: 3 }),
    fc.constantFrom('e', 't', ' ', 'a', '\uFFFD'),
  );
  const options = fc.record({
    stop: fc.array(stop, { maxLength: 3 }),
    n: fc.integer({ min: 1, max: 3 }),
    max_tokens: fc.integer({ min: 1, max: 40 }),
    include_stop_str_in_output: fc.boolean(),
    skip_special_tokens: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(script, { minLength: 3, maxLength: 3 }), options, async (scripts, fields) => {
      test.gateway.script = (_input, choiceIndex) => scripts[choiceIndex] ?? [];
      const body = { prompt: 'a', ...fields, return_token_ids: true };
      const whole = await answerOf(await test.post('/v1/completions', body));
      const streamed = await streamedChoices(
        { ...body, stream: true, stream_options: { include_usage: true } },
        fields.n,
      );
      expect(streamed.usage).toEqual(whole.usage);
      for (const choice of whole.choices) {
        const { text, token_ids, finish_reason, stop_reason } = choice;
        expect(streamed.choices[choice.index]).toEqual({ text, token_ids, finish_reason, stop_reason });
        if (!fields.include_stop_str_in_output)
          for (const stopString of fields.stop) expect(text).not.toContain(stopString);
      }
      expect(whole.usage.completion_tokens).toBe(
        whole.choices.reduce((sum, { token_ids }) => sum + token_ids.length, 0),
      );
    }),
    { numRuns: runCount, seed },
  );
});

async function streamedChoices(body: object, choiceCount: number) {
  const response = await test.post('/v1/completions', body);
  const events = (await response.text()).split('\n\n').slice(0, -2);
  const chunks = events.map((event) => JSON.parse(event.slice('data: '.length)) as Answer);
  const choices = Array.from({ length: choiceCount }, () => ({
    text: '',
    token_ids: [] as number[],
    finish_reason: null as string | null,
    stop_reason: undefined as string | number | null | undefined,
  }));
  for (const { index, text, token_ids, finish_reason, stop_reason } of chunks.flatMap(
    (chunk) => chunk.choices,
  )) {
    const choice = choices[index];
    if (choice === undefined) throw new Error(`choice ${index} of ${choiceCount}`);
    choice.text += text;
    choice.token_ids.push(...token_ids);
    choice.finish_reason ??= finish_reason;
    if (finish_reason !== null) choice.stop_reason = stop_reason;
  }
  return { choices, usage: chunks.at(-1)?.usage };
}
