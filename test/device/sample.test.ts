/** Sampling against a float64 reference, per instruction set: greedy, distributions, penalties, masks,
 *  log-probabilities. */
import { afterAll, describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { tokenForbidden } from '../../src/device/device.js';
import type { Row } from './sample-rows.js';
import { drawMany, keptProbabilities, logSoftmax, repeated, sample } from './sample-rows.js';
import { availableIsas, Bench, expectClose } from './tensors.js';

const vocabs = [1, 7, 17, 33, 64, 65, 1000, 5003];

function normals(count: number, seed: number, scale = 2): number[] {
  const prng = new Prng(seed);
  return Array.from({ length: count }, () => Math.fround(prng.normal() * scale));
}

/** Pearson's test of counts against probabilities, rare tokens pooled: at most five deviations above its
 *  mean. Seeds are fixed. */
function expectLikely(tokens: readonly number[], expected: ReadonlyMap<number, number>): void {
  const counts = new Map<number, number>();
  for (const token of tokens) counts.set(token, (counts.get(token) ?? 0) + 1);
  const classes: { seen: number; wanted: number }[] = [];
  const rare = { seen: 0, wanted: 0 };
  for (const [id, probability] of expected) {
    const one = { seen: counts.get(id) ?? 0, wanted: probability * tokens.length };
    if (one.wanted >= 8) classes.push(one);
    else {
      rare.seen += one.seen;
      rare.wanted += one.wanted;
    }
  }
  if (rare.wanted > 0) classes.push({ seen: rare.seen, wanted: Math.max(rare.wanted, 1) });
  const statistic = classes.reduce((sum, { seen, wanted }) => sum + (seen - wanted) ** 2 / wanted, 0);
  const freedom = Math.max(classes.length - 1, 0); // the statistic's mean; its variance is twice that
  expect(statistic).toBeLessThanOrEqual(freedom + 5 * Math.sqrt(2 * freedom) + 1e-9);
}

const filters: readonly [string, Row][] = [
  ['temperature', { temperature: 1 }],
  ['high temperature', { temperature: 2.5 }],
  ['top-k', { temperature: 0.8, topK: 5 }],
  ['top-k over the vocabulary', { temperature: 1, topK: 100000 }],
  ['top-p', { temperature: 1, topP: 0.7 }],
  ['wide top-p', { temperature: 3, topP: 0.97 }],
  ['tiny top-p', { temperature: 1, topP: 1e-6 }],
  ['min-p', { temperature: 1.3, minP: 0.08 }],
  ['top-k and top-p', { temperature: 1, topK: 20, topP: 0.8 }],
  ['all three', { temperature: 1.1, topK: 40, topP: 0.95, minP: 0.25 }],
  ['top-k and min-p', { temperature: 2, topK: 30, minP: 0.3 }],
  ['top-p and min-p', { temperature: 3, topP: 0.95, minP: 0.15 }],
  ['top-p and a binding min-p', { temperature: 1.2, topP: 0.97, minP: 0.3 }],
];

describe.each(availableIsas())('sample on %s', (isa) => {
  const b = new Bench({ isa, threadCount: 2 });
  afterAll(() => b.close());

  it.each(vocabs)(
    'greedy takes the best, log-probabilities and alternatives are those of the raw logits (vocab %i)',
    async (vocab) => {
      const logits = normals(3 * vocab, vocab);
      const rows: Row[] = [{ topCount: 20, slot: 2 }, { topCount: Math.min(3, vocab) }, { slot: 0 }];
      const got = await sample(b, b.f32(logits, [3, vocab]), rows);
      for (let r = 0; r < 3; r++) {
        const row = logits.slice(r * vocab, (r + 1) * vocab);
        const reference = logSoftmax(row);
        const order = row
          .map((value, id) => ({ value, id }))
          .sort((a, c) => c.value - a.value || a.id - c.id);
        expect(got.tokens[r]).toBe(order[0]?.id);
        expectClose([got.logprobs[r] as number], [reference[got.tokens[r] as number] as number], 1e-6, 2e-6);
        const count = Math.min(rows[r]?.topCount ?? 0, vocab);
        const best = order.slice(0, count).map(({ id }) => id);
        expect(got.topIds[r]).toEqual([...best, ...new Array(20 - count).fill(-1)]);
        expectClose(
          got.topLogprobs[r]?.slice(0, count) ?? [],
          best.map((id) => reference[id] as number),
          1e-6,
          2e-6,
        );
        expect(got.topLogprobs[r]?.slice(count)).toEqual(
          new Array(20 - count).fill(Number.NEGATIVE_INFINITY),
        );
      }
      expect([got.lastTokens[2], got.lastTokens[1], got.lastTokens[0]]).toEqual([
        got.tokens[0],
        -1,
        got.tokens[2],
      ]);
    },
  );

  it('greedy breaks ties by the lower id, and reports when nothing is allowed', async () => {
    const vocab = 200;
    const rows = [normals(vocab, 1), normals(vocab, 2)];
    for (const id of [70, 71, 150]) (rows[0] as number[])[id] = 50;
    const got = await sample(b, b.f32(rows.flat(), [2, vocab]), [{}, { allowed: [] }]);
    expect(got.tokens).toEqual([70, tokenForbidden]);
    expect(got.logprobs[1]).toBe(Number.NEGATIVE_INFINITY);
  });

  it('applies mask, bias and penalties in order', async () => {
    const vocab = 77;
    const logits = normals(vocab, 21);
    const row = {
      allowed: Array.from({ length: vocab }, (_, id) => id).filter((id) => id % 5 !== 0),
      bias: [
        [3, 1.75],
        [8, Number.NEGATIVE_INFINITY],
        [12, -0.5],
      ] as const,
      prompt: [3, 4, 4, 13],
      output: [7, 7, 7, 12, 4],
      repetition: 1.3,
      presence: 0.4,
      frequency: 0.2,
    };
    const changed = logits.map((value, id) => {
      let x = row.allowed.includes(id) ? value : Number.NEGATIVE_INFINITY;
      for (const [biased, by] of row.bias) if (biased === id) x += by;
      const outputs = row.output.filter((other) => other === id).length;
      if (outputs > 0 || row.prompt.includes(id)) x = x > 0 ? x / row.repetition : x * row.repetition;
      return x - row.frequency * outputs - (outputs > 0 ? row.presence : 0);
    });
    const greedy = await sample(b, b.f32(logits, [1, vocab]), [row]);
    expect(greedy.tokens[0]).toBe(changed.indexOf(Math.max(...changed)));
    expectClose(greedy.logprobs, [logSoftmax(logits)[greedy.tokens[0] as number] as number], 1e-6, 2e-6);

    // Each value on its own: against a rival biased to just above and just below it, with all else masked.
    const rival = 76;
    const ids = [3, 4, 7, 12, 13, 14, 26];
    const duels = ids.flatMap((id) =>
      [1e-3, -1e-3].map((margin) => ({
        ...row,
        allowed: [id, rival],
        bias: [...row.bias, [rival, (changed[id] as number) + margin - (logits[rival] as number)] as const],
      })),
    );
    const got = await sample(b, repeated(b, logits, duels.length), duels);
    expect(got.tokens).toEqual(ids.flatMap((id) => [rival, id]));
  });

  it('reports a target instead of drawing', async () => {
    const logits = normals(65, 31);
    const got = await sample(b, b.f32(logits, [1, 65]), [{ temperature: 1, target: 40, topCount: 2 }]);
    expect(got.tokens).toEqual([40]);
    expectClose(got.logprobs, [logSoftmax(logits)[40] as number], 1e-6, 2e-6);
    expect(got.topIds[0]?.[0]).toBe(logits.indexOf(Math.max(...logits)));
  });

  it('gives the same token whatever else is in the batch', async () => {
    const vocab = 5003;
    const logits = normals(vocab, 41, 1);
    const others = normals(7 * vocab, 42, 3);
    const mine = filters.map(([, row], i) => ({ ...row, seed: 2 ** 40 + 5, drawIndex: i }));
    const alone = await sample(b, repeated(b, logits, mine.length), mine);
    const batch = b.f32([...others.slice(0, 3 * vocab), ...logits, ...others.slice(3 * vocab)], [8, vocab]);
    for (const [i, row] of mine.entries()) {
      const rows: Row[] = [
        {},
        { temperature: 1 },
        { temperature: 2, topP: 0.9 },
        row,
        {},
        { topK: 3 },
        { temperature: 1, minP: 0.1 },
        {},
      ];
      expect((await sample(b, batch, rows)).tokens[3]).toBe(alone.tokens[i]);
    }
  });
});

describe('sample draws from the reference distribution', () => {
  // one instruction set is enough: the last test shows that all draw the same
  const b = new Bench({ threadCount: 2 });
  afterAll(() => b.close());
  const batch = 500;
  const rows = [normals(33, 11), normals(3001, 12)].map((logits) => ({
    logits,
    tensor: repeated(b, logits, batch),
  }));

  it.each(filters)('%s', async (_, row) => {
    for (const { logits, tensor } of rows) {
      const expected = keptProbabilities(logits, row);
      const tokens = await drawMany(b, tensor, { ...row, seed: 99 }, 8 * batch);
      expect(tokens.filter((token) => !expected.has(token))).toEqual([]);
      expectLikely(tokens, expected);
    }
  });

  it('draws by Philox 4x32-10, the same on every device', async () => {
    // Known answer of the generator's authors for key 0, counter 0: 6627e8d5 e169c58d; u = 0xe169c58d6627e8d5
    // / 2^64
    const logits = b.f32(new Float32Array(1000), [1, 1000]);
    expect((await sample(b, logits, [{ temperature: 1 }])).tokens).toEqual([
      Math.floor((0xe169c58d / 2 ** 32) * 1000),
    ]);
    expect((await sample(b, logits, [{ temperature: 1, topK: 500 }])).tokens).toEqual([
      Math.floor((0xe169c58d / 2 ** 32) * 500),
    ]);
  });

  it('keeps exactly the reference set where it is flat', async () => {
    const vocab = 1000; // the nucleus is larger than the first few candidates, and full of equal values
    const logits = normals(vocab, 5, 0.3).map((value) => Math.round(value * 8) / 8);
    const row: Row = { temperature: 1, topP: 0.5, seed: 7 };
    const expected = keptProbabilities(logits, row);
    expect(expected.size).toBeGreaterThan(300);
    const seen = new Set(await drawMany(b, repeated(b, logits, batch), row, 8 * batch));
    expect([...seen].filter((token) => !expected.has(token))).toEqual([]);
    expect(seen.size).toBeGreaterThan(expected.size * 0.98);
  });
});

it('draws the same tokens on every instruction set and thread count', async () => {
  const vocab = 5003;
  const logits = normals(4 * vocab, 77, 1.5);
  const rows: Row[] = [
    { temperature: 1 },
    { temperature: 0.7, topP: 0.9 },
    { temperature: 1.2, topK: 50 },
    { temperature: 2, minP: 0.01 },
  ];
  const all: unknown[] = [];
  for (const isa of availableIsas()) {
    for (const threadCount of [1, 2]) {
      const b = new Bench({ isa, threadCount });
      const tensor = b.f32(logits, [4, vocab]);
      for (let i = 0; i < 30; i++) {
        all[i] ??= await sample(
          b,
          tensor,
          rows.map((row) => ({ ...row, seed: 5, drawIndex: i, topCount: 5 })),
        );
        expect(
          await sample(
            b,
            tensor,
            rows.map((row) => ({ ...row, seed: 5, drawIndex: i, topCount: 5 })),
          ),
        ).toEqual(all[i]);
      }
      b.close();
    }
  }
});
