/** Requests with a grammar: each draw has the mask of the tokens before it, whatever runs beside it, and
 *  others do not wait. */
import { describe, expect, it } from 'vitest';
import type { GenerationRequest } from '../../src/engine/engine.js';
import { type FakeEngineOptions, fakeEngine, promptOf, request } from './fake-engine.js';
import { FakeMasks } from './fake-masks.js';
import { idealChoice } from './oracle.js';

const endTokenIds = [3, 4, 5, 6];
const shaped = (i: number, rest: Partial<GenerationRequest['sampling']> = {}) =>
  request(promptOf(i, 5 + 3 * i), {
    maxTokenCount: 20,
    grammar: 'g'.repeat(1 + (i % 3)),
    endTokenIds,
    seed: i,
    ...rest,
  });

async function expectIdeal(
  requests: readonly GenerationRequest[],
  options: FakeEngineOptions = {},
  masks = new FakeMasks(),
) {
  const { engine } = fakeEngine({ ...options, masks });
  const results = await engine.generate(requests);
  requests.forEach((asked, i) => {
    results[i]!.choices.forEach((choice, c) => {
      const ideal = idealChoice(asked, c, 128);
      const given = asked.outputs?.[c]?.length ?? 0;
      expect(choice.tokens.map(({ tokenId }) => tokenId)).toEqual(ideal.tokens.slice(given));
      expect(choice.finishReason).toBe(ideal.finishReason);
    });
  });
  engine.checkIntegrity();
  expect(masks.openCount).toBe(0);
  const snapshot = engine.snapshot();
  await engine.close();
  return snapshot;
}

describe('masks', () => {
  it.each([1, 2] as const)(
    'each draw has its own, beside rows without one and with allowed tokens, depth %i',
    async (depth) => {
      const allowedTokenIds = [1, 3, 9, 27, 28, 29, 64, 96];
      const requests = Array.from({ length: 7 }, (_, i) => {
        if (i % 3 === 2) return request(promptOf(i, 9), { maxTokenCount: 25, seed: i });
        return i % 3 === 1
          ? shaped(i, { temperature: 1 })
          : request(promptOf(i, 9), { maxTokenCount: 12, allowedTokenIds });
      });
      for (const delay of [0, 1, 5, 50]) {
        const masks = new FakeMasks();
        masks.delay = delay;
        await expectIdeal(
          requests.map((one) => request(one.promptIds, one.sampling)),
          { depth },
          masks,
        );
      }
    },
  );

  it('holds with penalties, several choices, log-probabilities and prompts in chunks', async () => {
    const requests = [
      shaped(1, { choiceCount: 3, temperature: 1 }),
      shaped(2, { repetitionPenalty: 1.2, topLogprobCount: 2 }),
      shaped(3, { choiceCount: 2, presencePenalty: 0.5, promptLogprobCount: 0 }),
    ];
    await expectIdeal(requests, { prefillChunkTokenCount: 4, tokenBudget: 24 });
  });

  it('holds when sequences are preempted, and when a request comes with tokens', async () => {
    const requests = [1, 2, 3, 4, 5].map((i) => shaped(i, { maxTokenCount: 30, endTokenIds: [] }));
    const { preemptionCount } = await expectIdeal(requests, { blockCount: 9, blockTokenCount: 8 });
    expect(preemptionCount).toBeGreaterThan(0);
    const first = shaped(9, { endTokenIds: [] });
    const outputs = [idealChoice(first, 0, 128).tokens.slice(0, 7)];
    await expectIdeal([request(first.promptIds, first.sampling, { outputs })]);
  });

  it('keeps choices with a grammar in one step, and those without in theirs', async () => {
    const plain = request(promptOf(1, 8), { maxTokenCount: 40 });
    const alone = await expectIdeal([plain], { depth: 2 });
    const masks = new FakeMasks();
    masks.delay = 1e4; // no mask comes while it runs
    const { engine } = fakeEngine({ masks });
    engine.add(request(plain.promptIds, plain.sampling));
    engine.add(shaped(2));
    for (let tokenCount = 0; tokenCount < 40; ) {
      for (const event of await engine.step()) if (event.kind === 'tokens') tokenCount += event.tokens.length;
    }
    expect(engine.snapshot().stepCount).toBeLessThanOrEqual(alone.stepCount + 1);
    await engine.close();
    const together = await expectIdeal(
      [1, 2, 3, 4].map((i) => shaped(i, { endTokenIds: [] })),
      { tokenBudget: 64 },
    );
    expect(together.stepCount).toBeLessThanOrEqual(2 + 20 + 4);
  });

  it('makes one mask for a prompt that is handed over, and none for a place that is reserved', async () => {
    const masks = new FakeMasks();
    const asked = shaped(4, { endTokenIds: [] });
    const { engine } = fakeEngine({ masks });
    engine.addPrefill(asked);
    const drawn: number[] = [];
    while (drawn.length === 0 || engine.hasWork) {
      for (const event of await engine.step())
        if (event.kind === 'tokens') drawn.push(...event.tokens.map(({ tokenId }) => tokenId));
    }
    expect(drawn).toEqual(idealChoice(asked, 0, 128).tokens.slice(0, 1));
    expect(masks.openCount).toBe(0);
    engine.release(asked.id);
    expect(engine.reserve(shaped(5), 8)).not.toBeNull();
    expect(masks.prepared).toEqual(['ggg']);
    expect(masks.openCount).toBe(0);
    await engine.close();
  });

  it('ends a request whose grammar cannot be enforced, and no other', async () => {
    const masks = new FakeMasks();
    masks.broken.add('gg');
    const { engine } = fakeEngine({ masks });
    const [good, bad] = [shaped(3), shaped(4)];
    engine.add(good);
    engine.add(bad);
    const events = [];
    while (engine.hasWork) events.push(...(await engine.step()));
    expect(events.filter(({ requestId }) => requestId === bad.id).map(({ kind }) => kind)).toEqual([
      'cached',
      'failed',
    ]);
    expect(
      events.filter(({ requestId, kind }) => requestId === good.id && kind === 'tokens').length,
    ).toBeGreaterThan(1);
    expect(engine.requestIds).toEqual([]);
    engine.checkIntegrity();
    await engine.close();
  });

  it('refuses a grammar where nobody makes masks', () => {
    const { engine } = fakeEngine();
    expect(() => engine.add(shaped(1))).toThrow('no grammars');
  });
});
