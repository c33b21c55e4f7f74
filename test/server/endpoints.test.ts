/** /tokenize, /detokenize, /metrics, /workers, /routes, /version, /, CORS: everything that does not generate;
 *  and what a request's fields become on their way to the engine. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { requestId, workerId } from '../../src/base/ids.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import { answerOf, choiceOf } from './answers.js';
import {
  contextTokenCount,
  demoModel,
  say,
  startTestServer,
  type TestServer,
  tokenizer,
} from './demo-server.js';

let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say('hello'), { http: { corsOrigin: 'https://app.example' } });
});
afterAll(() => test.close());
beforeEach(() => {
  test.gateway.script = say('hello');
});

const messages = [{ role: 'user', content: 'Hi' }];
const lastInput = () => test.gateway.submitted.at(-1);

describe('tokenize', () => {
  it('gives ids, count and context; strings when asked', async () => {
    const text = 'The capital of France 😀';
    const ids = tokenizer.encode(text, { addSpecialTokens: 'auto' });
    const plain = await (await test.post('/tokenize', { model: 'demo', prompt: text })).json();
    expect(plain).toEqual({
      count: ids.length,
      max_model_len: contextTokenCount,
      tokens: ids,
      token_strs: null,
    });
    const strings = (await (
      await test.post('/tokenize', { prompt: text, return_token_strs: true })
    ).json()) as {
      token_strs: string[];
    };
    expect(strings.token_strs).toEqual(ids.map((id) => tokenizer.tokenText(id)));
    expect(await (await test.post('/tokenize', { prompt: '' })).json()).toMatchObject({
      count: 0,
      tokens: [],
    });
  });

  it('renders chats as a chat completion would', async () => {
    const { tokens } = (await (await test.post('/tokenize', { messages })).json()) as { tokens: number[] };
    await test.post('/v1/chat/completions', { messages });
    expect(tokens).toEqual(lastInput()?.promptIds);
    const bare = (await (
      await test.post('/tokenize', { messages, add_generation_prompt: false })
    ).json()) as {
      tokens: number[];
    };
    expect(tokens.slice(0, bare.tokens.length)).toEqual(bare.tokens);
    expect(bare.tokens.length).toBeLessThan(tokens.length);
  });

  it('and detokenize are inverse', async () => {
    const text = 'héllo 😀 <|im_end|>\n x';
    const { tokens } = (await (await test.post('/tokenize', { prompt: text })).json()) as {
      tokens: number[];
    };
    expect(await (await test.post('/detokenize', { tokens })).json()).toEqual({ prompt: text });
  });
});

describe('sampling fields', () => {
  it("default to the model's generation config", async () => {
    await test.post('/v1/chat/completions', { messages });
    expect(lastInput()?.sampling).toMatchObject({
      temperature: 0.6,
      topK: 20,
      topP: 0.9,
      minP: 0,
      repetitionPenalty: 1,
      choiceCount: 1,
      endTokenIds: demoModel.defaults.endTokenIds,
      stopTokenIds: [],
      topLogprobCount: null,
      promptLogprobCount: null,
      minTokenCount: 0,
      maxTokenCount: contextTokenCount - (lastInput()?.promptIds.length ?? 0),
    });
  });

  it('win over it, all of them', async () => {
    await test.post('/v1/chat/completions', {
      messages,
      temperature: 0,
      top_k: -1,
      top_p: 1,
      min_p: 0.1,
      repetition_penalty: 1.1,
      presence_penalty: 0.5,
      frequency_penalty: -0.5,
      logit_bias: { 5: 1.5, 7: -100 },
      seed: 42,
      n: 2,
      max_tokens: 9,
      max_completion_tokens: 8,
      min_tokens: 3,
      ignore_eos: true,
      stop_token_ids: [11],
      logprobs: true,
      top_logprobs: 4,
      prompt_logprobs: 2,
      priority: -3,
      cache_salt: 'tenant-a',
    });
    expect(lastInput()).toMatchObject({
      priority: -3,
      cacheSalt: expect.stringMatching(/^[0-9a-f]{64}$/),
      sampling: {
        temperature: 0,
        topK: 0,
        topP: 1,
        minP: 0.1,
        repetitionPenalty: 1.1,
        presencePenalty: 0.5,
        frequencyPenalty: -0.5,
        logitBias: [
          [5, 1.5],
          [7, -100],
        ],
        seed: 42,
        choiceCount: 2,
        maxTokenCount: 8,
        minTokenCount: 3,
        endTokenIds: [],
        stopTokenIds: [11],
        topLogprobCount: 4,
        promptLogprobCount: 2,
      },
    });
  });

  it('draw a fresh seed for each request that gives none', async () => {
    const seeds = new Set<number | undefined>();
    for (let i = 0; i < 3; i++) {
      await test.post('/v1/chat/completions', { messages });
      seeds.add(lastInput()?.sampling.seed);
    }
    expect(seeds.size).toBe(3);
  });
});

describe('chat messages', () => {
  it('may be text parts, developer messages and a continued answer', async () => {
    const parts = [
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
      },
    ];
    await test.post('/v1/chat/completions', {
      messages: [{ role: 'developer', content: 'Be brief.' }, ...parts],
    });
    const prompt = tokenizer.decode(lastInput()?.promptIds ?? [], { special: 'keep' });
    expect(prompt).toBe(
      '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n',
    );
    const echoed = await choiceOf(
      await test.post('/v1/chat/completions', {
        messages: [...messages, { role: 'assistant', content: 'Well, ' }],
        echo: true,
      }),
    );
    expect(echoed.message.content).toBe('Well, hello');
  });

  it('score their prompt when asked', async () => {
    const response = await test.post('/v1/chat/completions', { messages, prompt_logprobs: 1 });
    const { prompt_logprobs: scored } = (await response.json()) as {
      prompt_logprobs: (Record<string, { logprob: number }> | null)[];
    };
    const ids = lastInput()?.promptIds ?? [];
    expect(scored).toHaveLength(ids.length);
    expect(scored[0]).toBeNull();
    for (const [index, entry] of scored.entries())
      if (entry !== null) expect(entry[String(ids[index])]?.logprob).toBe(-0.25);
  });
});

describe('metrics', () => {
  it("count what happened, under our names and vLLM's", async () => {
    const fresh = await startTestServer(say('one two three'));
    try {
      const { usage } = await answerOf(await fresh.post('/v1/chat/completions', { messages }));
      await fresh.post('/v1/chat/completions', { messages: 3 });
      const response = await fetch(`${fresh.url}/metrics`);
      expect(response.headers.get('content-type')).toMatch(/^text\/plain/);
      const text = await response.text();
      const value = (name: string) => Number(new RegExp(`^${name}\\{[^}]*\\} (.*)$`, 'm').exec(text)?.[1]);
      for (const prefix of ['twostroke_', 'vllm:']) {
        expect(value(`${prefix}prompt_tokens_total`)).toBe(usage.prompt_tokens);
        expect(value(`${prefix}generation_tokens_total`)).toBe(usage.completion_tokens);
        expect(value(`${prefix}request_success_total`)).toBe(1);
        expect(value(`${prefix}time_to_first_token_seconds_count`)).toBe(1);
        expect(value(`${prefix}inter_token_latency_seconds_count`)).toBe(usage.completion_tokens - 1);
        expect(value(`${prefix}e2e_request_latency_seconds_count`)).toBe(1);
        expect(value(`${prefix}prefix_cache_hits_total`)).toBe(20);
        expect(value(`${prefix}prefix_cache_queries_total`)).toBe(50);
      }
      expect(text).toMatch(/^twostroke_plan\{plan="collocated"[^}]*\} 1$/m);
      expect(value('vllm:num_requests_running')).toBe(0);
      expect(value('vllm:num_requests_waiting')).toBe(0);
      expect(value('vllm:kv_cache_usage_perc')).toBe(0.08);
      expect(value('vllm:gpu_cache_usage_perc')).toBe(0.08);
      expect(value('vllm:num_preemptions_total')).toBe(3);
      expect(value('vllm:time_per_output_token_seconds_count')).toBe(usage.completion_tokens - 1);
      expect(text).toContain('twostroke_kv_blocks{worker="fake-0",state="owned",model_name="demo"} 8');
      expect(text).toContain(
        'twostroke_http_responses_total{route="/v1/chat/completions",status="200",model_name="demo"} 1',
      );
      expect(text).toContain(
        'twostroke_http_responses_total{route="/v1/chat/completions",status="400",model_name="demo"} 1',
      );
      expect(text).toMatch(/^# HELP vllm:num_requests_running /m);
    } finally {
      await fresh.close();
    }
  });
});

describe('looking at the server', () => {
  it('shows workers, routes, version and a hint', async () => {
    const workers = (await (await fetch(`${test.url}/workers`)).json()) as {
      status: string;
      workers: { id: string }[];
    };
    expect(workers.status).toBe('ok');
    expect(workers.workers[0]).toMatchObject({ id: 'fake-0', role: 'any', snapshot: { ownedBlockCount: 8 } });
    expect(await (await fetch(`${test.url}/version`)).json()).toEqual({ version: '0.0.0-test' });
    expect(await (await fetch(test.url)).text()).toContain('POST /v1/chat/completions');
    for (let i = 0; i < 3; i++)
      test.gateway.recordListeners.forEach((listen) => void listen(record(`r${i}`)));
    const { requests } = (await (await fetch(`${test.url}/routes?count=2`)).json()) as {
      requests: RequestRecord[];
    };
    expect(requests.map(({ id }) => id)).toEqual(['r2', 'r1']);
  });

  it('answers browsers of the allowed origin', async () => {
    const preflight = await fetch(`${test.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: {
        'access-control-request-headers': 'authorization,content-type',
        origin: 'https://app.example',
      },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get('access-control-allow-headers')).toBe('authorization,content-type');
    for (const stream of [true, false]) {
      const response = await test.post('/v1/chat/completions', { messages, stream });
      expect(response.headers.get('access-control-allow-origin')).toBe('https://app.example');
      await response.text();
    }
  });

  it('keeps a request id that is fit for a header, and no other', async () => {
    const idFor = async (given: string) =>
      (await fetch(`${test.url}/health`, { headers: { 'x-request-id': given } })).headers.get('x-request-id');
    expect(await idFor('trace-1')).toBe('trace-1');
    expect(await idFor('x'.repeat(300))).toMatch(/^req-/);
  });
});

function record(id: string): RequestRecord {
  return {
    id: requestId(id),
    outcome: 'finished',
    isMeasurement: false,
    isLate: false,
    routes: [
      {
        path: 'collocated',
        plan: 'collocated',
        workers: [workerId('fake-0')],
        inputs: {},
        reason: 'only one',
        estimates: {},
      },
    ],
    promptTokenCount: 1,
    cachedTokenCount: 0,
    outputTokenCount: 1,
    finishReasons: ['stop'],
    arrivalMs: 0,
    doneMs: 1,
    transferBytes: 0,
    exposedTransferMs: 0,
    reservationWaitMs: 0,
    handOverFailures: [],
    lossCount: 0,
  };
}
