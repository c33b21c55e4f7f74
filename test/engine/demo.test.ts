/** The engine on the real CPU device with the demo model, against its goldens: alone and batched, whatever
 *  the chunk size, depth, thread count, memory pressure or prefix cache. f32 arithmetic and KV, so tokens are
 *  equal and log-probabilities close to the reference. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GenerationRequest, GenerationResult } from '../../src/engine/engine.js';
import type { SamplingParams } from '../../src/engine/sampling-params.js';
import {
  ask,
  expectGolden as expectTokens,
  type GoldenCase,
  golden,
  longCases,
  openEngine,
  openRig,
  type Rig,
  type Shape,
  shortCases,
} from './demo-rig.js';

const isFull = process.env.TWOSTROKE_TEST === 'full';
const idsOf = (result: GenerationResult, choiceIndex = 0) =>
  result.choices[choiceIndex]!.tokens.map(({ tokenId }) => tokenId);

function expectGolden(one: GoldenCase, result: GenerationResult): void {
  const { tokens, finishReason } = result.choices[0]!;
  expectTokens(one, tokens);
  expect(finishReason).toBe(golden.eos_token_ids.includes(one.continuation_ids.at(-1)!) ? 'stop' : 'length');
}

async function run(rig: Rig, requests: readonly GenerationRequest[], shape: Shape = {}) {
  const engine = openEngine(rig, shape);
  const results = await engine.generate(requests);
  engine.checkIntegrity();
  const snapshot = engine.snapshot();
  expect(snapshot.ownedBlockCount).toBe(0);
  await engine.close();
  return { results, snapshot };
}

const rigs: Rig[] = [];
beforeAll(async () => {
  for (const threadCount of [1, 2]) rigs.push(await openRig(threadCount));
});
afterAll(() => {
  for (const { model, device } of rigs) {
    model.close();
    device.close();
  }
});

const shapes = [1, 2].flatMap((threadCount) =>
  ([1, 2] as const).flatMap((depth) =>
    [1, 16, 64, 512].map((prefillChunkTokenCount) => ({ threadCount, depth, prefillChunkTokenCount })),
  ),
);

describe('goldens', () => {
  it.each(shapes)(
    'batched: $threadCount threads, depth $depth, chunks of $prefillChunkTokenCount',
    async ({ threadCount, depth, prefillChunkTokenCount }) => {
      const { results } = await run(
        rigs[threadCount - 1]!,
        shortCases.map((one) => ask(one)),
        { depth, prefillChunkTokenCount },
      );
      shortCases.forEach((one, i) => {
        expectGolden(one, results[i]!);
      });
    },
  );

  it('alone, one after the other', async () => {
    const engine = openEngine(rigs[1]!);
    for (const one of shortCases) expectGolden(one, (await engine.generate([ask(one)]))[0]!);
    await engine.close();
  });

  it.each(isFull ? [16, 64, 512] : [512])(
    'long prompts together, chunks of %i',
    async (prefillChunkTokenCount) => {
      const { results } = await run(
        rigs[1]!,
        longCases.map((one) => ask(one)),
        { prefillChunkTokenCount, blockCount: 1024 },
      );
      longCases.forEach((one, i) => {
        expectGolden(one, results[i]!);
      });
    },
  );

  it.each([1, 2] as const)('with preemption forced by few blocks, depth %i', async (depth) => {
    for (const prefixCaching of ['on', 'off'] as const) {
      const { results, snapshot } = await run(
        rigs[1]!,
        shortCases.map((one) => ask(one)),
        { blockCount: 26, depth, prefixCaching },
      );
      expect(snapshot.preemptionCount).toBeGreaterThan(0);
      shortCases.forEach((one, i) => {
        expectGolden(one, results[i]!);
      });
    }
  });

  it('with every prompt found in the prefix cache', async () => {
    const engine = openEngine(rigs[1]!, { blockCount: 1024 });
    await engine.generate(shortCases.map((one) => ask(one)));
    const again = await engine.generate(shortCases.map((one) => ask(one)));
    shortCases.forEach((one, i) => {
      expect(again[i]!.cachedTokenCount).toBe(16 * Math.floor((one.prompt_ids.length - 1) / 16));
      expectGolden(one, again[i]!);
    });
    await engine.close();
  });

  it('continued from the tokens it already has', async () => {
    const requests = shortCases.map((one, i) => {
      const { length } = one.continuation_ids;
      return { ...ask(one), outputs: [one.continuation_ids.slice(0, (7 * i) % length)] };
    });
    const { results } = await run(rigs[1]!, requests);
    shortCases.forEach((one, i) => {
      expect([...requests[i]!.outputs[0]!, ...idsOf(results[i]!)], one.name).toEqual(one.continuation_ids);
    });
  });

  it('prompt log-probabilities sum to the reference', async () => {
    const { results } = await run(
      rigs[1]!,
      shortCases.map((one) => ask(one, { promptLogprobCount: 1, maxTokenCount: 1 })),
    );
    shortCases.forEach((one, i) => {
      const { promptLogprobs } = results[i]!;
      expect(promptLogprobs).toHaveLength(one.prompt_ids.length - 1);
      const sum = promptLogprobs!.reduce((total, { logprob }) => total + logprob, 0);
      expect(Math.abs(sum - one.prompt_logprob), one.name).toBeLessThan(1e-2);
    });
  });
});

describe('sampling', () => {
  const sampled = { temperature: 1, topP: 0.95, topK: 50, seed: 1234, maxTokenCount: 40, endTokenIds: [] };
  const story = golden.cases.find((one) => one.name === 'chat_story_long')!;

  it('draws the same tokens for the same seed whatever the batch, depth and threads', async () => {
    const alone = await run(rigs[0]!, [ask(story, sampled)], { depth: 1 });
    const others = shortCases.map((one, i) => ask(one, { ...sampled, seed: i, minP: 0.02 }));
    for (const rig of rigs) {
      for (const depth of [1, 2] as const) {
        const crowd = await run(rig, [...others, ask(story, sampled)], { depth, prefillChunkTokenCount: 64 });
        expect(idsOf(crowd.results.at(-1)!)).toEqual(idsOf(alone.results[0]!));
      }
    }
    const other = await run(rigs[0]!, [ask(story, { ...sampled, seed: 99 })]);
    expect(idsOf(other.results[0]!)).not.toEqual(idsOf(alone.results[0]!));
  });

  it('gives choice i of n the tokens of seed + i', async () => {
    const together = await run(rigs[1]!, [ask(story, { ...sampled, choiceCount: 4 })]);
    for (const c of [0, 1, 2, 3]) {
      const alone = await run(rigs[1]!, [ask(story, { ...sampled, seed: sampled.seed + c })]);
      expect(idsOf(together.results[0]!, c)).toEqual(idsOf(alone.results[0]!));
    }
  });

  it('obeys penalties, biases and min_tokens the same at depth 1 and 2', async () => {
    const variants: Partial<SamplingParams>[] = [
      { repetitionPenalty: 1.2 },
      { presencePenalty: 0.8, frequencyPenalty: 0.4, temperature: 0.8 },
      { logitBias: [[story.continuation_ids[0]!, -100]] },
      { minTokenCount: 30, endTokenIds: golden.eos_token_ids },
    ];
    const asked = () =>
      variants.map((variant, i) => ask(i === 3 ? shortCases[0]! : story, { maxTokenCount: 40, ...variant }));
    const [one, two] = [
      await run(rigs[1]!, asked(), { depth: 1 }),
      await run(rigs[1]!, asked(), { depth: 2 }),
    ];
    variants.forEach((_, i) => {
      expect(one.results[i]!.choices).toEqual(two.results[i]!.choices);
    });
    const base = idsOf((await run(rigs[1]!, [ask(story, { maxTokenCount: 40 })])).results[0]!);
    for (const i of [0, 1, 2]) expect(idsOf(one.results[i]!)).not.toEqual(base);
    expect(idsOf(one.results[2]!)[0]).not.toBe(base[0]);
    expect(idsOf(one.results[3]!).length).toBeGreaterThan(30); // alone it ends after 8
  });
});
