/** The engine on a fake device whose arithmetic is a hash: scheduling, memory and packing against an oracle
 *  that knows none of them. */
import { describe, expect, it } from 'vitest';
import { InvalidRequestError } from '../../src/base/errors.js';
import type { GenerationRequest, GenerationResult } from '../../src/engine/engine.js';
import type { SamplingParams } from '../../src/engine/sampling-params.js';
import type { TokenEvent } from '../../src/engine/token-event.js';
import { drain, type FakeEngineOptions, fakeEngine, promptOf, request, Transcripts } from './fake-engine.js';
import { idealChoice, idealPromptLogprobs } from './oracle.js';

const maxModelTokenCount = 128;

function expectIdeal(requests: readonly GenerationRequest[], results: readonly GenerationResult[]): void {
  requests.forEach((asked, i) => {
    results[i]!.choices.forEach((choice, c) => {
      const ideal = idealChoice(asked, c, maxModelTokenCount);
      expect(
        choice.tokens.map(({ tokenId }) => tokenId),
        `request ${i}, choice ${c}`,
      ).toEqual(ideal.tokens.slice(asked.outputs?.[c]?.length ?? 0));
      expect(choice.finishReason).toBe(ideal.finishReason);
    });
  });
}

async function run(requests: readonly GenerationRequest[], options: FakeEngineOptions = {}) {
  const { engine } = fakeEngine(options);
  const results = await engine.generate(requests);
  engine.checkIntegrity();
  const snapshot = engine.snapshot();
  expect(snapshot.ownedBlockCount).toBe(0);
  await engine.close();
  return { results, snapshot };
}

const shapes: FakeEngineOptions[] = [1, 2].flatMap((depth) =>
  [1, 7, 16, 64].map((prefillChunkTokenCount) => ({
    depth: depth as 1 | 2,
    prefillChunkTokenCount,
    tokenBudget: 40,
  })),
);

describe('generate', () => {
  it.each(shapes)(
    'gives the ideal tokens, depth $depth, chunks of $prefillChunkTokenCount',
    async (shape) => {
      const requests = [1, 2, 7, 8, 9, 31, 70].map((count, i) =>
        request(promptOf(i, count), { maxTokenCount: 1 + 5 * i }),
      );
      const { results } = await run(requests, shape);
      expectIdeal(requests, results);
    },
  );

  it.each([1, 2] as const)('stops at end and stop ids, never before min_tokens, depth %i', async (depth) => {
    const requests = Array.from({ length: 24 }, (_, i) =>
      request(promptOf(i, 5 + i), {
        maxTokenCount: 40,
        endTokenIds: [3, 4, 5, 6, 7, 8, 9],
        stopTokenIds: [20, 21, 22],
        minTokenCount: i % 4 === 0 ? 9 : 0,
        seed: i,
        temperature: 1,
      }),
    );
    const { results } = await run(requests, { depth });
    expectIdeal(requests, results);
    const reasons = results.map(({ choices }) => choices[0]!.finishReason);
    expect(reasons).toContain('stop');
    expect(reasons).toContain('length');
  });

  it('gives the sampler no id twice: biases of one id add up here, and what forbids an id replaces them', async () => {
    const tokensOf = async (sampling: Partial<SamplingParams>) => {
      const { results } = await run([request(promptOf(3, 12), { maxTokenCount: 8, ...sampling })], {});
      return results[0]!.choices[0]!.tokens;
    };
    const twice = [
      [5, -1.5],
      [6, 2],
      [5, 4],
    ] as const;
    expect(await tokensOf({ logitBias: twice })).toEqual(
      await tokensOf({
        logitBias: [
          [5, 2.5],
          [6, 2],
        ],
      }),
    );
    const held = { minTokenCount: 8, stopTokenIds: [6] };
    expect(await tokensOf({ logitBias: twice, ...held })).toEqual(
      await tokensOf({ logitBias: [[5, 2.5]], ...held }),
    );
  });

  it.each([1, 2] as const)('feeds penalties, biases and seeds to the sampler, depth %i', async (depth) => {
    const requests = [
      request(promptOf(1, 12), { maxTokenCount: 20, repetitionPenalty: 1.3 }),
      request(promptOf(2, 12), {
        maxTokenCount: 20,
        presencePenalty: 0.5,
        temperature: 1,
        seed: 2 ** 40 + 5,
      }),
      request(promptOf(3, 12), {
        maxTokenCount: 20,
        logitBias: [
          [5, -1.5],
          [6, 2],
        ],
      }),
      request(promptOf(4, 12), { maxTokenCount: 20, temperature: 0.7, seed: -3 }),
      request(promptOf(4, 12), { maxTokenCount: 20, frequencyPenalty: 0.25, choiceCount: 3, temperature: 1 }),
    ];
    const { results } = await run(requests, { depth });
    expectIdeal(requests, results);
  });

  it.each([1, 2] as const)('forks n choices from one prompt, depth %i', async (depth) => {
    const requests = [16, 19].map((count) =>
      request(promptOf(count, count), { choiceCount: 5, maxTokenCount: 21, temperature: 1, seed: 9 }),
    );
    const { results, snapshot } = await run(requests, { depth, sequenceCountMax: 10 });
    expectIdeal(requests, results);
    expect(snapshot.promptTokenCount).toBe(16 + 19); // each prompt was computed once
    expect(new Set(results[0]!.choices.map((choice) => JSON.stringify(choice.tokens))).size).toBe(5);
  });

  it('continues from tokens a request already has', async () => {
    const fresh = request(promptOf(5, 21), { choiceCount: 3, maxTokenCount: 24, temperature: 1, seed: 4 });
    const outputs = [0, 1, 2].map((c) =>
      idealChoice(fresh, c, maxModelTokenCount).tokens.slice(0, [7, 0, 19][c]),
    );
    const resumed = { ...fresh, outputs };
    for (const depth of [1, 2] as const) {
      const { results } = await run([resumed], { depth, prefillChunkTokenCount: 5 });
      expectIdeal([resumed], results);
    }
  });

  it('keeps a choice that is already complete silent', async () => {
    const fresh = request(promptOf(6, 9), { choiceCount: 2, maxTokenCount: 6 });
    const all = idealChoice(fresh, 0, maxModelTokenCount).tokens;
    const resumed = { ...fresh, outputs: [all, all.slice(0, 2)] };
    const { results } = await run([resumed]);
    expect(results[0]!.choices[0]!.tokens).toEqual([]);
    expect(results[0]!.choices[1]!.tokens.map(({ tokenId }) => tokenId)).toEqual(all.slice(2));
  });

  it.each([1, 2] as const)('reports log-probabilities of outputs and prompt, depth %i', async (depth) => {
    const requests = [
      request(promptOf(1, 30), { maxTokenCount: 4, topLogprobCount: 3, promptLogprobCount: 2 }),
      request(promptOf(1, 30), { maxTokenCount: 0, promptLogprobCount: 0 }),
      request(promptOf(2, 1), { maxTokenCount: 2, promptLogprobCount: 1, choiceCount: 2 }),
      request(promptOf(3, 11), { maxTokenCount: 9, topLogprobCount: 0 }),
    ];
    const { results } = await run(requests, { depth, logitRowCountMax: 6, sequenceCountMax: 5 });
    expectIdeal(requests, results);
    requests.forEach((asked, i) => {
      if (asked.sampling.promptLogprobCount === null) expect(results[i]!.promptLogprobs).toBeNull();
      else expect(results[i]!.promptLogprobs).toEqual(idealPromptLogprobs(asked));
      if (asked.sampling.topLogprobCount === null) return;
      results[i]!.choices.forEach((choice, c) => {
        expect(choice.tokens.map(({ logprob }) => logprob)).toEqual(
          idealChoice(asked, c, maxModelTokenCount).logprobs,
        );
      });
    });
  });

  it('ends with "length" when the context is full', async () => {
    const asked = request(promptOf(1, 120), { maxTokenCount: 1000 });
    const { results } = await run([asked]);
    expect(results[0]!.choices[0]!.tokens).toHaveLength(8);
    expectIdeal([asked], results);
  });
});

describe('memory', () => {
  it.each([1, 2] as const)('preempts and loses nothing, depth %i', async (depth) => {
    const requests = Array.from({ length: 8 }, (_, i) =>
      request(promptOf(i, 10 + i), {
        maxTokenCount: 50,
        temperature: i % 2,
        seed: i,
        ...(i % 3 === 0 ? { presencePenalty: 1 } : {}),
      }),
    );
    for (const prefixCaching of ['on', 'off'] as const) {
      const { results, snapshot } = await run(requests, { depth, blockCount: 16, prefixCaching });
      expect(snapshot.preemptionCount).toBeGreaterThan(0);
      expectIdeal(requests, results);
    }
  });

  it('finishes a request that needs every block, next to others', async () => {
    const big = request(promptOf(1, 60), { maxTokenCount: 68 });
    const requests = [
      request(promptOf(2, 30), { maxTokenCount: 60 }),
      big,
      request(promptOf(3, 30), { maxTokenCount: 60 }),
    ];
    const { results } = await run(requests, { blockCount: 16 });
    expectIdeal(requests, results);
  });

  it('finds prefixes again, of prompts and of generated tokens', async () => {
    const { engine } = fakeEngine();
    const prompt = promptOf(1, 40);
    const first = request(prompt, { maxTokenCount: 20 });
    const [one] = await engine.generate([first]);
    expect(one!.cachedTokenCount).toBe(0);
    const [same] = await engine.generate([request(prompt, { maxTokenCount: 20 })]);
    expect(same!.cachedTokenCount).toBe(32); // the last prompt token is always computed: 4 of 5 full blocks
    expect(same!.choices).toEqual(one!.choices);
    const turn = request([...prompt, ...one!.choices[0]!.tokens.map(({ tokenId }) => tokenId), 1, 2, 3], {
      maxTokenCount: 8,
    });
    const [second] = await engine.generate([turn]);
    expect(second!.cachedTokenCount).toBe(56); // 40 + 19 computed positions: 7 full blocks
    expectIdeal([turn], [second!]);
    const [salted] = await engine.generate([request(prompt, { maxTokenCount: 20 }, { cacheSalt: 'other' })]);
    expect(salted!.cachedTokenCount).toBe(0);
    expect(salted!.choices).toEqual(one!.choices);
    await engine.close();
  });

  it('finds nothing with prefix caching off', async () => {
    const { engine } = fakeEngine({ prefixCaching: 'off' });
    const prompt = promptOf(1, 40);
    for (let i = 0; i < 2; i++)
      expect((await engine.generate([request(prompt)]))[0]!.cachedTokenCount).toBe(0);
    expect(engine.snapshot().cachedBlockCount).toBe(0);
    await engine.close();
  });

  it('shares blocks between requests that run at the same time', async () => {
    const { engine } = fakeEngine({ blockCount: 16 });
    const prompt = promptOf(1, 64);
    const leader = request(prompt, { maxTokenCount: 30 });
    const follower = request(prompt, { maxTokenCount: 30, temperature: 1, seed: 3 });
    const transcripts = new Transcripts();
    const [a, b] = [transcripts.open(leader), transcripts.open(follower)];
    engine.add(leader);
    for (let i = 0; i < 8; i++) transcripts.push(await engine.step());
    engine.add(follower);
    await drain(engine, (events) => transcripts.push(events));
    expect(b.cachedTokenCount).toBe(56);
    expect(a.tokens[0]).toEqual(idealChoice(leader, 0, maxModelTokenCount).tokens);
    expect(b.tokens[0]).toEqual(idealChoice(follower, 0, maxModelTokenCount).tokens);
    await engine.close();
  });
});

describe('copy-on-write', () => {
  it('keeps the source of a copy until the copy has run, whoever lets go of it', async () => {
    // 2 choices share a partial block; one copies it in a step that is still on its way when the other ends.
    const { engine } = fakeEngine({ depth: 2, prefixCaching: 'off' });
    const asked = request(promptOf(1, 12), { choiceCount: 2, maxTokenCount: 9, temperature: 1 });
    const transcripts = new Transcripts();
    const transcript = transcripts.open(asked);
    engine.add(asked);
    transcripts.push(await engine.step()); // prompt and fork in flight
    const stepping = engine.step(); // both copies in flight
    const owned = engine.snapshot().ownedBlockCount;
    expect(owned).toBe(4); // a full one for both, the shared partial one, and its two copies
    engine.stopChoice(asked.id, 1);
    expect(engine.snapshot().ownedBlockCount).toBe(owned);
    transcripts.push(await stepping);
    expect(engine.snapshot().ownedBlockCount).toBe(owned);
    await drain(engine, (events) => transcripts.push(events));
    expect(transcript.tokens[0]).toEqual(idealChoice(asked, 0, maxModelTokenCount).tokens);
    expect(transcript.tokens[1]!.length).toBeLessThan(2);
    await engine.close();
  });
});

describe('order', () => {
  it('serves priority first, then arrival', async () => {
    const { engine } = fakeEngine({ sequenceCountMax: 1 });
    const asked = [
      request(promptOf(1, 4)),
      request(promptOf(2, 4)),
      request(promptOf(3, 4), {}, { priority: -1 }),
    ];
    const finished: string[] = [];
    for (const one of asked) engine.add(one);
    await drain(engine, (events) => {
      for (const event of events)
        if (event.kind === 'tokens' && event.finishReason !== undefined) finished.push(event.requestId);
    });
    expect(finished).toEqual([asked[2]!.id, asked[0]!.id, asked[1]!.id]);
    await engine.close();
  });

  it('decodes between the chunks of a long prompt', async () => {
    const { engine } = fakeEngine({ prefillChunkTokenCount: 8, depth: 1 });
    const short = request(promptOf(1, 4), { maxTokenCount: 30 });
    const long = request(promptOf(2, 100), { maxTokenCount: 2 });
    engine.add(short);
    await engine.step();
    engine.add(long);
    const order: string[] = [];
    await drain(engine, (events) => {
      for (const event of events) if (event.kind === 'tokens') order.push(event.requestId);
    });
    expect(order.indexOf(long.id)).toBe(13); // 13 chunks, one token of the short request beside each
    await engine.close();
  });
});

describe('reservations', () => {
  it('do not overtake a sequence that waits for memory, unless they matter more', async () => {
    const { engine } = fakeEngine({ blockCount: 16, sequenceCountMax: 4 });
    const [running, waiting] = [
      request(promptOf(1, 60), { maxTokenCount: 30 }),
      request(promptOf(2, 70), { maxTokenCount: 2 }),
    ];
    engine.add(running);
    await engine.step();
    engine.add(waiting);
    await engine.step();
    expect(engine.snapshot().waitingCount).toBe(1);
    const small = request(promptOf(3, 8));
    expect(engine.reserve(small, 0)).toBeNull();
    expect(engine.snapshot().reservedCount).toBe(0);
    const urgent = request(promptOf(3, 8), {}, { priority: -1 });
    expect(engine.reserve(urgent, 8)?.blockIds).toHaveLength(2);
    engine.checkIntegrity();
    engine.release(urgent.id);
    await drain(engine);
    expect(engine.reserve(small, 0)?.blockIds).toHaveLength(1);
    engine.abort(small.id);
    expect(engine.snapshot().ownedBlockCount).toBe(0);
    await engine.close();
  });

  it('are not kept from memory that is free by prompts that only wait for their turn', async () => {
    const { engine } = fakeEngine({ blockCount: 24, sequenceCountMax: 4, tokenBudget: 16 });
    engine.add(request(promptOf(1, 60), { maxTokenCount: 2 }));
    await engine.step();
    engine.add(request(promptOf(2, 70), { maxTokenCount: 2 }));
    await engine.step();
    expect(engine.snapshot().waitingCount).toBe(1);
    const small = request(promptOf(3, 8));
    expect(engine.reserve(small, 0)?.blockIds).toHaveLength(1);
    // the waiting one could not be taken after it
    expect(engine.reserve(request(promptOf(4, 80)), 0)).toBeNull();
    engine.checkIntegrity();
    engine.release(small.id);
    await drain(engine);
    expect(engine.snapshot().ownedBlockCount).toBe(0);
    await engine.close();
  });
});

it('a hand-over with a token outside the vocabulary is refused, and its reservation given back', async () => {
  const { engine } = fakeEngine();
  for (const stray of [97, -1, 1.5]) {
    const asked = request(promptOf(3, 8), { maxTokenCount: 4 });
    engine.reserve(asked, 4);
    expect(() => engine.resume(asked.id, [[stray]], 8)).toThrow(InvalidRequestError);
    engine.release(asked.id);
    engine.checkIntegrity();
    expect(engine.snapshot().ownedBlockCount).toBe(0);
  }
});

describe('refusals', () => {
  const { engine } = fakeEngine({ blockCount: 8, sequenceCountMax: 4 });
  it.each([
    ['an empty prompt', request([])],
    ['a prompt over the context', request(promptOf(1, 128))],
    ['more blocks than there are', request(promptOf(1, 40), { maxTokenCount: 80 })],
    ['an id outside the vocabulary', request([1, 97])],
    ['a stop id outside the vocabulary', request([1], { stopTokenIds: [2 ** 32 + 5] })],
    ['a bias of infinity', request([1], { logitBias: [[4, Number.POSITIVE_INFINITY]] })],
    ['a temperature that is no number', request([1], { temperature: Number.NaN })],
    ['a repetition penalty of nothing', request([1], { repetitionPenalty: 0 })],
    ['more choices than seats', request([1], { choiceCount: 5 })],
    ['more alternatives than reported', request([1], { topLogprobCount: 21 })],
    ['a biased id outside the vocabulary', request([1], { logitBias: [[-1, 3]] })],
  ])('%s', (_, asked) => {
    expect(() => engine.add(asked)).toThrow(InvalidRequestError);
    expect(() => engine.reserve(asked, 0)).toThrow(InvalidRequestError);
    engine.checkIntegrity();
    expect(engine.hasWork).toBe(false);
  });
});

describe('failure', () => {
  it('rejects the step when the device fails', async () => {
    const { engine, device } = fakeEngine();
    engine.add(request(promptOf(1, 4)));
    device.failure = new Error('device lost');
    await engine.step();
    await expect(engine.step()).rejects.toThrow('device lost');
    await expect(engine.quiesced()).rejects.toThrow('device lost');
    await engine.close();
  });
});

describe('a sampler that finds no number', () => {
  it.each(['generate', 'prefill'] as const)('fails that request alone (%s)', async (mode) => {
    const { engine, device } = fakeEngine();
    device.brokenSeed = 666;
    const broken = request(promptOf(1, 5), { maxTokenCount: 9, seed: 666 });
    const whole = request(promptOf(2, 5), { maxTokenCount: 9 });
    if (mode === 'prefill') engine.addPrefill(broken);
    else engine.add(broken);
    engine.add(whole);
    const events: TokenEvent[] = [];
    while (engine.hasWork) {
      events.push(...(await engine.step()));
      engine.checkIntegrity();
    }
    expect(events.filter((event) => event.requestId === broken.id && event.kind !== 'cached')).toEqual([
      {
        kind: 'failed',
        requestId: broken.id,
        error: { code: 'numeric_error', message: expect.stringMatching(/logits for token 5 .*not numbers/) },
      },
    ]);
    expect(events.filter((event) => event.kind === 'tokens' && event.requestId === whole.id)).toHaveLength(9);
    engine.release(broken.id);
    expect(engine.snapshot().ownedBlockCount).toBe(0);
  });
});
