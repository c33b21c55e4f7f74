/** Prefill on one engine, decode on another of the same GPU, against one engine that does both. Used by
 *  engine.ts. */
import path from 'node:path';
import type { RequestId } from '../../src/base/ids.js';
import type { Device, Stream } from '../../src/device/device.js';
import type { Engine, EngineHooks, GenerationRequest, PrefillChunk } from '../../src/engine/engine.js';
import type { TokenOutput } from '../../src/engine/token-event.js';
import type { Model } from '../../src/model/model.js';
import { ask, check, load, openEngine, readCases, root, type Shape } from './rig.js';

/** Prefill on one engine, decode on another of the same GPU; K and V pushed layer by layer. */
class Pair implements EngineHooks {
  readonly prefill: Engine;
  readonly decode: Engine;
  readonly #requests = new Map<RequestId, GenerationRequest>();
  readonly #reservations = new Map<RequestId, { blockIds: readonly number[]; cachedTokenCount: number }>();
  readonly #outputs = new Map<RequestId, TokenOutput[]>();

  constructor(device: Device, models: readonly [Model, Model], shape: Shape) {
    this.prefill = openEngine(device, models[0], shape, this);
    this.decode = openEngine(device, models[1], shape);
  }

  onPrefillStart(id: RequestId): void {
    const reservation = this.decode.reserve(this.#requests.get(id)!, 8);
    if (reservation === null) throw new Error('no room on the decode side');
    this.#reservations.set(id, reservation);
  }

  onLayer(layer: number, chunks: readonly PrefillChunk[], stream: Stream): void {
    const { layout } = this.prefill.cache;
    for (const chunk of chunks) {
      const { blockIds, cachedTokenCount } = this.#reservations.get(chunk.requestId)!;
      const first = Math.floor(Math.max(chunk.firstToken, cachedTokenCount) / layout.shape.blockTokenCount);
      const indices = Array.from(
        { length: Math.max(0, layout.blockCountFor(chunk.endToken) - first) },
        (_, i) => first + i,
      );
      const pairs = indices.map((i) => ({ source: chunk.blockIds[i]!, target: blockIds[i]! }));
      const place = ({ cache }: Engine) => ({ base: cache.pointer, blockBytes: layout.blockBytes });
      if (pairs.length > 0)
        stream.copySlices(place(this.decode), place(this.prefill), pairs, [
          layout.layerSlice(layer, layer + 1),
        ]);
    }
  }

  async run(requests: readonly GenerationRequest[]): Promise<number[][]> {
    for (const request of requests) {
      this.#requests.set(request.id, request);
      this.#outputs.set(request.id, []);
      this.prefill.addPrefill(request);
    }
    while (this.prefill.hasWork || this.decode.hasWork) {
      for (const event of await this.prefill.step()) {
        if (event.kind !== 'tokens') continue;
        this.#outputs.get(event.requestId)!.push(...event.tokens);
        const outputs = this.#outputs.get(event.requestId)!.map(({ tokenId }) => tokenId);
        this.decode.resume(event.requestId, [outputs], this.#requests.get(event.requestId)!.promptIds.length);
        this.prefill.release(event.requestId);
      }
      for (const event of await this.decode.step())
        if (event.kind === 'tokens') this.#outputs.get(event.requestId)!.push(...event.tokens);
    }
    for (const engine of [this.prefill, this.decode]) engine.checkIntegrity();
    return requests.map(({ id }) => this.#outputs.get(id)!.map(({ tokenId }) => tokenId));
  }

  async close(): Promise<void> {
    await this.prefill.close();
    await this.decode.close();
  }
}

/** `exact`: a batch-invariant device, on which every token must be the same. */
export async function handOver(device: Device, { exact }: { readonly exact: boolean }): Promise<void> {
  const folder = path.join(root, 'models', 'demo-6m');
  const cases = readCases(folder).filter((one) => one.prompt_ids.length <= 300);
  for (const dtype of ['f32', 'bf16'] as const) {
    const models = [await load(device, folder, dtype), await load(device, folder, dtype)] as const;
    const shape: Shape = { kv: { blockTokenCount: 16, blockCount: 1024, dtype } };
    for (const temperature of [0, 0.8]) {
      const sampling = { temperature, seed: 7, topP: 0.95 };
      const requests = () => cases.map((one) => ask(one, sampling));
      const engine = openEngine(device, models[0], shape);
      const together = (await engine.generate(requests())).map((result) =>
        result.choices[0]!.tokens.map(({ tokenId }) => tokenId),
      );
      await engine.close();
      const pair = new Pair(device, models, shape);
      const apart = await pair.run(requests());
      await pair.close();
      const differing = together.flatMap((ids, i) => {
        const at = ids.findIndex((id, j) => apart[i]![j] !== id);
        if (at < 0 && apart[i]!.length === ids.length) return [];
        return [{ at, gap: cases[i]!.gaps[at < 0 ? ids.length : at] ?? 0 }];
      });
      const sure = differing.filter(({ gap }) => gap >= 0.05).length;
      check(
        `hand-over ${dtype} temperature ${temperature}${exact ? ', batch-invariant' : ''}`,
        exact || dtype === 'f32' ? differing.length === 0 : sure === 0,
        `${differing.length} of ${cases.length} differ, ${sure} where the golden is sure`,
      );
    }
    for (const model of models) model.close();
  }
}
