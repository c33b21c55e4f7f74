/** Two fake engines and the bytes that move between them: what worker/ and transfer/ do around a hand-over,
 *  made late on purpose. */
import type { RequestId } from '../../src/base/ids.js';
import type { Engine, GenerationRequest, PrefillChunk, Reservation } from '../../src/engine/engine.js';
import { enqueueOn, FakeMemory, layerCount } from './fake-device.js';
import { type FakeEngineOptions, fakeEngine } from './fake-engine.js';

export interface Push {
  readonly requestId: RequestId;
  readonly layer: number;
  readonly chunk: PrefillChunk;
}

export class FakePair {
  readonly prefill: ReturnType<typeof fakeEngine>;
  readonly decode: ReturnType<typeof fakeEngine>;
  /** Computed on the prefill side, not yet copied. */
  readonly pushes: Push[] = [];
  readonly reservations = new Map<RequestId, Reservation | null>();
  /** Layers of the last chunk that have landed. */
  readonly landedLayerCounts = new Map<RequestId, number>();
  readonly #requests = new Map<RequestId, GenerationRequest>();
  readonly #growthTokenCount: number;

  constructor(options: { prefill: FakeEngineOptions; decode: FakeEngineOptions; growthTokenCount: number }) {
    const memory = new FakeMemory(8 << 20);
    this.#growthTokenCount = options.growthTokenCount;
    const hooks = {
      onPrefillStart: (id: RequestId) => {
        const request = this.#requests.get(id);
        if (request === undefined) throw new Error(`prefill of ${id}, which nobody asked for`);
        this.reservations.set(id, this.decode.engine.reserve(request, this.#growthTokenCount));
      },
      onLayer: (layer: number, chunks: readonly PrefillChunk[], stream: Parameters<typeof enqueueOn>[0]) => {
        for (const chunk of chunks) {
          enqueueOn(stream, () => {
            if (this.#requests.has(chunk.requestId))
              this.pushes.push({ requestId: chunk.requestId, layer, chunk });
          });
        }
      },
    };
    this.prefill = fakeEngine({ ...options.prefill, memory, hooks });
    this.decode = fakeEngine({ ...options.decode, memory });
  }

  start(request: GenerationRequest): void {
    this.#requests.set(request.id, request);
    this.landedLayerCounts.set(request.id, 0);
    this.prefill.engine.addPrefill(request);
  }

  /** Copies what one push names, except what the decode side has cached. */
  land({ requestId, layer, chunk }: Push): void {
    const reservation = this.reservations.get(requestId);
    if (reservation === null || reservation === undefined) return;
    const first = Math.max(chunk.firstToken, reservation.cachedTokenCount);
    const [source, target] = [this.prefill.engine.cache, this.decode.engine.cache];
    const { bytes } = this.prefill.device.memory;
    const { blockTokenCount, headDim } = source.layout.shape;
    const rowBytes = headDim * 4;
    for (let position = first; position < chunk.endToken; position++) {
      const [index, offset] = [Math.floor(position / blockTokenCount), position % blockTokenCount];
      const [from, to] = [source.layers[layer]!, target.layers[layer]!];
      for (const half of ['keyOffset', 'valueOffset'] as const) {
        const start = from.base + chunk.blockIds[index]! * from.blockBytes + from[half] + offset * rowBytes;
        bytes.copyWithin(
          to.base + reservation.blockIds[index]! * to.blockBytes + to[half] + offset * rowBytes,
          start,
          start + rowBytes,
        );
      }
    }
    if (chunk.isLast) this.landedLayerCounts.set(requestId, this.landedLayerCounts.get(requestId)! + 1);
  }

  hasLanded(id: RequestId): boolean {
    return this.landedLayerCounts.get(id) === layerCount;
  }

  /** Nothing of this request is copied any more; both sides may give its blocks back. */
  fence(id: RequestId): void {
    this.#requests.delete(id);
    for (let i = this.pushes.length - 1; i >= 0; i--)
      if (this.pushes[i]!.requestId === id) this.pushes.splice(i, 1);
  }

  get engines(): readonly Engine[] {
    return [this.prefill.engine, this.decode.engine];
  }
}
