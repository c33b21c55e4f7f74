/** What requests ask for, and how they are fitted into a context without giving their length away. */
import { describe, expect, it } from 'vitest';
import { planRequests } from '../../src/bench/plan.js';
import { parseShareGpt } from '../../src/bench/sharegpt.js';
import { parseTrace } from '../../src/bench/trace.js';
import { createWorkload, type WorkloadOptions } from '../../src/bench/workload.js';

const base: WorkloadOptions = {
  name: 'random',
  seed: 5,
  contentSeed: 5,
  tokenIdPool: Array.from({ length: 100 }, (_, i) => 10 + i),
  inputTokenCount: 200,
  outputTokenCount: 40,
  rangeRatio: 0.5,
  outputShape: 'range',
  lengthScale: 1,
};
const first = (options: Partial<WorkloadOptions>, count: number) => {
  const workload = createWorkload({ ...base, ...options });
  return Array.from({ length: count }, (_, index) => workload.sample(index));
};
const idsOf = (sample: ReturnType<typeof first>[number]) =>
  sample.prompt.kind === 'ids' ? sample.prompt.ids : [];

describe('createWorkload', () => {
  it('random: lengths in mean × (1 ± ratio), ids from the pool', () => {
    const samples = first({}, 500);
    const prompts = samples.map(({ promptTokenCount }) => promptTokenCount);
    expect([Math.min(...prompts), Math.max(...prompts)]).toEqual([100, 300]);
    const outputs = samples.map(({ outputTokenCount }) => outputTokenCount);
    expect([Math.min(...outputs), Math.max(...outputs)]).toEqual([20, 60]);
    for (const sample of samples) {
      expect(idsOf(sample)).toHaveLength(sample.promptTokenCount);
      expect(idsOf(sample).every((id) => id >= 10 && id < 110)).toBe(true);
    }
  });

  it('short, long and mixed have the prompts that their names say', () => {
    const lengths = (name: 'short' | 'long' | 'mixed') =>
      first({ name }, 400).map(({ promptTokenCount }) => promptTokenCount);
    expect(lengths('short').every((count) => count >= 64 && count <= 256)).toBe(true);
    expect(lengths('long').every((count) => count >= 1024 && count <= 2048)).toBe(true);
    const shortCount = lengths('mixed').filter((count) => count <= 256).length;
    expect(shortCount).toBeGreaterThan(150); // 5 deviations of 10 from 200
    expect(shortCount).toBeLessThan(250);
    expect(
      lengths('mixed').every((count) => (count >= 64 && count <= 256) || (count >= 1024 && count <= 2048)),
    ).toBe(true);
  });

  it('request i depends on nothing but workload and seed', () => {
    const workload = createWorkload({ ...base, name: 'mixed' });
    const backwards = [3, 2, 1, 0].map((index) => workload.sample(index)).reverse();
    expect(backwards).toEqual(first({ name: 'mixed' }, 4));
    expect(first({ name: 'mixed', seed: 6 }, 4)).not.toEqual(backwards);
  });

  it('another content seed changes the tokens alone', () => {
    const [one, other] = [first({}, 50), first({ contentSeed: 6 }, 50)];
    one.forEach((sample, i) => {
      expect(sample.promptTokenCount).toBe(other[i]!.promptTokenCount);
      expect(sample.outputTokenCount).toBe(other[i]!.outputTokenCount);
      expect(idsOf(sample).slice(0, 16)).not.toEqual(idsOf(other[i]!).slice(0, 16));
    });
  });

  it('no two prompts begin alike', () => {
    const beginnings = first({}, 300).map((sample) => idsOf(sample).slice(0, 16).join());
    expect(new Set(beginnings).size).toBe(300);
  });

  it('lognormal answers have the mean asked for and a tail', () => {
    const outputs = first({ outputShape: 'lognormal', outputTokenCount: 100 }, 4000).map(
      ({ outputTokenCount }) => outputTokenCount,
    );
    const mean = outputs.reduce((sum, count) => sum + count, 0) / outputs.length;
    expect(mean).toBeGreaterThan(93); // standard deviation about 1.5
    expect(mean).toBeLessThan(107);
    expect(Math.max(...outputs)).toBeGreaterThan(500);
  });
});

const csv =
  'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319610,3180,8\n';
const jsonLines = [
  { timestamp: 500, input_length: 1100, output_length: 20, hash_ids: [0, 1, 2] },
  { timestamp: 100, input_length: 1200, output_length: 30, hash_ids: [0, 1, 9] },
];
const jsonl = jsonLines.map((line) => JSON.stringify(line)).join('\n');

describe('traces', () => {
  it("reads Azure's CSV to a tenth of a microsecond", () => {
    const [one, two] = parseTrace(csv, 'azure.csv');
    expect(one).toEqual({ atMs: 0, promptTokenCount: 4808, outputTokenCount: 10 });
    expect(two!.atMs).toBeCloseTo(52.001, 3);
  });

  it('reads a byte-order mark and Windows lines', () => {
    const azure = '\uFEFFTIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.97,4808,10\r\n';
    expect(parseTrace(azure, 'azure.csv')).toEqual([
      { atMs: 0, promptTokenCount: 4808, outputTokenCount: 10 },
    ]);
    const line = '\uFEFF{"timestamp": 5, "input_length": 3, "output_length": 2}\r\n';
    expect(parseTrace(line, 'mooncake.jsonl')).toEqual([
      { atMs: 0, promptTokenCount: 3, outputTokenCount: 2 },
    ]);
  });

  it("reads Mooncake's lines, in the order of arrival", () => {
    const entries = parseTrace(jsonl, 'mooncake.jsonl');
    expect(entries.map(({ atMs, promptTokenCount }) => [atMs, promptTokenCount])).toEqual([
      [0, 1200],
      [400, 1100],
    ]);
    expect(entries[0]!.blockIds).toEqual([0, 1, 9]);
  });

  it.each([
    ['TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n', /azure.*line 2/],
    ['TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1,-2\n', /line 2/],
    ['{"timestamp": 0, "input_length": 5}\n', /line 1/],
    ['{"timestamp": 0, \n', /line 1/],
    ['TIMESTAMP,ContextTokens,GeneratedTokens\n', /no entries/],
  ])('names what cannot be read: %j', (text, message) => {
    expect(() => parseTrace(text, 'azure.csv')).toThrow(message);
  });

  it('equal block ids make equal beginnings, and nothing more', () => {
    const trace = parseTrace(jsonl, 'mooncake.jsonl');
    for (const lengthScale of [1, 0.25]) {
      const [one, two] = first({ name: 'trace', trace, lengthScale }, 2);
      const sharedCount = 2 * 512 * lengthScale;
      expect(idsOf(one!)).toHaveLength(1200 * lengthScale);
      expect(idsOf(one!).slice(0, sharedCount)).toEqual(idsOf(two!).slice(0, sharedCount));
      expect(idsOf(one!).slice(sharedCount, sharedCount + 16)).not.toEqual(
        idsOf(two!).slice(sharedCount, sharedCount + 16),
      );
    }
  });
});

describe('parseShareGpt', () => {
  it('takes the first question and answer, and counts what has none', () => {
    const text = JSON.stringify([
      {
        conversations: [
          { from: 'human', value: 'Why?' },
          { from: 'gpt', value: 'Because.' },
          { from: 'human', value: 'Oh' },
        ],
      },
      { messages: [{ content: 'How?' }, { content: 'So.' }] },
      { conversations: [{ value: 'alone' }] },
    ]);
    const { pairs, leftOutCount } = parseShareGpt(text, 'f.json');
    expect(pairs).toEqual([
      { question: 'Why?', answer: 'Because.' },
      { question: 'How?', answer: 'So.' },
    ]);
    expect(leftOutCount).toBe(1);
    expect(() => parseShareGpt('{}', 'f.json')).toThrow(/f.json: expected a list/);
  });
});

describe('planRequests', () => {
  const plan = (
    options: Partial<WorkloadOptions>,
    limits: { contextTokenCount: number | null; outputLength: 'forced' | 'limit' },
  ) => {
    const counts = { shortenedCount: 0 };
    const times = Array.from({ length: 200 }, (_, i) => 10 * i).values();
    const workload = createWorkload({ ...base, ...options });
    const requests = [
      ...planRequests(times, workload, { ...limits, requestCountMax: 150, durationMs: 1000 }, counts),
    ];
    return { requests, counts, workload };
  };

  it('ends at the duration or the count, whichever is first', () => {
    expect(plan({}, { contextTokenCount: null, outputLength: 'limit' }).requests).toHaveLength(101); // 0, 10, …, 1000
  });

  it('forced: one max_tokens for all, at least twice every answer', () => {
    const { requests, workload } = plan({}, { contextTokenCount: 4096, outputLength: 'forced' });
    expect(new Set(requests.map(({ maxTokenCount }) => maxTokenCount))).toEqual(
      new Set([2 * workload.outputTokenCountMax]),
    );
    for (const { maxTokenCount, wantedTokenCount } of requests)
      expect(maxTokenCount).toBeGreaterThanOrEqual(2 * wantedTokenCount);
  });

  it('limit: max_tokens is the answer', () => {
    const { requests } = plan({}, { contextTokenCount: 4096, outputLength: 'limit' });
    for (const { maxTokenCount, wantedTokenCount } of requests) expect(maxTokenCount).toBe(wantedTokenCount);
  });

  it.each(['forced', 'limit'] as const)('%s: what does not fit is shortened and counted', (outputLength) => {
    const { requests, counts } = plan(
      { inputTokenCount: 900, rangeRatio: 0.3 },
      { contextTokenCount: 800, outputLength },
    );
    for (const request of requests) {
      expect(request.promptTokenCount + request.maxTokenCount).toBeLessThanOrEqual(800);
      expect(request.prompt.kind === 'ids' ? request.prompt.ids : []).toHaveLength(request.promptTokenCount);
      if (outputLength === 'forced')
        expect(request.maxTokenCount).toBeGreaterThanOrEqual(2 * request.wantedTokenCount);
    }
    expect(counts.shortenedCount).toBeGreaterThan(50);
  });
});
