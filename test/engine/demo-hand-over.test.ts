/** Two engines on the real CPU device: prompts prefilled on one, decoded on the other, K and V copied layer
 *  by layer and chunk by chunk while the prefill is being enqueued. Tokens and log-probabilities equal the
 *  goldens, as when one engine does both. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RequestId } from '../../src/base/ids.js';
import type { Stream } from '../../src/device/device.js';
import type {
  Engine,
  EngineHooks,
  GenerationRequest,
  PrefillChunk,
  Reservation,
} from '../../src/engine/engine.js';
import type { TokenEvent, TokenOutput } from '../../src/engine/token-event.js';
import {
  ask,
  expectGolden,
  golden,
  openEngine,
  openRig,
  type Rig,
  type Shape,
  shortCases,
} from './demo-rig.js';

interface RigPair {
  readonly prefill: Rig;
  readonly decode: Rig;
}

class Pair implements EngineHooks {
  readonly prefill: Engine;
  readonly decode: Engine;
  readonly cachedTokenCounts = new Map<RequestId, number>();
  readonly #requests = new Map<RequestId, GenerationRequest>();
  readonly #reservations = new Map<RequestId, Reservation>();
  readonly #outputs = new Map<RequestId, TokenOutput[][]>();

  /** Two models: one's activations serve one stream. */
  constructor(rigs: RigPair, shape: Shape) {
    this.prefill = openEngine(rigs.prefill, shape, this);
    this.decode = openEngine(rigs.decode, shape);
  }

  onPrefillStart(id: RequestId): void {
    const reservation = this.decode.reserve(this.#requests.get(id)!, 8);
    if (reservation === null) throw new Error('the test gives the decode side room for everything');
    this.#reservations.set(id, reservation);
    this.cachedTokenCounts.set(id, reservation.cachedTokenCount);
  }

  onLayer(layer: number, chunks: readonly PrefillChunk[], stream: Stream): void {
    const { layout } = this.prefill.cache;
    for (const chunk of chunks) {
      const { blockIds, cachedTokenCount } = this.#reservations.get(chunk.requestId)!;
      const first = Math.floor(Math.max(chunk.firstToken, cachedTokenCount) / layout.shape.blockTokenCount);
      const end = layout.blockCountFor(chunk.endToken);
      const indices = Array.from({ length: Math.max(0, end - first) }, (_, i) => first + i);
      const pairs = indices.map((i) => ({ source: chunk.blockIds[i]!, target: blockIds[i]! }));
      const place = ({ cache }: Engine) => ({ base: cache.pointer, blockBytes: layout.blockBytes });
      if (pairs.length > 0)
        stream.copySlices(place(this.decode), place(this.prefill), pairs, [
          layout.layerSlice(layer, layer + 1),
        ]);
    }
  }

  async run(
    requests: readonly GenerationRequest[],
  ): Promise<readonly (readonly (readonly TokenOutput[])[])[]> {
    for (const request of requests) {
      this.#requests.set(request.id, request);
      this.#outputs.set(
        request.id,
        Array.from({ length: request.sampling.choiceCount }, () => []),
      );
      this.prefill.addPrefill(request);
    }
    while (this.prefill.hasWork || this.decode.hasWork) {
      for (const id of this.#record(await this.prefill.step())) this.#handOver(id);
      this.#record(await this.decode.step());
    }
    for (const engine of [this.prefill, this.decode]) {
      engine.checkIntegrity();
      expect(engine.snapshot().ownedBlockCount).toBe(0);
    }
    return requests.map(({ id }) => this.#outputs.get(id)!);
  }

  /** A step's tokens are read after everything enqueued before it has run, the copies of its own layers
   *  included. */
  #handOver(id: RequestId): void {
    const { promptIds } = this.#requests.get(id)!;
    const outputs = this.#outputs.get(id)!.map((tokens) => tokens.map(({ tokenId }) => tokenId));
    this.decode.resume(id, outputs, promptIds.length);
    this.prefill.release(id);
  }

  #record(events: readonly TokenEvent[]): Set<RequestId> {
    const told = new Set<RequestId>();
    for (const event of events) {
      if (event.kind !== 'tokens') continue;
      this.#outputs.get(event.requestId)![event.choiceIndex]!.push(...event.tokens);
      told.add(event.requestId);
    }
    return told;
  }

  async close(): Promise<void> {
    await this.prefill.close();
    await this.decode.close();
  }
}

const rigs: RigPair[] = [];
beforeAll(async () => {
  for (const threadCount of [1, 2])
    rigs.push({ prefill: await openRig(threadCount), decode: await openRig(threadCount) });
});
afterAll(() => {
  for (const { model, device } of rigs.flatMap(({ prefill, decode }) => [prefill, decode])) {
    model.close();
    device.close();
  }
});

const shapes = [1, 2].flatMap((threadCount) =>
  [1, 16, 64, 512].map((prefillChunkTokenCount) => ({ threadCount, prefillChunkTokenCount })),
);

describe('hand-over', () => {
  it.each(shapes)(
    'goldens batched: $threadCount threads, chunks of $prefillChunkTokenCount',
    async ({ threadCount, prefillChunkTokenCount }) => {
      const pair = new Pair(rigs[threadCount - 1]!, { prefillChunkTokenCount });
      const results = await pair.run(shortCases.map((one) => ask(one)));
      shortCases.forEach((one, i) => {
        expectGolden(one, results[i]![0]!);
      });
      await pair.close();
    },
  );

  it('alone, one after the other; the second time the decode side has the prompt', async () => {
    const pair = new Pair(rigs[1]!, {});
    for (const _ of [1, 2]) {
      for (const one of shortCases) expectGolden(one, (await pair.run([ask(one)]))[0]![0]!);
    }
    const again = ask(shortCases.find((one) => one.name === 'chat_retrieval_300')!);
    await pair.run([again]);
    expect(pair.cachedTokenCounts.get(again.id)).toBe(256); // 16 full blocks of 268 tokens
    await pair.close();
  });

  it('gives n sampled choices the tokens one engine gives them', async () => {
    const story = golden.cases.find((one) => one.name === 'chat_story_long')!;
    const sampling = {
      temperature: 1,
      seed: 5,
      choiceCount: 3,
      maxTokenCount: 30,
      endTokenIds: [],
      presencePenalty: 0.3,
    };
    const engine = openEngine(rigs[0]!.prefill);
    const [whole] = await engine.generate([ask(story, sampling)]);
    await engine.close();
    const pair = new Pair(rigs[0]!, { prefillChunkTokenCount: 16 });
    const [split] = await pair.run([ask(story, sampling)]);
    expect(split).toEqual(whole!.choices.map(({ tokens }) => tokens));
    await pair.close();
  });
});
