/** Tools, schemas and reasoning with real clients over a real port: `openai` and the AI SDK, unchanged;
 *  workers are real, the model the demo model, which knows no tools: what it must call is enforced. What
 *  models with tools write is scripted. */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, jsonSchema, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { say, startTestServer, type TestServer } from './demo-server.js';
import { type RealServer, startRealServer } from './real-server.js';

const parameters = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 20 }, days: { type: 'integer', minimum: 1, maximum: 9 } },
  required: ['city', 'days'],
  additionalProperties: false,
};
const weather = {
  type: 'function' as const,
  function: { name: 'get_weather', description: 'Forecast', parameters, strict: true },
};
const clock = {
  type: 'function' as const,
  function: { name: 'now', parameters: { type: 'object', properties: {} } },
};
const messages = [{ role: 'user' as const, content: 'What is the weather in Paris?' }];
const common = { model: 'demo', messages, temperature: 1, max_tokens: 200 };

describe.each([
  ['collocated', 'any:cpu'],
  ['disaggregated', 'prefill:cpu,decode:cpu'],
])('real workers, %s', (_, workers) => {
  let server: RealServer;
  let client: OpenAI;
  beforeAll(async () => {
    server = await startRealServer(workers);
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'unused', maxRetries: 0 });
  }, 60_000);
  afterAll(() => server.close());

  it.each([1, 2, 3])('a named function is called with arguments that fit, seed %i', async (seed) => {
    const { choices } = await client.chat.completions.create({
      ...common,
      seed,
      tools: [clock, weather],
      tool_choice: { type: 'function', function: { name: 'get_weather' } },
    });
    const [call] = choices[0]!.message.tool_calls ?? [];
    expect(call).toMatchObject({ type: 'function', function: { name: 'get_weather' } });
    const { city, days } = JSON.parse((call as { function: { arguments: string } }).function.arguments) as {
      city: string;
      days: number;
    };
    expect(city.length).toBeLessThanOrEqual(20);
    expect(days).toBeGreaterThanOrEqual(1);
    expect(choices[0]!.message.content).toBeNull();
    expect(choices[0]!.finish_reason).toBe('stop');
  });

  it('required: at least one, streamed as the helper takes it', async () => {
    const stream = client.chat.completions.stream({
      ...common,
      seed: 5,
      tools: [weather, clock],
      tool_choice: 'required',
      parallel_tool_calls: false,
    });
    const final = await stream.finalChatCompletion();
    const calls = final.choices[0]!.message.tool_calls ?? [];
    expect(calls).toHaveLength(1);
    expect(['get_weather', 'now']).toContain(calls[0]!.function.name);
    JSON.parse(calls[0]!.function.arguments);
    expect(final.choices[0]!.finish_reason).toBe('tool_calls');
  });

  it('response_format is parsed by the client', async () => {
    const { choices } = await client.chat.completions.parse({
      ...common,
      response_format: {
        type: 'json_schema',
        json_schema: { name: 'weather', strict: true, schema: parameters },
      },
    });
    expect(choices[0]!.message.parsed).toHaveProperty('days');
  });

  it('the AI SDK: generateObject, a tool call and its result', async () => {
    const model = createOpenAICompatible({
      name: 'twostroke',
      baseURL: `${server.url}/v1`,
      supportsStructuredOutputs: true,
    })('demo');
    const { object } = await generateObject({
      model,
      schema: jsonSchema<{ city: string }>(parameters as never),
      prompt: 'A city',
      maxRetries: 0,
    });
    expect(object).toHaveProperty('city');
    const seen: unknown[] = [];
    const now = tool({
      description: 'The time',
      inputSchema: jsonSchema<{ zone: string }>({
        type: 'object',
        properties: { zone: { enum: ['UTC', 'CET'] } },
        required: ['zone'],
        additionalProperties: false,
      }),
      execute: async (input) => seen.push(input),
    });
    const { toolCalls } = await generateText({
      model,
      prompt: 'The time?',
      tools: { now },
      toolChoice: 'required',
      maxRetries: 0,
    });
    expect(toolCalls[0]?.toolName).toBe('now');
    expect(seen.length).toBeGreaterThan(0);
    const streamed = streamText({
      model,
      prompt: 'The time?',
      tools: { now },
      toolChoice: { type: 'tool', toolName: 'now' },
      maxRetries: 0,
    });
    expect((await streamed.toolCalls)[0]?.toolName).toBe('now');
  });

  it('a schema that cannot be enforced is named when it is strict', async () => {
    const strange = {
      type: 'function' as const,
      function: { name: 'f', parameters: { not: {} }, strict: true },
    };
    await expect(
      client.chat.completions.create({ ...common, tools: [strange], tool_choice: 'required' }),
    ).rejects.toThrow('"not"');
    const lenient = { type: 'function' as const, function: { name: 'f', parameters: { not: {} } } };
    const { choices } = await client.chat.completions.create({
      ...common,
      tools: [lenient],
      tool_choice: 'required',
      max_tokens: 60,
    });
    expect(choices[0]!.message.tool_calls?.[0]).toMatchObject({ function: { name: 'f' } });
  });
});

describe('what a model writes', () => {
  let test: TestServer;
  let client: OpenAI;
  beforeAll(async () => {
    test = await startTestServer(say(''), {
      model: { answers: { toolParser: 'hermes', reasoningParser: 'think', takesTools: false } },
    });
    client = new OpenAI({ baseURL: `${test.url}/v1`, apiKey: 'unused', maxRetries: 0 });
  });
  afterAll(() => test.close());
  const written =
    '<think>I look it up.</think>Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>';

  it('is told apart, whole and streamed', async () => {
    test.gateway.script = say(written);
    const { choices } = await client.chat.completions.create({ ...common, tools: [weather] });
    expect(choices[0]).toMatchObject({
      finish_reason: 'tool_calls',
      message: {
        content: 'Let me see.',
        reasoning_content: 'I look it up.',
        tool_calls: [
          { type: 'function', function: { name: 'get_weather', arguments: '{"city": "Paris", "days": 2}' } },
        ],
      },
    });
    const deltas = [];
    for await (const chunk of await client.chat.completions.create({
      ...common,
      tools: [weather],
      stream: true,
    }))
      deltas.push(chunk.choices[0]!);
    const calls = deltas.flatMap(({ delta }) => delta.tool_calls ?? []);
    expect(calls[0]).toMatchObject({ index: 0, type: 'function', function: { name: 'get_weather' } });
    expect(calls.filter(({ id }) => id !== undefined)).toHaveLength(1);
    expect(calls.map((call) => call.function?.arguments ?? '').join('')).toBe('{"city": "Paris", "days": 2}');
    expect(calls.length).toBeGreaterThan(3);
    expect(deltas.map(({ delta }) => delta.content ?? '').join('')).toBe('Let me see.');
    expect(deltas.at(-1)?.finish_reason).toBe('tool_calls');
  });

  it('without tools calls are text; include_reasoning leaves the reasoning out', async () => {
    test.gateway.script = say(written);
    const { choices } = await client.chat.completions.create({ ...common, ...{ include_reasoning: false } });
    expect(choices[0]!.message.content).toContain('<tool_call>');
    expect(choices[0]!.message).not.toHaveProperty('reasoning_content');
    const none = await client.chat.completions.create({ ...common, tools: [weather], tool_choice: 'none' });
    expect(none.choices[0]!.message.tool_calls).toBeUndefined();
  });

  it('goes back into the history, with the results', async () => {
    test.gateway.script = say('Sunny.');
    await client.chat.completions.create({
      ...common,
      tools: [weather],
      messages: [
        ...messages,
        {
          role: 'assistant',
          content: null,
          tool_calls: [
            {
              id: 'call_1',
              type: 'function',
              function: { name: 'get_weather', arguments: '{"city": "Paris"}' },
            },
          ],
        },
        { role: 'tool', tool_call_id: 'call_1', content: 'sun, 21 degrees' },
      ],
    });
    const { promptIds } = test.gateway.submitted.at(-1)!;
    const { prompt } = (await (await test.post('/detokenize', { tokens: promptIds })).json()) as {
      prompt: string;
    };
    expect(prompt).toContain('"name":"get_weather"');
    expect(prompt).toContain('sun, 21 degrees');
    expect(prompt).toContain('You may call functions');
  });

  it.each([
    [{ tool_choice: 'required' }, 'tool_choice', 'tools'],
    [{ tools: [weather], tool_choice: { type: 'function', function: { name: 'x' } } }, 'tool_choice', '"x"'],
    [{ tools: [weather, weather] }, 'tools', 'twice'],
    [{ tools: [{ type: 'retrieval' }] }, 'tools[0].type', 'function'],
    [{ tools: [{ type: 'function', function: { name: 'a b' } }] }, 'tools[0].function.name', 'letters'],
  ])('%j is refused', async (fields, param, message) => {
    const response = await test.post('/v1/chat/completions', { messages, ...fields });
    const { error } = (await response.json()) as { error: { param: string; message: string } };
    expect([response.status, error.param]).toEqual([400, param]);
    expect(error.message).toContain(message);
  });
});
