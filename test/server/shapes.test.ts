/** Answers with a shape, over a real port and real workers: every one is what was asked for, collocated,
 *  disaggregated and after a worker's death, whole and streamed, one choice and three. A long form draws
 *  thousands. */
import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import { expectNothingOwned, isFull } from '../control/real-cluster.js';
import { schemaCase } from '../grammar/schema-cases.js';
import { type RealServer, startRealServer } from './real-server.js';

const city = {
  type: 'object',
  properties: {
    city: { type: 'string', maxLength: 30 },
    country: { enum: ['France', 'Japan', 'Chile'] },
    size: { type: 'integer', minimum: 1, maximum: 40 },
    tags: { type: 'array', items: { type: 'string', pattern: '^[a-z]{2,8}$' }, maxItems: 3 },
    mayor: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/person' }] },
  },
  required: ['city', 'country', 'size', 'tags', 'mayor'],
  additionalProperties: false,
  $defs: {
    person: {
      type: 'object',
      properties: { name: { type: 'string' }, born: { type: 'string', format: 'date' } },
      required: ['name'],
    },
  },
};

type Check = (text: string) => boolean;
const bySchema = (schema: object): Check => {
  const validate = new Ajv2020({ strict: false, validateFormats: false, ownProperties: true }).compile(
    schema,
  );
  return (text) => validate(JSON.parse(text));
};
const byPattern =
  (pattern: RegExp): Check =>
  (text) =>
    pattern.test(text);

const shapes: readonly (readonly [string, object, Check])[] = [
  ['json_object', { response_format: { type: 'json_object' } }, bySchema({ type: 'object' })],
  [
    'json_schema',
    { response_format: { type: 'json_schema', json_schema: { name: 'city', strict: true, schema: city } } },
    bySchema(city),
  ],
  ['structured_outputs.json', { structured_outputs: { json: JSON.stringify(city) } }, bySchema(city)],
  [
    'guided_choice',
    { guided_choice: ['Paris', 'Tokyo', 'São Paulo'] },
    byPattern(/^(Paris|Tokyo|São Paulo)$/),
  ],
  ['guided_regex', { guided_regex: '[A-Z][a-z]{1,8}, \\d{1,3}%' }, byPattern(/^[A-Z][a-z]{1,8}, \d{1,3}%$/)],
  [
    'guided_grammar',
    { guided_grammar: 'root ::= "(" (root | [a-z]{1,9}) ")"' },
    byPattern(/^\(+[a-z]{1,9}\)+$/),
  ],
  [
    'structural_tag',
    {
      response_format: {
        type: 'structural_tag',
        triggers: ['<n>'],
        structures: [{ begin: '<n>', schema: { type: 'integer' }, end: '</n>' }],
      },
    },
    (text) => [...text.matchAll(/<n>/g)].length === [...text.matchAll(/<n>-?\d+<\/n>/g)].length,
  ],
];

interface Asked {
  readonly shape: object;
  readonly n: number;
  readonly isStreamed: boolean;
  readonly seed: number;
  readonly extra?: object;
}

/** The choices' texts. */
async function ask(
  server: RealServer,
  { shape, n, isStreamed, seed, extra = {} }: Asked,
  onChunk = () => {},
): Promise<string[]> {
  const body = {
    messages: [{ role: 'user', content: 'Tell me about a city.' }],
    ...{ temperature: 1, max_tokens: 160, n, seed, stream: isStreamed, ...shape, ...extra },
  };
  const response = await server.post('/v1/chat/completions', body);
  if (response.status !== 200) throw new Error(await response.text());
  if (!isStreamed) {
    const { choices } = (await response.json()) as {
      choices: { message: { content: string }; finish_reason: string }[];
    };
    expect(choices.map(({ finish_reason }) => finish_reason)).toEqual(choices.map(() => 'stop'));
    return choices.map(({ message }) => message.content);
  }
  const texts = Array.from({ length: n }, () => '');
  let rest = '';
  for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
    rest += Buffer.from(bytes).toString('latin1');
    const events = rest.split('\n\n');
    rest = events.pop() ?? '';
    for (const event of events) {
      const data = Buffer.from(event.replace(/^data: /, ''), 'latin1').toString();
      if (!data.startsWith('{')) continue;
      const chunk = JSON.parse(data) as {
        error?: object;
        choices: { index: number; delta: { content?: string } }[];
      };
      if (chunk.error !== undefined) throw new Error(data);
      for (const { index, delta } of chunk.choices) texts[index] += delta.content ?? '';
      onChunk();
    }
  }
  return texts;
}

const clusters = { collocated: 'any:cpu*2', disaggregated: 'prefill:cpu,decode:cpu' };
const servers: Partial<Record<keyof typeof clusters, RealServer>> = {};

beforeAll(async () => {
  servers.collocated = await startRealServer(clusters.collocated, { strategy: 'collocated' });
  servers.disaggregated = await startRealServer(clusters.disaggregated);
}, 60_000);
afterAll(async () => {
  for (const server of Object.values(servers)) {
    await expectNothingOwned(server.gateway);
    await server.close();
  }
});

const ways = (['collocated', 'disaggregated'] as const).flatMap((cluster) =>
  [false, true].flatMap((isStreamed) => [1, 3].map((n) => ({ cluster, isStreamed, n }))),
);

describe.each(ways)('$cluster, streamed: $isStreamed, n: $n', ({ cluster, isStreamed, n }) => {
  it.each(shapes)('%s', async (name, shape, check) => {
    const texts = await ask(servers[cluster]!, { shape, n, isStreamed, seed: n * 7 });
    expect(texts).toHaveLength(n);
    for (const text of texts) expect(check(text), `${name}: ${text}`).toBe(true);
  });

  it('schemas made of the keywords, many at once', async () => {
    const prng = new Prng(n + (isStreamed ? 2 : 0) + (cluster === 'collocated' ? 4 : 0));
    const count = isFull ? 1250 / n : 6;
    for (let done = 0; done < count; done += 6) {
      await Promise.all(
        Array.from({ length: 6 }, async (_, i) => {
          const { schema } = schemaCase(prng, 2);
          if (JSON.stringify(schema).includes('"$ref"') || JSON.stringify(schema).includes('additionalItems'))
            return;
          const shape = { response_format: { type: 'json_schema', json_schema: { name: 'made', schema } } };
          const texts = await ask(servers[cluster]!, {
            shape,
            n,
            isStreamed,
            seed: done + i,
            extra: { max_tokens: 500 },
          });
          for (const text of texts)
            expect(bySchema(schema as object)(text), `${JSON.stringify(schema)}: ${text}`).toBe(true);
        }),
      );
    }
  }, 600_000);
});

describe.each([
  ['collocated', 1],
  ['collocated', 3],
  ['disaggregated', 1],
  ['disaggregated', 3],
] as const)('a worker dies: %s, n: %i', (cluster, n) => {
  it('the answer is as if it had not', async () => {
    const server = servers[cluster]!;
    for (let round = 0; round < (isFull ? 20 : 1); round++) {
      const asked = { shape: shapes[1]![1], n, isStreamed: true, seed: round, extra: { max_tokens: 300 } };
      const expected = await ask(server, asked);
      let chunkCount = 0;
      const texts = await ask(server, asked, () => {
        if (++chunkCount !== 4 * n) return;
        const busy = server.gateway.workers().find(({ snapshot }) => (snapshot?.runningCount ?? 0) > 0);
        const victim = busy ?? server.gateway.workers().find(({ role }) => role !== 'prefill');
        process.kill(victim!.pid!, 'SIGKILL');
      });
      expect(texts).toEqual(expected);
      for (const text of texts) expect(shapes[1]![2](text), text).toBe(true);
      while (server.gateway.workers().some(({ state }) => state !== 'ready')) await systemClock.sleep(20);
    }
  }, 600_000);
});

describe('what goes with a shape', () => {
  it('stop strings, log-probabilities and penalties', async () => {
    const response = await servers.disaggregated!.post('/v1/chat/completions', {
      messages: [{ role: 'user', content: 'A city?' }],
      ...{
        temperature: 1,
        seed: 1,
        max_tokens: 100,
        logprobs: true,
        top_logprobs: 2,
        frequency_penalty: 0.5,
        stop: ['"country"'],
      },
      ...shapes[1]![1],
    });
    const { choices } = (await response.json()) as {
      choices: { message: { content: string }; stop_reason: string; logprobs: { content: unknown[] } }[];
    };
    expect(choices[0]!.message.content).toMatch(/^\{\s*"city": ?".*", ?\s*$/s);
    expect(choices[0]!.stop_reason).toBe('"country"');
    expect(choices[0]!.logprobs.content.length).toBeGreaterThan(5);
  });

  it('completions have it too, and allowed_token_ids', async () => {
    const response = await servers.collocated!.post('/v1/completions', {
      prompt: ['One:', 'Two:'],
      max_tokens: 20,
      temperature: 1,
      guided_regex: '[0-9]{2}',
    });
    const { choices } = (await response.json()) as { choices: { text: string }[] };
    for (const { text } of choices) expect(text).toMatch(/^\d\d$/);
    const ids = {
      prompt: 'x',
      max_tokens: 12,
      temperature: 1,
      ignore_eos: true,
      allowed_token_ids: [40, 41, 42],
      return_token_ids: true,
    };
    const allowed = (await (await servers.disaggregated!.post('/v1/completions', ids)).json()) as {
      choices: { token_ids: number[] }[];
    };
    expect(allowed.choices[0]!.token_ids).toHaveLength(12);
    expect(allowed.choices[0]!.token_ids.every((id) => ids.allowed_token_ids.includes(id))).toBe(true);
  });

  it.each([
    [
      { response_format: { type: 'json_schema', json_schema: { name: 'a', schema: { not: {} } } } },
      'response_format.json_schema.schema',
      '"not"',
    ],
    [{ guided_regex: '(?=x)' }, 'guided_regex', 'look-around'],
    [{ guided_grammar: 'root ::= x' }, 'guided_grammar', 'x'],
    [{ guided_json: '{' }, 'guided_json', 'JSON'],
    [{ guided_regex: 'a', guided_choice: ['b'] }, 'guided_choice', 'guided_regex'],
    [{ guided_regex: 'a', ignore_eos: true }, 'ignore_eos', 'guided_regex'],
    [{ guided_regex: 'a', min_tokens: 3 }, 'min_tokens', 'guided_regex'],
    [{ response_format: { type: 'xml' } }, 'response_format.type', 'type'],
  ])('%j is refused', async (shape, param, message) => {
    const response = await servers.collocated!.post('/v1/chat/completions', {
      messages: [{ role: 'user', content: 'x' }],
      ...shape,
    });
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as { error: { param: string; message: string } };
    expect(error.param).toBe(param);
    expect(error.message).toContain(message);
  });
});
