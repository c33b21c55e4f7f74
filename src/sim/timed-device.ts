/** A device that computes nothing and takes as long as a real one: streams on virtual time, without memory
 *  behind their pointers. One per simulated worker; made by simulated-workers.ts, driven by the real engine
 *  and the real connectors.
 *  Invariant: a stream runs one thing at a time, in order; an event is reached when everything enqueued
 *  before it has run. */
import { assert } from '../base/assert.js';
import type {
  BatchView,
  CacheExport,
  CacheHandle,
  Device,
  DeviceInfo,
  EventHandle,
  GraphHandle,
  HostBuffer,
  Stream,
  StreamHandle,
} from '../device/device.js';
import type { Pointer } from '../device/tensor.js';
import { prefillPairCountOf, type StepWork } from '../router/step-work.js';
import type { LinkTimes } from './link-times.js';
import type { ComputeTime } from './mortal-clock.js';
import type { StepTimes } from './step-times.js';

interface TimedDeviceOptions {
  readonly time: ComputeTime;
  readonly info: DeviceInfo;
  readonly steps: StepTimes;
  readonly link: LinkTimes;
  /** Called with every step as it is launched, with the time it will take. */
  readonly onStep?: (work: StepWork, ms: number) => void;
}

/** What runs again when a graph is launched. */
type Job = () => void;

/** Everything that the engine and the connectors ask of a device; the rest is absent and would throw. */
export class TimedDevice {
  readonly info: DeviceInfo;
  readonly options: TimedDeviceOptions;
  /** When each recorded event is reached. */
  readonly #reachedMs = new Map<EventHandle, number>();
  readonly #hostWords = new Map<Pointer, Int32Array>();
  /** Device buffer → the host buffer it was last filled from. */
  readonly #inputs = new Map<Pointer, Int32Array>();
  readonly #caches = new Map<CacheHandle, { readonly pointer: Pointer; readonly bytes: number }>();
  readonly #peers = new Set<Pointer>();
  #handleCount = 1;
  #nextPointer = 4096;
  /** Of copies since the last step, which the next one is longer by. */
  #copiedMs = 0;

  constructor(options: TimedDeviceOptions) {
    this.options = options;
    this.info = options.info;
  }

  asDevice(): Device {
    return this as unknown as Device;
  }

  allocate(bytes: number): Pointer {
    const pointer = this.#nextPointer as Pointer;
    this.#nextPointer += 256 * Math.ceil(bytes / 256);
    return pointer;
  }

  release(pointer: Pointer): void {
    this.#inputs.delete(pointer);
  }

  /** Zeros: the token that every simulated draw gives. */
  allocateHost(bytes: number): HostBuffer {
    const pointer = this.allocate(bytes);
    const buffer = new Uint8Array(bytes);
    this.#hostWords.set(pointer, new Int32Array(buffer.buffer));
    return { pointer, bytes: buffer };
  }

  releaseHost({ pointer }: HostBuffer): void {
    this.#hostWords.delete(pointer);
  }

  createEvent(): EventHandle {
    return this.newHandle() as EventHandle;
  }

  destroyEvent(event: EventHandle): void {
    this.#reachedMs.delete(event);
  }

  isReached(event: EventHandle): boolean {
    return this.reachedMs(event) <= this.options.time.nowMs();
  }

  waitEvent(event: EventHandle): Promise<void> {
    return this.options.time.until(this.reachedMs(event));
  }

  /** Copy kernels take multiprocessors from what is computed, by as much as they take themselves: 302 MB,
   *  0.95 ms on their way, made a prefill of 2,048 tokens 1.2 ms longer
   *  (docs/results/2026-11-22-transfer-gpu). On processors copies have a thread of their own. */
  copied(ms: number): void {
    if (this.info.kind === 'cuda') this.#copiedMs += ms;
  }

  takeCopiedMs(): number {
    const ms = this.#copiedMs;
    this.#copiedMs = 0;
    return ms;
  }

  /** An event that was never recorded is reached. */
  reachedMs(event: EventHandle): number {
    return this.#reachedMs.get(event) ?? 0;
  }

  setReached(event: EventHandle, atMs: number): void {
    this.#reachedMs.set(event, atMs);
  }

  createCache(bytes: number): CacheHandle {
    return this.#addCache(bytes);
  }

  exportCache(cache: CacheHandle): CacheExport {
    return {
      processId: this.info.index,
      fileDescriptor: cache,
      deviceIndex: this.info.index,
      bytes: this.#cache(cache).bytes,
      ipcHandle: '',
    };
  }

  importCache({ bytes }: CacheExport): CacheHandle {
    const handle = this.#addCache(bytes);
    this.#peers.add(this.cachePointer(handle));
    return handle;
  }

  cachePointer(cache: CacheHandle): Pointer {
    return this.#cache(cache).pointer;
  }

  closeCache(cache: CacheHandle): void {
    this.#caches.delete(cache);
  }

  destroyGraph(): void {}

  createStream(): Stream {
    return new TimedStream(this) as unknown as Stream;
  }

  newHandle(): number {
    return this.#handleCount++;
  }

  isHost(pointer: Pointer): boolean {
    return this.#hostWords.has(pointer);
  }

  isPeer(base: Pointer): boolean {
    return this.#peers.has(base);
  }

  fill(target: Pointer, source: Pointer): void {
    const words = this.#hostWords.get(source);
    if (words !== undefined) this.#inputs.set(target, words);
  }

  /** The packed words that lie at `pointer`, as they are now. */
  wordsAt(pointer: Pointer): Int32Array {
    const words = this.#inputs.get(pointer);
    assert(words !== undefined, 'a step without input');
    return words;
  }

  #cache(handle: CacheHandle): { readonly pointer: Pointer; readonly bytes: number } {
    const cache = this.#caches.get(handle);
    assert(cache !== undefined, 'a cache that is closed, or was never made');
    return cache;
  }

  #addCache(bytes: number): CacheHandle {
    const handle = this.newHandle() as CacheHandle;
    this.#caches.set(handle, { pointer: this.allocate(bytes), bytes });
    return handle;
  }
}

export class TimedStream {
  readonly handle: StreamHandle;
  readonly ops = { sample: () => {} };
  readonly #device: TimedDevice;
  /** Nothing of it runs any more from then on. */
  #freeMs = 0;
  /** Copies to peers since the last event: their latency is part of what that waits for. */
  #latencyMs = 0;
  #recording: Job[] | null = null;
  readonly #graphs = new Map<GraphHandle, readonly Job[]>();

  constructor(device: TimedDevice) {
    this.#device = device;
    this.handle = device.newHandle() as StreamHandle;
  }

  copy(target: Pointer, source: Pointer, bytes: number): void {
    const device = this.#device;
    device.fill(target, source);
    if (device.isHost(source) || device.isHost(target)) return;
    this.#sendBytes(bytes); // a probe reads the peer's cache
  }

  copySlices(
    target: { readonly base: Pointer },
    _source: { readonly base: Pointer },
    pairs: readonly unknown[],
    slices: readonly { readonly bytes: number }[],
  ): void {
    if (!this.#device.isPeer(target.base)) return; // copy-on-write: lost in the step's own scatter
    this.#device.copied(this.#sendBytes(pairs.length * slices.reduce((sum, { bytes }) => sum + bytes, 0)));
  }

  record(event: EventHandle): void {
    this.#device.setReached(event, Math.max(this.#nowMs, this.#freeMs) + this.#latencyMs);
    this.#latencyMs = 0;
  }

  waitFor(event: EventHandle): void {
    this.#freeMs = Math.max(this.#freeMs, this.#device.reachedMs(event));
  }

  beginGraph(): void {
    this.#recording = [];
  }

  endGraph(): GraphHandle {
    const graph = this.#device.newHandle() as GraphHandle;
    this.#graphs.set(graph, this.#recording ?? []);
    this.#recording = null;
    return graph;
  }

  launch(graph: GraphHandle): void {
    for (const job of this.#graphs.get(graph) ?? []) job();
  }

  wait(): Promise<void> {
    return this.#device.options.time.until(this.#freeMs);
  }

  close(): void {
    this.#graphs.clear();
  }

  /** One forward pass over `view`, whose words begin at `ids`. `onLayer(i)` is called with the stream
   *  at the end of layer i. */
  forward(
    ids: Pointer,
    view: BatchView,
    layerCount: number,
    onLayer: ((layer: number) => void) | undefined,
  ): void {
    const run = () => this.#forward(stepWorkOf(this.#device.wordsAt(ids), ids, view), layerCount, onLayer);
    if (this.#recording === null) run();
    else this.#recording.push(run);
  }

  #forward(work: StepWork, layerCount: number, onLayer: ((layer: number) => void) | undefined): void {
    const { steps, time, onStep } = this.#device.options;
    const startMs = Math.max(this.#nowMs, this.#freeMs);
    const ms = steps.draw(work);
    onStep?.(work, ms);
    for (let layer = 0; onLayer !== undefined && layer < layerCount; layer++) {
      this.#freeMs = startMs + (ms * (layer + 1)) / layerCount;
      onLayer(layer);
    }
    this.#freeMs = startMs + ms + this.#device.takeCopiedMs();
    time.computeUntil(this.#freeMs);
  }

  /** Returns the milliseconds that they keep the link busy. */
  #sendBytes(bytes: number): number {
    const { link } = this.#device.options;
    const ms = link.draw(bytes);
    this.#freeMs = Math.max(this.#nowMs, this.#freeMs) + ms;
    this.#latencyMs = link.drawLatency();
    return ms;
  }

  get #nowMs(): number {
    return this.#device.options.time.nowMs();
  }
}

/** Read from what the engine has packed for the device. A sequence with one row decodes; rows without keys
 *  are padding. */
function stepWorkOf(
  words: Int32Array,
  base: Pointer,
  { sequenceCount, queryStart, kvCount }: BatchView,
): StepWork {
  const work = { decodeCount: 0, decodeKvTokenCount: 0, prefillTokenCount: 0, prefillPairCount: 0 };
  const starts = (queryStart - base) / 4;
  const ends = (kvCount - base) / 4;
  for (let i = 0; i < sequenceCount; i++) {
    const rowCount = (words[starts + i + 1] ?? 0) - (words[starts + i] ?? 0);
    const keyCount = words[ends + i] ?? 0;
    if (keyCount === 0) continue;
    if (rowCount === 1) {
      work.decodeCount++;
      work.decodeKvTokenCount += keyCount;
    } else {
      work.prefillTokenCount += rowCount;
      work.prefillPairCount += prefillPairCountOf(keyCount - rowCount, rowCount);
    }
  }
  return work;
}
