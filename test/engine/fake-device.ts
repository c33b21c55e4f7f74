/** A device and a model whose arithmetic is a hash, so that any lost token, misplaced K or V, or wrongly
 *  packed field changes the output. Memory is one ArrayBuffer and a pointer is an offset into it. Streams run
 *  late: ops execute only when an event is waited for (or when `pump` is called), so a buffer reused too
 *  early is seen. Two devices may share memory, as two processes do. */
import {
  type BatchView,
  type CacheHandle,
  type Device,
  type EventHandle,
  type GraphHandle,
  type KvLayerView,
  type Ops,
  type SampleArguments,
  type Stream,
  tokenNotFinite,
} from '../../src/device/device.js';
import type { Pointer, Tensor } from '../../src/device/tensor.js';
import type { Batch } from '../../src/model/batch.js';
import type { Model } from '../../src/model/model.js';

export const vocabCount = 97;
export const layerCount = 2;
const headDim = 8;

export function mix(a: number, b: number): number {
  let h = (a ^ Math.imul(b, 0x9e3779b1)) >>> 0;
  h = Math.imul(h ^ (h >>> 15), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

type Job = { run: () => void } | { event: number };

export class FakeMemory {
  readonly buffer: ArrayBuffer;
  readonly i32: Int32Array;
  readonly u32: Uint32Array;
  readonly f32: Float32Array;
  readonly bytes: Uint8Array;
  #next = 256;

  constructor(byteCount: number) {
    this.buffer = new ArrayBuffer(byteCount);
    this.i32 = new Int32Array(this.buffer);
    this.u32 = new Uint32Array(this.buffer);
    this.f32 = new Float32Array(this.buffer);
    this.bytes = new Uint8Array(this.buffer);
  }

  allocate(bytes: number): Pointer {
    const pointer = this.#next;
    this.#next += Math.ceil(bytes / 256) * 256;
    if (this.#next > this.buffer.byteLength) throw new Error('fake memory exhausted');
    return pointer as Pointer;
  }
}

/** Only what the engine uses; everything else is absent and would throw. */
export class FakeDevice {
  readonly memory: FakeMemory;
  /** As on a GPU, pure decode steps are padded to the shapes that graphs are recorded for. */
  readonly info = { kind: 'cuda' as const };
  readonly graphs = new Map<GraphHandle, readonly Job[]>();
  jobs: Job[] = [];
  #graphCount = 0;
  #queued: Job[] = [];
  readonly #caches: Pointer[] = [];
  #eventCount = 0;
  /** How often each event was recorded and reached. */
  readonly #recorded = new Map<number, number>();
  readonly #reached = new Map<number, number>();
  /** Draws with this seed find no token, as with logits that are not numbers. */
  brokenSeed: number | undefined;
  /** When set, waits for events throw it. */
  failure: Error | undefined;

  constructor(memory = new FakeMemory(8 << 20)) {
    this.memory = memory;
  }

  asDevice(): Device {
    return this as unknown as Device;
  }

  allocate(bytes: number): Pointer {
    return this.memory.allocate(bytes);
  }

  release(): void {}

  allocateHost(bytes: number): { pointer: Pointer; bytes: Uint8Array } {
    const pointer = this.memory.allocate(bytes);
    return { pointer, bytes: new Uint8Array(this.memory.buffer, pointer, bytes) };
  }

  releaseHost(): void {}

  createEvent(): EventHandle {
    return this.#eventCount++ as EventHandle;
  }

  destroyEvent(): void {}

  destroyGraph(graph: GraphHandle): void {
    if (!this.graphs.delete(graph)) throw new Error('a graph is destroyed twice');
  }

  createCache(bytes: number): CacheHandle {
    this.#caches.push(this.memory.allocate(bytes));
    return (this.#caches.length - 1) as CacheHandle;
  }

  cachePointer(cache: CacheHandle): Pointer {
    return this.#caches[cache]!;
  }

  closeCache(): void {}

  /** Runs up to `count` enqueued ops. */
  pump(count: number): void {
    for (let i = 0; i < count && this.jobs.length > 0; i++) this.#runOne();
  }

  #runOne(): void {
    const job = this.jobs.shift()!;
    if ('run' in job) job.run();
    else this.#reached.set(job.event, (this.#reached.get(job.event) ?? 0) + 1);
  }

  async waitEvent(event: EventHandle): Promise<void> {
    const goal = this.#recorded.get(event) ?? 0;
    await Promise.resolve();
    if (this.failure !== undefined) throw this.failure;
    while ((this.#reached.get(event) ?? 0) < goal) this.#runOne();
  }

  createStream(): Stream {
    const { memory } = this;
    const enqueue = (run: () => void) => this.jobs.push({ run });
    const ops: Pick<Ops, 'sample'> = {
      sample: (args) => enqueue(() => sampleRows(memory, args, this.brokenSeed)),
    };
    const graphs: Pick<Stream, 'beginGraph' | 'endGraph' | 'launch'> = {
      beginGraph: () => {
        [this.#queued, this.jobs] = [this.jobs, []];
      },
      endGraph: () => {
        const graph = this.#graphCount++ as GraphHandle;
        this.graphs.set(graph, this.jobs);
        this.jobs = this.#queued;
        return graph;
      },
      launch: (graph) => {
        const recorded = this.graphs.get(graph);
        if (recorded === undefined) throw new Error('a graph is launched that was destroyed');
        this.jobs.push(...recorded);
      },
    };
    const stream: Pick<Stream, 'copy' | 'copySlices' | 'record' | 'close'> & { ops: Pick<Ops, 'sample'> } = {
      ops,
      copy: (target, source, bytes) => enqueue(() => memory.bytes.copyWithin(target, source, source + bytes)),
      copySlices: (target, source, pairs, slices) => {
        const [pairsNow, slicesNow] = [
          pairs.map((pair) => ({ ...pair })),
          slices.map((slice) => ({ ...slice })),
        ];
        enqueue(() => {
          for (const pair of pairsNow) {
            for (const slice of slicesNow) {
              const to = target.base + pair.target * target.blockBytes + slice.targetOffset;
              const from = source.base + pair.source * source.blockBytes + slice.sourceOffset;
              memory.bytes.copyWithin(to, from, from + slice.bytes);
            }
          }
        });
      },
      record: (event) => {
        this.#recorded.set(event, (this.#recorded.get(event) ?? 0) + 1);
        this.jobs.push({ event });
      },
      close: () => {},
    };
    return Object.assign(stream, graphs, { enqueue }) as unknown as Stream;
  }
}

/** Enqueues anything on a fake stream: what a transfer would do there. */
export function enqueueOn(stream: Stream, run: () => void): void {
  (stream as unknown as { enqueue(run: () => void): void }).enqueue(run);
}

/** x(0) = token; cell(l, p) = mix of x(l, p) and p; x(l + 1, p) = fold of cell(l, 0..p). Logits are x of the
 *  last layer. */
export function fakeModel(device: FakeDevice, limits: { logitRowCountMax: number }): Model {
  const { memory } = device;
  const logits: Tensor = {
    pointer: device.allocate(4 * limits.logitRowCountMax * vocabCount),
    shape: [limits.logitRowCountMax, vocabCount],
    dtype: 'f32',
  };
  const config = { architecture: 'fake', vocabCount, hiddenCount: 1, layerCount, kvHeadCount: 1, headDim };
  const model: Pick<Model, 'logits' | 'forward' | 'close'> = {
    logits,
    forward: (stream, batch, cache, onLayer) => {
      let xs: number[] = [];
      enqueueOn(stream, () => {
        xs = readInputs(memory, batch);
      });
      for (let layer = 0; layer < layerCount; layer++) {
        const view = cache.layers[layer]!;
        enqueueOn(stream, () => storeLayer(memory, batch.view, view, layer, xs));
        onLayer?.(layer);
        enqueueOn(stream, () => {
          xs = attendLayer(memory, batch.view, view);
        });
      }
      enqueueOn(stream, () => {
        for (let i = 0; i < batch.logitRowCount; i++) {
          const row = memory.i32[batch.logitRows / 4 + i]!;
          memory.u32[logits.pointer / 4 + i * vocabCount] = xs[row]!;
        }
      });
    },
    close: () => {},
  };
  return { ...model, config } as unknown as Model;
}

function readInputs(memory: FakeMemory, batch: Batch): number[] {
  return Array.from({ length: batch.view.rowCount }, (_, row) => {
    const id = memory.i32[batch.ids / 4 + row]!;
    return id >= 0 ? id : memory.i32[batch.lastTokens / 4 + (-1 - id)]!;
  });
}

const cellAt = (view: KvLayerView, block: number, offset: number, half: 'key' | 'value') =>
  (view.base +
    block * view.blockBytes +
    (half === 'key' ? view.keyOffset : view.valueOffset) +
    offset * headDim * 4) /
  4;

function storeLayer(
  memory: FakeMemory,
  batch: BatchView,
  view: KvLayerView,
  layer: number,
  xs: readonly number[],
): void {
  for (let row = 0; row < batch.rowCount; row++) {
    const slot = memory.i32[batch.slots / 4 + row]!;
    if (slot < 0) continue; // padding
    const position = memory.i32[batch.positions / 4 + row]!;
    const [block, offset] = [Math.floor(slot / view.blockTokenCount), slot % view.blockTokenCount];
    memory.u32[cellAt(view, block, offset, 'key')] = cellValue(xs[row]!, position, layer);
    memory.u32[cellAt(view, block, offset, 'value')] = position;
  }
}

function attendLayer(memory: FakeMemory, batch: BatchView, view: KvLayerView): number[] {
  const out: number[] = [];
  for (let sequence = 0; sequence < batch.sequenceCount; sequence++) {
    const first = memory.i32[batch.queryStart / 4 + sequence]!;
    const end = memory.i32[batch.queryStart / 4 + sequence + 1]!;
    const kvCount = memory.i32[batch.kvCount / 4 + sequence]!;
    for (let row = first; row < end; row++) {
      if (kvCount === 0) {
        out.push(0); // padding
        continue;
      }
      const position = kvCount - (end - row);
      if (memory.i32[batch.positions / 4 + row] !== position)
        throw new Error('positions and key counts disagree');
      let x = 0;
      for (let p = 0; p <= position; p++) {
        const table = batch.blockTable / 4 + sequence * batch.blockTableStride;
        const block = memory.i32[table + Math.floor(p / view.blockTokenCount)]!;
        const offset = p % view.blockTokenCount;
        const storedPosition = memory.u32[cellAt(view, block, offset, 'value')];
        if (storedPosition !== p) throw new Error(`position ${p} reads the K and V of ${storedPosition}`);
        x = mix(x, memory.u32[cellAt(view, block, offset, 'key')]!);
      }
      out.push(x);
    }
  }
  return out;
}

export const cellValue = (x: number, position: number, layer: number) => mix(mix(x, position), layer + 1);

/** What the fake sampler is given for one row, from the packed words or, in the oracle, from the request. */
export interface FakeDraw {
  readonly x: number;
  readonly temperature: number;
  readonly seed: readonly [low: number, high: number];
  readonly drawIndex: number;
  readonly history: { readonly prompt: readonly number[]; readonly output: readonly number[] };
  readonly banned: ReadonlySet<number>;
  readonly biases: readonly (readonly [number, number])[];
}

export function drawToken(draw: FakeDraw): number {
  let h = draw.x;
  if (draw.temperature > 0) h = mix(mix(mix(h, draw.seed[0]), draw.seed[1]), draw.drawIndex);
  for (const id of draw.history.prompt) h = mix(h, id);
  for (const id of draw.history.output) h = mix(h, id + 1000);
  for (const [id, value] of draw.biases) h = mix(mix(h, id), Math.round(value * 16));
  let token = h % vocabCount;
  while (draw.banned.has(token)) token = (token + 1) % vocabCount;
  return token;
}

export const fakeLogprob = (x: number, token: number) => Math.fround(-(mix(x, token) % 4096) / 256);
export const fakeTop = (x: number, rank: number) => mix(x, rank + 77) % vocabCount;

function maskedIds(u32: Uint32Array, masks: number, start: number): number[] {
  if (start < 0) return [];
  const ids = Array.from({ length: vocabCount }, (_, id) => id);
  return ids.filter((id) => (u32[masks + start + (id >>> 5)]! & (1 << (id & 31))) === 0);
}

function sampleRows(memory: FakeMemory, args: SampleArguments, brokenSeed: number | undefined): void {
  const { i32, u32, f32 } = memory;
  for (let i = 0; i < args.rowCount; i++) {
    const row = args.rows / 4 + 20 * i;
    const x = u32[args.logits.pointer / 4 + i * vocabCount]!;
    const history = args.history / 4 + i32[row + 10]!;
    const [promptCount, outputCount] = [i32[row + 11]!, i32[row + 12]!];
    const ids = (start: number, count: number) => Array.from({ length: count }, (_, k) => i32[start + k]!);
    const biases = ids(args.biasIds / 4 + i32[row + 13]!, i32[row + 14]!).map(
      (id, k) => [id, f32[args.biasValues / 4 + i32[row + 13]! + k]!] as const,
    );
    const target = i32[row + 17]!;
    const isBroken = u32[row + 7] === brokenSeed;
    const token = isBroken
      ? tokenNotFinite
      : target >= 0
        ? target
        : drawToken({
            x,
            temperature: f32[row]!,
            seed: [u32[row + 7]!, u32[row + 8]!],
            drawIndex: u32[row + 9]!,
            history: { prompt: ids(history, promptCount), output: ids(history + promptCount, outputCount) },
            banned: new Set([
              ...biases.filter(([, value]) => value === Number.NEGATIVE_INFINITY).map(([id]) => id),
              ...maskedIds(u32, args.masks / 4, i32[row + 15]!),
            ]),
            biases: biases.filter(([, value]) => value !== Number.NEGATIVE_INFINITY),
          });
    i32[args.tokens / 4 + i] = token;
    f32[args.logprobs / 4 + i] = fakeLogprob(x, token);
    for (let k = 0; k < i32[row + 16]!; k++) {
      i32[args.topIds / 4 + 20 * i + k] = fakeTop(x, k);
      f32[args.topLogprobs / 4 + 20 * i + k] = fakeLogprob(x, fakeTop(x, k));
    }
    const slot = i32[row + 18]!;
    if (target < 0 && slot >= 0) i32[args.lastTokens / 4 + slot] = Math.max(0, token);
  }
}
