/** Numbers at the ends of their ranges: accepted or refused by name, and exact on their way to the device's
 *  32- and 64-bit fields. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SamplingParams } from '../../src/engine/sampling-params.js';
import { answerOf } from './answers.js';
import { contextTokenCount, demoModel, say, startTestServer, type TestServer } from './demo-server.js';

let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say('hello'));
});
afterAll(() => test.close());

/** Bodies are written by hand where JavaScript's own numbers would round them. */
const post = (fields: string, prompt = '"a"') =>
  test.post('/v1/completions', `{"prompt": ${prompt}, ${fields}}`);
async function samplingOf(fields: string): Promise<SamplingParams> {
  const response = await post(fields);
  expect([response.status, await response.text()]).toEqual([200, expect.anything()]);
  const sampling = test.gateway.submitted.at(-1)?.sampling;
  if (sampling === undefined) throw new Error('nothing was submitted');
  return sampling;
}

describe('seeds', () => {
  const extremes = [
    '9223372036854775807',
    '-9223372036854775808',
    '9223372036854775808',
    '9007199254740993',
    '-1',
    '1e18',
    '4.0',
  ];

  it.each(extremes)('%s is taken, and means the same every time', async (seed) => {
    const first = await samplingOf(`"seed": ${seed}`);
    expect((await samplingOf(`"seed": ${seed}`)).seed).toBe(first.seed);
  });

  it('that are usual stay as they are', async () => {
    for (const seed of [0, 1, 42, 2 ** 31, 2 ** 40 + 1])
      expect((await samplingOf(`"seed": ${seed}`)).seed).toBe(seed);
  });

  it('that differ draw differently, and so do all choices of all prompts', async () => {
    const seeds = new Set<number>();
    for (const seed of extremes) seeds.add((await samplingOf(`"seed": ${seed}`)).seed);
    expect(seeds.size).toBe(extremes.length - 1); // 2^63 - 1 and 2^63 are one number in JSON readers
    for (const seed of ['-1', '-9223372036854775808', '9223372036854775807', '4503599627370495']) {
      const response = await post(
        `"seed": ${seed}, "n": 4, "max_tokens": 1`,
        JSON.stringify(['a', 'b', 'c', 'd']),
      );
      expect(response.status).toBe(200);
      const draws = test.gateway.submitted
        .slice(-4)
        .flatMap(({ sampling }) => [0, 1, 2, 3].map((choice) => sampling.seed + choice));
      expect(new Set(draws).size).toBe(16);
      for (const draw of draws) expect(Number.isSafeInteger(draw) && draw >= 0).toBe(true);
    }
  });

  it.each(['1.5', '9223372036854777856', '-9223372036854777856', '1e300'])('%s is refused', async (seed) => {
    const response = await post(`"seed": ${seed}`);
    expect(response.status).toBe(400);
    expect((await answerOf(response)).error).toMatchObject({
      param: 'seed',
      message: expect.stringMatching(/^seed: /),
    });
  });
});

describe('other whole numbers', () => {
  it.each([
    ['"max_tokens": 9007199254740993', 'max_tokens'],
    ['"max_tokens": 1e300', 'max_tokens'],
    ['"max_tokens": 4294967296', 'max_tokens'],
    ['"min_tokens": 4294967297', 'min_tokens'],
    ['"n": 4294967297', 'n'],
    ['"logprobs": 4294967297', 'logprobs'],
    ['"prompt_logprobs": 4294967297', 'prompt_logprobs'],
    ['"stop_token_ids": [4294967301]', 'stop_token_ids'],
    ['"logit_bias": {"4294967301": 1}', 'logit_bias'],
    ['"logit_bias": {"99999999999999999999": 1}', 'logit_bias'],
    ['"logit_bias": {"-1": 1}', 'logit_bias'],
    ['"logit_bias": {"1e2": 1}', 'logit_bias'],
    ['"priority": 9007199254740993', 'priority'],
  ])('%s is refused by name', async (fields, param) => {
    const response = await post(fields);
    expect([response.status, (await answerOf(response)).error.param]).toEqual([400, param]);
  });

  it.each(['[4294967301]', '[9007199254740993]', '[[4294967301]]'])(
    'a prompt %s is refused',
    async (prompt) => {
      const response = await post('"max_tokens": 1', prompt);
      expect(response.status).toBe(400);
      expect((await answerOf(response)).error.param).toMatch(/^prompt/);
    },
  );

  it('one bias is left for each token', async () => {
    expect((await samplingOf('"logit_bias": {"7": 1, "007": 2}')).logitBias).toEqual([[7, 2]]);
  });

  it('a top_k over the vocabulary is all of it, in 32 bits', async () => {
    for (const topK of ['4096', '2147483648', '4294967296', '4294967297', '9007199254740991'])
      expect((await samplingOf(`"top_k": ${topK}`)).topK).toBe(0);
    expect((await samplingOf('"top_k": 4095')).topK).toBe(4095);
  });
});

describe('top_p', () => {
  it.each(['0', '0.0', '-0.0', '1e-300'])('%s is greedy', async (topP) => {
    const { temperature } = await samplingOf(`"top_p": ${topP}, "temperature": 1`);
    expect(temperature).toBe(0);
  });

  it('is what it was otherwise', async () => {
    expect(await samplingOf('"top_p": 0.01, "temperature": 0.7')).toMatchObject({
      topP: 0.01,
      temperature: 0.7,
    });
  });

  it('of 0 in the generation config is greedy too', async () => {
    const other = await startTestServer(say('x'), {
      model: { defaults: { ...demoModel.defaults, topP: 0 } },
    });
    try {
      await other.post('/v1/completions', { prompt: 'a' });
      expect(other.gateway.submitted.at(-1)?.sampling.temperature).toBe(0);
    } finally {
      await other.close();
    }
  });
});

it('max_tokens that just fits is taken', async () => {
  const sampling = await samplingOf(`"max_tokens": ${contextTokenCount - 2}`);
  expect(sampling.maxTokenCount).toBe(contextTokenCount - 2);
});
