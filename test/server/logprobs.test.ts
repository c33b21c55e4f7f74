/** Log-probabilities of tokens whose text alone says too little: parts of characters, and tokens that look
 *  the same. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tokenizer } from '../../src/model/tokenizer.js';
import { CompletionLogprobWriter } from '../../src/server/logprobs.js';
import { startTestServer, type TestServer, tokenizer } from './demo-server.js';

/** The fake gateway's alternatives of a token are its successors: 97 to 101 are the single bytes A1 to A5. */
const firstPartId = 97;
let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(() => [firstPartId, 284]);
});
afterAll(() => test.close());

interface Scored {
  readonly choices: readonly [
    {
      readonly logprobs: {
        readonly tokens: readonly string[];
        readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
        readonly text_offset: readonly number[];
        readonly content: readonly {
          token: string;
          bytes: number[];
          top_logprobs: { token: string; bytes: number[] }[];
        }[];
      };
    },
  ];
  readonly prompt_logprobs: readonly (Readonly<Record<string, { decoded_token: string }>> | null)[];
}
const scored = async (path: string, body: object) => (await (await test.post(path, body)).json()) as Scored;

describe('completions', () => {
  it('give every alternative an entry of its own, parts of characters by their bytes', async () => {
    const { choices } = await scored('/v1/completions', { prompt: 'a', logprobs: 5, max_tokens: 2 });
    const { tokens, top_logprobs: top } = choices[0].logprobs;
    expect(tokens[0]).toBe('bytes:\\xa1');
    expect(top[0]).toEqual({
      'bytes:\\xa1': -0.25,
      'bytes:\\xa2': -1.25,
      'bytes:\\xa3': -2.25,
      'bytes:\\xa4': -3.25,
      'bytes:\\xa5': -4.25,
    });
    expect(tokens[1]).toBe('The');
    expect(Object.keys(top[1] ?? {})).toHaveLength(5);
  });

  it('of an echoed prompt too', async () => {
    const prompt = [284, firstPartId, firstPartId + 1];
    const { choices } = await scored('/v1/completions', { prompt, echo: true, logprobs: 5, max_tokens: 0 });
    const { tokens, top_logprobs: top } = choices[0].logprobs;
    expect(tokens).toEqual(['The', 'bytes:\\xa1', 'bytes:\\xa2']);
    expect(top[0]).toBeNull();
    for (const entry of top.slice(1)) expect(Object.keys(entry ?? {})).toHaveLength(5);
  });

  it('of an echoed prompt have as many alternatives as the answer, whatever prompt_logprobs asks for', async () => {
    for (const [own, ofPrompt] of [
      [5, 0],
      [1, 4],
    ] as const) {
      const body = {
        prompt: [40, 50, 60],
        echo: true,
        logprobs: own,
        prompt_logprobs: ofPrompt,
        max_tokens: 1,
      };
      const { choices } = (await (await test.post('/v1/completions', body)).json()) as {
        choices: { logprobs: Scored['choices'][0]['logprobs']; prompt_logprobs: (object | null)[] }[];
      };
      const counts = choices[0]?.logprobs.top_logprobs.map((top) => Object.keys(top ?? {}).length);
      expect(counts?.slice(0, 3)).toEqual([0, own, own]);
      const promptCounts = choices[0]?.prompt_logprobs.map((top) => Object.keys(top ?? {}).length);
      expect(promptCounts).toEqual([0, Math.max(1, ofPrompt), Math.max(1, ofPrompt)]);
    }
  });

  it('of a long echoed prompt come in slices of a stream, and say the same', async () => {
    const body = {
      prompt: Array.from({ length: 480 }, (_, i) => 300 + i),
      echo: true,
      logprobs: 20,
      max_tokens: 1,
    };
    const whole = (await scored('/v1/completions', body)).choices[0].logprobs;
    const text = await (await test.post('/v1/completions', { ...body, stream: true })).text();
    const chunks = [...text.matchAll(/^data: (\{.*)$/gm)].map(([, json = '']) => JSON.parse(json) as Scored);
    expect(chunks.length).toBe(2); // 480 tokens × 21 are more than 8192
    for (const list of ['tokens', 'top_logprobs', 'text_offset'] as const) {
      const told = chunks.map(({ choices }): readonly unknown[] => choices[0].logprobs[list]);
      expect(told.flat()).toEqual(whole[list]);
    }
  });

  it('name tokens by id when asked to', async () => {
    const body = { prompt: 'a', logprobs: 2, max_tokens: 2, return_tokens_as_token_ids: true };
    const { choices } = await scored('/v1/completions', body);
    expect(choices[0].logprobs.tokens).toEqual(['token_id:97', 'token_id:284']);
    expect(choices[0].logprobs.top_logprobs[0]).toEqual({ 'token_id:97': -0.25, 'token_id:98': -1.25 });
  });

  it('tell tokens of one text apart by id; the token itself keeps its text', () => {
    const alike = {
      tokenText: () => 'A',
      tokenBytes: () => Uint8Array.of(65),
      isSpecial: () => false,
    } as unknown as Tokenizer;
    const top = [7, 8, 9].map((id) => [id, -id] as const);
    const [entry] = new CompletionLogprobWriter(alike, 3, 'text').write([
      { tokenId: 8, logprob: { logprob: -8, top } },
    ]).top_logprobs;
    expect(entry).toEqual({ 'token_id:7': -7, A: -8, 'token_id:9': -9 });
  });
});

describe('chat', () => {
  const body = {
    messages: [{ role: 'user', content: 'Hi' }],
    logprobs: true,
    top_logprobs: 5,
    max_tokens: 2,
  };

  it('tells the exact bytes of parts of characters', async () => {
    const { choices } = await scored('/v1/chat/completions', body);
    const [first] = choices[0].logprobs.content;
    expect(first).toMatchObject({ token: '\uFFFD', bytes: [0xa1] });
    expect(first?.top_logprobs.map(({ bytes }) => bytes)).toEqual([[0xa1], [0xa2], [0xa3], [0xa4], [0xa5]]);
  });

  it('names tokens by id when asked to', async () => {
    const { choices } = await scored('/v1/chat/completions', { ...body, return_tokens_as_token_ids: true });
    const [first] = choices[0].logprobs.content;
    expect(first?.top_logprobs.map(({ token }) => token)).toEqual(
      [97, 98, 99, 100, 101].map((id) => `token_id:${id}`),
    );
  });

  it('scores a prompt with an entry for every alternative', async () => {
    const { prompt_logprobs: prompt } = await scored('/v1/chat/completions', { ...body, prompt_logprobs: 5 });
    for (const entry of prompt.slice(1)) expect(Object.keys(entry ?? {})).toHaveLength(5);
  });
});

it('the demo tokenizer has the parts that these tests need', () => {
  expect([...tokenizer.tokenBytes(firstPartId)]).toEqual([0xa1]);
});
