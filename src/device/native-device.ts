/** A Device over a native library: memory, events, weights and caches. Made by native.ts's openDevice.
 *  Streams are in native-stream.ts.
 *  Invariant: no native handle is used after it was destroyed: what is closed while a wait is on its way in
 *  another thread is destroyed when that wait has returned. close() leaves no thread and no memory behind. */
import { assert } from '../base/assert.js';
import { DeviceError } from '../base/errors.js';
import type { NativeLibrary } from './abi.js';
import type {
  CacheExport,
  CacheHandle,
  Device,
  DeviceInfo,
  DeviceKind,
  DeviceOptions,
  EventHandle,
  GraphHandle,
  HostBuffer,
  Isa,
  MappedFile,
  OpName,
  Stream,
  Weight,
  WeightPart,
} from './device.js';
import { NativeStream } from './native-stream.js';
import type { Pointer } from './tensor.js';
import { type WeightFormat, weightFormatCode } from './weight-format.js';

const isaCodes: Readonly<Record<Isa, number>> = { auto: 0, scalar: 1, avx2: 2, avx512: 3 };
/** In the order of PdOp. */
const opOrder: readonly OpName[] = [
  'embedding',
  'rmsnorm',
  'linear',
  'rope_store',
  'paged_attention',
  'act_mul',
  'moe_route',
  'moe_linear',
  'moe_combine',
  'softcap',
  'gather_rows',
  'sample',
  'copy_slices',
];
const pdUnsupported = 1;
const exportBytes = 88;
const infoBytes = 152;

export class NativeDevice implements Device {
  readonly info: DeviceInfo;
  readonly #library: NativeLibrary;
  readonly #handle: number;
  readonly #out = new BigUint64Array(2);
  readonly #streams = new Set<NativeStream>();
  readonly #eventWaits = new Map<EventHandle, number>();
  readonly #doomedEvents = new Set<EventHandle>();
  #measurementCount = 0;
  #isOpen = true;
  #isDestroyed = false;

  constructor(library: NativeLibrary, options: DeviceOptions) {
    this.#library = library;
    const isa = options.isa ?? 'auto';
    this.#handle = this.#make(`device ${options.kind}:${options.index}`, (out) =>
      library.call.pd_device_open(options.index, options.threadCount ?? 0, isaCodes[isa], out),
    );
    if (options.batchInvariant === 'on')
      library.check(library.call.pd_set_batch_invariant(this.#handle, 1), 'make the device batch-invariant');
    this.info = this.#readInfo(options.kind);
  }

  supports(op: OpName, format: WeightFormat): boolean {
    return this.#library.call.pd_supports(this.#live, opOrder.indexOf(op), weightFormatCode(format)) === 1;
  }

  readFreeBytes(): number {
    return this.#readInfo(this.info.kind).freeBytes;
  }

  allocate(bytes: number): Pointer {
    return this.#make(`allocate ${bytes} bytes`, (out) =>
      this.#library.call.pd_alloc(this.#live, bytes, out),
    ) as Pointer;
  }

  release(pointer: Pointer): void {
    this.#library.check(this.#library.call.pd_free(this.#live, pointer), 'release');
  }

  allocateHost(bytes: number): HostBuffer {
    const what = `allocate ${bytes} bytes of host memory`;
    if (bytes >= 2 ** 32) throw new DeviceError(`${what}: one buffer holds less than 4 GiB`, pdUnsupported);
    const pointer = this.#make(what, (out) =>
      this.#library.call.pd_host_alloc(this.#live, bytes, out),
    ) as Pointer;
    return { pointer, bytes: new Uint8Array(this.#library.view(pointer, bytes)) };
  }

  releaseHost(buffer: HostBuffer): void {
    this.#library.check(this.#library.call.pd_host_free(this.#live, buffer.pointer), 'release host memory');
  }

  mapFile(path: string): MappedFile {
    const size = new BigUint64Array(1);
    const pointer = this.#make('map file', (out) =>
      this.#library.call.pd_map_file(path, out, size),
    ) as Pointer;
    const byteCount = Number(size[0]);
    return {
      pointer,
      byteCount,
      close: () => this.#library.check(this.#library.call.pd_unmap_file(pointer, byteCount), `unmap ${path}`),
    };
  }

  createStream(): Stream {
    const stream = new NativeStream(this.#library, this.#live, () => {
      this.#streams.delete(stream);
      this.#destroyWhenIdle();
    });
    this.#streams.add(stream);
    return stream;
  }

  createEvent(): EventHandle {
    return this.#make('create event', (out) =>
      this.#library.call.pd_event_create(this.#live, out),
    ) as EventHandle;
  }

  destroyEvent(event: EventHandle): void {
    if (this.#eventWaits.has(event)) this.#doomedEvents.add(event);
    else this.#library.check(this.#library.call.pd_event_destroy(event), 'destroy event');
  }

  async waitEvent(event: EventHandle): Promise<void> {
    // A reached event is asked here at once; so is the message after a failure, because it belongs to the
    // asking thread.
    this.#eventWaits.set(event, (this.#eventWaits.get(event) ?? 0) + 1);
    try {
      if (!this.isReached(event) && (await this.#library.blocking.pd_event_wait(event)) === 0) return;
      this.#library.check(this.#library.call.pd_event_wait(event), 'work before an event failed');
    } finally {
      this.#endEventWait(event);
    }
  }

  isReached(event: EventHandle): boolean {
    return this.#library.call.pd_event_query(event) === 1;
  }

  destroyGraph(graph: GraphHandle): void {
    this.#library.check(this.#library.call.pd_graph_destroy(graph), 'destroy graph');
  }

  createWeight(
    shape: { count?: number; n: number; k: number },
    format: WeightFormat | readonly WeightPart[],
  ): Weight {
    const count = shape.count ?? 1;
    const { n, k } = shape;
    const parts = typeof format === 'string' ? [{ rowCount: n, format }] : format;
    const what = `create weight [${count}, ${n}, ${k}] ${parts.map((part) => part.format).join(', ')}`;
    const rowCount = parts.reduce((sum, part) => sum + part.rowCount, 0);
    assert(rowCount === n, `${what}: its parts have ${rowCount} rows`);
    const list = Int32Array.from(parts.flatMap((part) => [part.rowCount, weightFormatCode(part.format)]));
    const { call, check } = this.#library;
    const handle = this.#make(what, (out) =>
      call.pd_weight_create(this.#live, count, k, list, parts.length, out),
    );
    check(call.pd_weight_bytes(handle, this.#out), what);
    const [first] = parts;
    assert(first !== undefined, `${what}: a weight has parts`);
    const bytes = Number(this.#out[0]);
    return { handle: handle as Weight['handle'], count, n, k, format: first.format, bytes };
  }

  destroyWeight(weight: Weight): void {
    this.#library.check(this.#library.call.pd_weight_destroy(weight.handle), 'destroy weight');
  }

  createCache(bytes: number): CacheHandle {
    const what = `create a cache of ${bytes} bytes`;
    return this.#make(what, (out) =>
      this.#library.call.pd_cache_create(this.#live, bytes, out),
    ) as CacheHandle;
  }

  createHostCache(bytes: number): CacheHandle {
    const what = `create ${bytes} bytes of shared host memory`;
    return this.#make(what, (out) =>
      this.#library.call.pd_cache_create_host(this.#live, bytes, out),
    ) as CacheHandle;
  }

  exportCache(cache: CacheHandle): CacheExport {
    const struct = new DataView(new ArrayBuffer(exportBytes));
    this.#library.check(this.#library.call.pd_cache_export(cache, struct), 'export cache');
    const ipc = Buffer.from(struct.buffer, 24, 64);
    return {
      processId: Number(struct.getBigInt64(0, true)),
      fileDescriptor: struct.getInt32(8, true),
      deviceIndex: struct.getInt32(12, true),
      bytes: Number(struct.getBigUint64(16, true)),
      ipcHandle: this.info.kind === 'cuda' ? ipc.toString('base64') : '',
    };
  }

  importCache(from: CacheExport): CacheHandle {
    const struct = new DataView(new ArrayBuffer(exportBytes));
    struct.setBigInt64(0, BigInt(from.processId), true);
    struct.setInt32(8, from.fileDescriptor, true);
    struct.setInt32(12, from.deviceIndex, true);
    struct.setBigUint64(16, BigInt(from.bytes), true);
    new Uint8Array(struct.buffer, 24, 64).set(Buffer.from(from.ipcHandle, 'base64').subarray(0, 64));
    const what = `import the cache of process ${from.processId}`;
    return this.#make(what, (out) =>
      this.#library.call.pd_cache_import(this.#live, struct, out),
    ) as CacheHandle;
  }

  cachePointer(cache: CacheHandle): Pointer {
    return this.#make('cache pointer', (out) => this.#library.call.pd_cache_pointer(cache, out)) as Pointer;
  }

  closeCache(cache: CacheHandle): void {
    this.#library.check(this.#library.call.pd_cache_close(cache), 'close cache');
  }

  async measureReadBytesPerSecond(bytes: number, repeats: number): Promise<number> {
    this.#measurementCount++;
    // native memory: a JavaScript buffer may move while another thread writes to it
    const result = this.allocateHost(8);
    try {
      const status = await this.#library.blocking.pd_measure_read(this.#live, bytes, repeats, result.pointer);
      if (status !== 0) throw new DeviceError(`measuring read bandwidth over ${bytes} bytes failed`, status);
      return new DataView(result.bytes.buffer).getFloat64(0, true);
    } finally {
      this.#library.check(
        this.#library.call.pd_host_free(this.#handle, result.pointer),
        'release host memory',
      ); // even when closed
      this.#measurementCount--;
      this.#destroyWhenIdle();
    }
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    for (const stream of this.#streams) stream.close();
    this.#destroyWhenIdle();
  }

  get #live(): number {
    assert(this.#isOpen, 'a closed device is not used');
    return this.#handle;
  }

  #destroyWhenIdle(): void {
    if (this.#isOpen || this.#isDestroyed || this.#streams.size > 0 || this.#measurementCount > 0) return;
    this.#isDestroyed = true;
    this.#library.check(this.#library.call.pd_device_close(this.#handle), 'close device');
  }

  #endEventWait(event: EventHandle): void {
    const left = (this.#eventWaits.get(event) ?? 1) - 1;
    if (left > 0) {
      this.#eventWaits.set(event, left);
      return;
    }
    this.#eventWaits.delete(event);
    if (this.#doomedEvents.delete(event)) this.destroyEvent(event);
  }

  /** A call that fills one 64-bit result: a handle or an address. */
  #make(what: string, call: (out: BigUint64Array) => number): number {
    this.#library.check(call(this.#out), what);
    return Number(this.#out[0]);
  }

  #readInfo(kind: DeviceKind): DeviceInfo {
    const struct = new DataView(new ArrayBuffer(infoBytes));
    this.#library.check(this.#library.call.pd_device_info(this.#handle, struct), 'device info');
    const text = (offset: number, byteCount: number) => {
      const bytes = Buffer.from(struct.buffer, offset, byteCount);
      return bytes.toString('utf8', 0, Math.max(0, bytes.indexOf(0)));
    };
    return {
      name: text(0, 96),
      isa: text(96, 32),
      kind,
      index: struct.getInt32(132, true),
      threadCount: struct.getInt32(128, true),
      totalBytes: Number(struct.getBigUint64(136, true)),
      freeBytes: Number(struct.getBigUint64(144, true)),
    };
  }
}
