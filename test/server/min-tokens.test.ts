/** Stop strings and `min_tokens`: a stop string counts once a token beyond the minimum completes it, as in
 *  vLLM. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type AnswerChoice, answerOf, choiceOf } from './answers.js';
import { say, startTestServer, type TestServer, tokenizer } from './demo-server.js';

const answerText = 'The capital of France is Paris.'; // 7 tokens: The| capital| of| France| is| Paris|.
let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say(answerText));
});
afterAll(async () => {
  await vi.waitFor(() => expect(test.gateway.activeCount).toBe(0));
  await test.close();
});

const ask = (fields: object) => test.post('/v1/completions', { prompt: 'a', max_tokens: 40, ...fields });

describe('a stop string', () => {
  it.each([
    ['in the first token, which is within the minimum', 'The', 5, answerText, 'stop', null],
    ['completed by the last token of the minimum', 'France', 4, answerText, 'stop', null],
    ['completed by the first token beyond it', 'France', 3, 'The capital of ', 'stop', 'France'],
    ['begun within the minimum, completed beyond it', 'of France', 3, 'The capital ', 'stop', 'of France'],
    [
      'begun within the minimum, and in several tokens beyond it',
      'l of France is P',
      2,
      'The capita',
      'stop',
      'l of France is P',
    ],
    ['that comes twice, the second time beyond it', 'a', 4, 'The capital of France is P', 'stop', 'a'],
    ['without a minimum', 'a', 0, 'The c', 'stop', 'a'],
  ])('%s', async (_what, stop, minTokens, text, finishReason, stopReason) => {
    test.gateway.script = say(answerText);
    const choice = await choiceOf(await ask({ stop, min_tokens: minTokens }));
    expect(choice).toMatchObject({ text, finish_reason: finishReason, stop_reason: stopReason });
    const kept = await choiceOf(await ask({ stop, min_tokens: minTokens, include_stop_str_in_output: true }));
    if (stopReason !== null) expect(kept.text).toBe(text + stopReason);
  });

  it('counts for each choice by its own tokens', async () => {
    test.gateway.script = say('The cat is here.', answerText);
    const { choices } = await answerOf(
      await ask({ stop: 'is', min_tokens: 3, n: 2, return_token_ids: true }),
    );
    expect(choices.map(({ text }) => text)).toEqual(['The cat is here.', 'The capital of France ']);
    for (const { token_ids: ids } of choices) expect(ids.length).toBeGreaterThanOrEqual(3);
  });

  it('ends neither a chat before it', async () => {
    test.gateway.script = say(answerText);
    const body = { messages: [{ role: 'user', content: 'Hi' }], stop: ['The', 'Paris'], min_tokens: 2 };
    expect((await choiceOf(await test.post('/v1/chat/completions', body))).message.content).toBe(
      'The capital of France is ',
    );
  });
});

/** vLLM's rule, token by token over the whole text. */
function reference(
  ids: readonly number[],
  stops: readonly string[],
  minTokens: number,
): { text: string; tokenCount: number } {
  let text = '';
  for (const [index, id] of ids.entries()) {
    const before = text.length;
    text += tokenizer.tokenText(id);
    if (index + 1 <= minTokens) continue;
    for (let end = before + 1; end <= text.length; end++) {
      const ending = stops.filter((stop) => text.slice(0, end).endsWith(stop)).map(({ length }) => length);
      if (ending.length > 0) return { text: text.slice(0, end - Math.max(...ending)), tokenCount: index + 1 };
    }
  }
  return { text, tokenCount: ids.length };
}

it('holds for any text, stop strings and minimum, whole and streamed', async () => {
  const script = fc
    .stringMatching(/^[abc .]{1,24}$/)
    .map((text) => tokenizer.encode(text, { addSpecialTokens: 'none' }))
    .filter((ids) => ids.length > 0);
  const stops = fc.array(fc.stringMatching(/^[abc .]{1,3}$/), { minLength: 1, maxLength: 3 });
  await fc.assert(
    fc.asyncProperty(script, stops, fc.integer({ min: 0, max: 8 }), async (ids, stop, minTokens) => {
      test.gateway.script = () => ids;
      const fields = {
        stop,
        min_tokens: minTokens,
        max_tokens: ids.length,
        ignore_eos: true,
        return_token_ids: true,
      };
      const expected = reference(ids, stop, minTokens);
      if (minTokens > ids.length) return;
      const choice = await choiceOf(await ask(fields));
      expect({ text: choice.text, tokenCount: choice.token_ids.length }).toEqual(expected);
      expect(await streamedText({ ...fields, stream: true })).toBe(expected.text);
    }),
    { numRuns: 150, seed: 20_261_130 },
  );
});

async function streamedText(fields: object): Promise<string> {
  const events = (await (await ask(fields)).text()).split('\n\n').slice(0, -2);
  const chunks = events.map(
    (event) => JSON.parse(event.slice('data: '.length)) as { choices: AnswerChoice[] },
  );
  return chunks.flatMap(({ choices }) => choices.map(({ text }) => text)).join('');
}
