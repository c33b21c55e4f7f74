/** A model that computes NaN or infinity for some inputs, on the real CPU device: those requests end with one
 *  clear error each, all others write what they would have written without them, and nothing computed of NaN
 *  is read by anybody else. */
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { type RequestId, requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { Device } from '../../src/device/device.js';
import { openDevice } from '../../src/device/native.js';
import { Engine, type GenerationRequest } from '../../src/engine/engine.js';
import { greedy, type SamplingParams } from '../../src/engine/sampling-params.js';
import { loadModel } from '../../src/model/load.js';
import type { LoadOptions, Model } from '../../src/model/model.js';
import { fixtureFolder } from '../model/harness.js';
import { dropPlanted, everything, type Plant, plantedFolder, rowOf } from '../model/planted.js';

const vocabCount = 512;
const poison = 300;
const embedding = 'model.embed_tokens.weight';

const open: { engine: Engine; model: Model; device: Device }[] = [];
afterEach(async () => {
  for (const { engine, model, device } of open.splice(0)) {
    await engine.close();
    model.close();
    device.close();
  }
});
afterAll(dropPlanted);

interface Shape {
  readonly depth?: 1 | 2;
  readonly blockCount?: number;
  readonly prefillChunkTokenCount?: number;
  readonly quantize?: LoadOptions['quantize'];
  readonly kvDtype?: 'f32' | 'fp8';
}

async function openEngine(plant: Plant | null, shape: Shape = {}): Promise<Engine> {
  const device = openDevice({ kind: 'cpu', index: 0, threadCount: 2 });
  const limits = { rowCountMax: 256, logitRowCountMax: 64 };
  const folder =
    plant === null ? fixtureFolder('qwen3-moe') : plantedFolder(fixtureFolder('qwen3-moe'), plant);
  const model = await loadModel(folder, {
    device,
    limits,
    loadFormat: 'auto',
    dtype: 'f32',
    quantize: shape.quantize ?? 'none',
    maxModelTokenCount: 512,
  });
  const { depth = 2, blockCount = 200, prefillChunkTokenCount = 64, kvDtype = 'f32' } = shape;
  const engine = new Engine({
    device,
    model,
    clock: systemClock,
    maxModelTokenCount: 512,
    depth,
    prefixCaching: 'on',
    prefillChunkTokenCount,
    kv: { blockTokenCount: 16, blockCount, dtype: kvDtype },
    tokenBudget: 256,
    sequenceCountMax: 32,
  });
  open.push({ engine, model, device });
  return engine;
}

let serial = 0;
function ask(promptIds: readonly number[], sampling: Partial<SamplingParams> = {}): GenerationRequest {
  return {
    id: requestId(`nan-${serial++}`),
    promptIds,
    sampling: { ...greedy, maxTokenCount: 12, ...sampling },
  };
}

/** Prompts without the poisoned token. */
function prompts(count: number, tokenCount: number, seed: number): number[][] {
  const prng = new Prng(seed);
  const token = () => {
    const id = prng.integer(3, vocabCount - 2);
    return id >= poison ? id + 1 : id;
  };
  return Array.from({ length: count }, () => Array.from({ length: tokenCount }, token));
}

interface Outcome {
  readonly tokens: number[];
  cachedTokenCount: number;
  readonly errors: { readonly code: string; readonly message: string }[];
}

/** Runs all together; accounting is checked after every step, and nothing may be left. */
async function run(engine: Engine, requests: readonly GenerationRequest[]): Promise<Outcome[]> {
  const outcomes = new Map<RequestId, Outcome>(
    requests.map(({ id }) => [id, { tokens: [], cachedTokenCount: 0, errors: [] }]),
  );
  for (const request of requests) engine.add(request);
  while (engine.hasWork) {
    for (const event of await engine.step()) {
      const outcome = outcomes.get(event.requestId)!;
      expect(outcome.errors, 'nothing after the end').toEqual([]);
      if (event.kind === 'tokens') outcome.tokens.push(...event.tokens.map(({ tokenId }) => tokenId));
      else if (event.kind === 'cached') outcome.cachedTokenCount = event.cachedTokenCount;
      else if (event.kind === 'failed') outcome.errors.push(event.error);
    }
    engine.checkIntegrity();
  }
  expect(engine.snapshot().ownedBlockCount).toBe(0);
  return [...outcomes.values()];
}

const numericError = {
  code: 'numeric_error',
  message: expect.stringMatching(/logits for token \d+ .*not numbers/),
};

/** The same requests on the model as it is, and on the one with the plant: the broken ones end with the
 *  error, the others write the same. */
async function compare(
  plant: Plant,
  requests: () => readonly GenerationRequest[],
  isBroken: (index: number) => boolean,
  shape?: Shape,
) {
  const expected = await run(await openEngine(null, shape), requests());
  const engine = await openEngine(plant, shape);
  const found = await run(engine, requests());
  for (const [index, { tokens, errors }] of found.entries()) {
    if (isBroken(index)) {
      expect(errors).toEqual([numericError]);
      expect(expected[index]!.tokens.slice(0, tokens.length)).toEqual(tokens); // as far as it came
    } else {
      expect(errors).toEqual([]);
      expect(tokens).toEqual(expected[index]!.tokens);
    }
  }
  return { engine, expected, found };
}

const samplings: readonly (readonly [string, Partial<SamplingParams>])[] = [
  ['greedy', {}],
  ['top-p', { temperature: 1, topP: 0.9, seed: 4 }],
  ['top-k', { temperature: 1, topK: 20, seed: 4 }],
  ['penalties', { repetitionPenalty: 1.1, presencePenalty: 0.2, frequencyPenalty: 0.1 }],
  ['bias and minimum', { logitBias: [[7, 4]], minTokenCount: 6, stopTokenIds: [9] }],
  ['log-probabilities', { topLogprobCount: 5 }],
  ['prompt log-probabilities', { promptLogprobCount: 3 }],
  ['two choices', { choiceCount: 2, temperature: 1, seed: 4 }],
];

describe('a token whose embedding is NaN', () => {
  const plant = { [embedding]: rowOf(poison) };

  it.each(samplings)(
    'ends the requests that read it, beside others that do not (%s)',
    async (_, sampling) => {
      const plain = prompts(6, 20, 1);
      const read = (index: number) => index % 2 === 1;
      const requests = () =>
        plain.map((ids, index) =>
          ask(read(index) ? [...ids.slice(0, 9), poison, ...ids.slice(9)] : ids, sampling),
        );
      for (const depth of [1, 2] as const) await compare(plant, requests, read, { depth });
    },
  );

  it('ends a request when it is drawn, with the next step in flight', async () => {
    const force = { logitBias: [[poison, 100]] as const };
    const requests = () => prompts(4, 5, 2).map((ids, index) => ask(ids, index === 2 ? force : {}));
    for (const depth of [1, 2] as const) {
      const { found } = await compare(plant, requests, (index) => index === 2, { depth });
      expect(found[2]!.tokens).toEqual([poison]); // it was a token like any other; what comes after it is not
      expect(found[2]!.errors[0]!.message).toMatch(/token 6 /);
    }
  });

  it('leaves nothing in the prefix cache, chunks of before included; its blocks serve others', async () => {
    const [plain, other] = prompts(2, 150, 3) as [number[], number[]];
    const poisoned = plain.with(5, poison);
    const engine = await openEngine(plant, { prefillChunkTokenCount: 32, blockCount: 24 });
    const clean = await openEngine(null, { prefillChunkTokenCount: 32, blockCount: 24 });
    for (let round = 0; round < 3; round++) {
      const [broken] = await run(engine, [ask(poisoned)]);
      expect(broken).toEqual({ tokens: [], cachedTokenCount: 0, errors: [numericError] });
      expect(engine.snapshot().cachedBlockCount).toBe(0);
    }
    const outcomes = async (of: Engine) =>
      (await run(of, [ask(plain), ask(other)])).map(({ tokens }) => tokens);
    expect(await outcomes(engine)).toEqual(await outcomes(clean));
  });

  it('an abandoned prompt can be found, but only until it fails somebody', async () => {
    const [plain] = prompts(1, 100, 4) as [number[]];
    const poisoned = plain.with(5, poison);
    const engine = await openEngine(plant, { prefillChunkTokenCount: 32, depth: 1 });
    const abandoned = ask(poisoned);
    engine.add(abandoned);
    await engine.step(); // the first chunk samples nothing, so nothing is known of it
    engine.abort(abandoned.id);
    await run(engine, []);
    const [second, third] = [
      ...(await run(engine, [ask(poisoned)])),
      ...(await run(engine, [ask(poisoned)])),
    ];
    expect(second).toMatchObject({ cachedTokenCount: 32, errors: [numericError] });
    expect(third).toMatchObject({ cachedTokenCount: 0, errors: [numericError] });
  });

  it('a prompt for a hand-over fails once, and releases clean', async () => {
    const [plain] = prompts(1, 40, 5) as [number[]];
    const engine = await openEngine(plant);
    const request = ask(plain.with(3, poison), { choiceCount: 2, temperature: 1 });
    engine.addPrefill(request);
    const events = [];
    while (engine.hasWork) events.push(...(await engine.step()));
    expect(events.filter(({ kind }) => kind !== 'cached')).toEqual([
      { kind: 'failed', requestId: request.id, error: numericError },
    ]);
    engine.release(request.id);
    engine.checkIntegrity();
    expect(engine.snapshot()).toMatchObject({ ownedBlockCount: 0, cachedBlockCount: 0 });
  });

  it('generate throws the error, and leaves nothing of the other requests behind', async () => {
    const [plain] = prompts(1, 20, 9) as [number[]];
    const engine = await openEngine(plant);
    const together = engine.generate([ask(plain, { maxTokenCount: 50 }), ask(plain.with(2, poison))]);
    await expect(together).rejects.toMatchObject({ code: 'numeric_error' });
    expect(engine.snapshot()).toMatchObject({ runningCount: 0, waitingCount: 0 });
    const [result] = await engine.generate([ask(plain)]);
    expect(result!.choices[0]!.tokens).toHaveLength(12);
    engine.checkIntegrity();
    expect(engine.snapshot().ownedBlockCount).toBe(0);
  });

  it('in an fp8 cache, and beside int8 weights', async () => {
    const plain = prompts(4, 30, 6);
    const requests = () => plain.map((ids, index) => ask(index === 1 ? ids.with(4, poison) : ids));
    await compare(plant, requests, (index) => index === 1, { kvDtype: 'fp8' });
    await compare(plant, requests, (index) => index === 1, { quantize: 'int8' });
  });
});

describe('experts', () => {
  it.each([Number.NaN, Number.POSITIVE_INFINITY])(
    'one of %s fails those that are sent to it',
    async (value) => {
      const plant = { 'model.layers.1.mlp.experts.3.down_proj.weight': everything(value) };
      const asked = prompts(40, 2, 7);
      const requests = () => asked.map((ids) => ask(ids, { maxTokenCount: 3 }));
      const alone = await openEngine(plant);
      const broken: boolean[] = [];
      for (const request of requests()) broken.push((await run(alone, [request]))[0]!.errors.length > 0);
      expect(broken).toContain(true);
      expect(broken).toContain(false);
      for (const depth of [1, 2] as const)
        await compare(plant, requests, (index) => broken[index]!, { depth });
    },
  );

  it('a router row of NaN fails every request, each by itself, and the engine lives', async () => {
    const plant = { 'model.layers.0.mlp.gate.weight': rowOf(5) };
    const requests = () => prompts(8, 30, 8).map((ids) => ask(ids));
    const { engine } = await compare(plant, requests, () => true);
    expect((await run(engine, requests()))[0]!.errors).toEqual([numericError]);
  });
});

it('nothing left to draw from is the request’s own fault', async () => {
  const all = Array.from({ length: vocabCount }, (_, id) => id);
  const engine = await openEngine(null);
  const [forbidden, other] = await run(engine, [
    ask([5, 6], { minTokenCount: 4, stopTokenIds: all }),
    ask([5, 6], { minTokenCount: 4, stopTokenIds: all.slice(1), maxTokenCount: 4 }),
  ]);
  expect(forbidden!.errors).toEqual([
    { code: 'invalid_request', message: expect.stringMatching(/min_tokens/) },
  ]);
  expect(other!.tokens).toEqual([0, 0, 0, 0]);
});
