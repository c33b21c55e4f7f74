/** A device as TypeScript sees it: memory, streams, weights and ops. The one implementation is native.ts,
 *  over cpu or cuda. Every op enqueues on a stream and returns at once; only `wait` takes time, off the event
 *  loop. Shapes are checked here, once. */
import type { Dtype } from './dtype.js';
import type { PlainDtype, StoredMatrix } from './stored-matrix.js';
import type { Pointer, Tensor } from './tensor.js';
import type { WeightFormat } from './weight-format.js';

export type DeviceKind = 'cpu' | 'cuda';
export type Isa = 'auto' | 'scalar' | 'avx2' | 'avx512';
export type OpName =
  | 'embedding'
  | 'rmsnorm'
  | 'linear'
  | 'rope_store'
  | 'paged_attention'
  | 'act_mul'
  | 'moe_route'
  | 'moe_linear'
  | 'moe_combine'
  | 'softcap'
  | 'gather_rows'
  | 'sample'
  | 'copy_slices';

export interface DeviceOptions {
  readonly kind: DeviceKind;
  /** GPU index; 0 on the CPU. */
  readonly index: number;
  /** Compute threads of a CPU device; 0 means all cores. */
  readonly threadCount?: number;
  readonly isa?: Isa;
  /** on: a row's result depends on its own sequence alone, whatever else is in the step. Always so on the
   *  CPU; costs speed on a GPU. */
  readonly batchInvariant?: 'on' | 'off';
  /** Where the shared library lies, instead of the built or cached one. */
  readonly libraryPath?: string;
}

export interface DeviceInfo {
  readonly name: string;
  readonly isa: string;
  readonly kind: DeviceKind;
  readonly index: number;
  readonly threadCount: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
}

declare const handleBrand: unique symbol;
type Handle<Name extends string> = number & { readonly [handleBrand]: Name };
export type StreamHandle = Handle<'stream'>;
export type EventHandle = Handle<'event'>;
export type GraphHandle = Handle<'graph'>;
export type CacheHandle = Handle<'cache'>;

/** A matrix [n, k] (or a stack of `count`) packed for the GEMM. */
export interface Weight {
  readonly handle: Handle<'weight'>;
  readonly count: number;
  readonly n: number;
  readonly k: number;
  /** Of the first rows, where parts differ. */
  readonly format: WeightFormat;
  readonly bytes: number;
}

/** Rows of one format. */
export interface WeightPart {
  readonly rowCount: number;
  readonly format: WeightFormat;
}

/** Pinned host memory that the device can copy from and to, seen as one buffer. */
export interface HostBuffer {
  readonly pointer: Pointer;
  readonly bytes: Uint8Array;
}

export interface MappedFile {
  readonly pointer: Pointer;
  readonly byteCount: number;
  close(): void;
}

/** How another process on this host finds a cache. Plain data, JSON-safe. */
export interface CacheExport {
  readonly processId: number;
  readonly fileDescriptor: number;
  /** -1: host memory. */
  readonly deviceIndex: number;
  readonly bytes: number;
  /** cuda IPC handle, base64; empty on the CPU. */
  readonly ipcHandle: string;
}

/** Where one layer's keys and values lie. Byte offsets within a block come from KvLayout. */
export interface KvLayerView {
  readonly base: Pointer;
  readonly blockBytes: number;
  readonly keyOffset: number;
  readonly valueOffset: number;
  readonly dtype: Dtype;
  readonly blockTokenCount: number;
  readonly kvHeadCount: number;
  readonly headDim: number;
  /** Of the cache: slots and block tables name no others. */
  readonly blockCount: number;
}

/** One step's metadata on the device: see PdBatch in native/pd.h for shapes. */
export interface BatchView {
  readonly rowCount: number;
  readonly sequenceCount: number;
  readonly blockTableStride: number;
  readonly queryCountMax: number;
  readonly kvCountMax: number;
  /** At least so many sequences have one query. Absent: nobody counted. */
  readonly singleQueryCount?: number;
  readonly positions: Pointer;
  readonly slots: Pointer;
  readonly queryStart: Pointer;
  readonly kvCount: Pointer;
  readonly blockTable: Pointer;
}

export interface BlockPair {
  readonly target: number;
  readonly source: number;
}

/** Bytes within a block. */
export interface BlockSlice {
  readonly targetOffset: number;
  readonly sourceOffset: number;
  readonly bytes: number;
}

/** Where the K and V vectors of some tokens lie: PdKvPlace in native/pd.h. */
export interface KvPlace {
  readonly base: Pointer;
  readonly blockBytes: number;
  readonly layerBytes: number;
  readonly valueOffset: number;
  /** Of i8 and fp8: where a layer's K (or V) has its scales. Others have none: 0. */
  readonly scaleOffset: number;
  readonly dtype: Dtype;
  readonly blockTokenCount: number;
  readonly headCount: number;
  /** Of the model. */
  readonly firstHead: number;
  readonly blocks: readonly number[];
}

/** What of two places is moved: PdKvRange in native/pd.h. Starts are counted from the first slot of a place's
 *  blocks. */
export interface KvRange {
  readonly targetStart: number;
  readonly sourceStart: number;
  readonly tokenCount: number;
  readonly targetLayer: number;
  readonly sourceLayer: number;
  readonly layerCount: number;
  readonly firstHead: number;
  readonly headCount: number;
  readonly headDim: number;
}

export interface SampleArguments {
  readonly logits: Tensor; // [rows, vocab] f32
  readonly rowCount: number;
  readonly rows: Pointer; // PdSampleRow[rows]
  readonly history: Pointer;
  readonly biasIds: Pointer;
  readonly biasValues: Pointer;
  readonly masks: Pointer;
  readonly lastTokens: Pointer;
  readonly tokens: Pointer; // [rows] i32
  readonly logprobs: Pointer; // [rows] f32
  readonly topIds: Pointer; // [rows, 20] i32
  readonly topLogprobs: Pointer; // [rows, 20] f32
}

/** What stands in `tokens` where a row gave none: see pd.h. */
export const tokenForbidden = -1;
export const tokenNotFinite = -2;
export const topLogprobsMax = 20;
export const sampleRowBytes = 80;

export interface RopeStoreOptions {
  readonly headCount: number;
  /** QK-norm: [headDim] f32; null: none. */
  readonly queryNorm: Tensor | null;
  readonly keyNorm: Tensor | null;
  readonly eps: number;
  /** [maxPosition, rotary] f32 */
  readonly rope: Tensor;
}

/** The ops of a forward pass. `rows` is always the number of query tokens of the step. */
export interface Ops {
  /** out[r] = table[ids[r]] * scale, NaN for an id outside the table; out: [rows, hidden], table: [vocab,
   *  hidden] */
  embedding(out: Tensor, table: Tensor, ids: Pointer, lastTokens: Pointer, rows: number, scale: number): void;
  /** out = rmsnorm(x) * weight; out, x: [rows, cols], weight: [cols] f32 */
  rmsnorm(out: Tensor, x: Tensor, weight: Tensor, rows: number, eps: number): void;
  /** residual += x; out = rmsnorm(residual) * weight */
  addRmsnorm(out: Tensor, residual: Tensor, x: Tensor, weight: Tensor, rows: number, eps: number): void;
  /** residual += x; [rows, cols] */
  add(residual: Tensor, x: Tensor, rows: number): void;
  /** out = x · weightᵀ + bias; x: [rows, k], out: [rows, n], bias: [n] f32 */
  linear(out: Tensor, x: Tensor, weight: Weight, bias: Tensor | null, rows: number): void;
  /** QK-norm, rotation and store into the cache; qkv: [rows, (heads + 2 kvHeads) headDim], rope:
   *  [maxPosition, rotary] f32 */
  ropeStore(qkv: Tensor, layer: KvLayerView, batch: BatchView, options: RopeStoreOptions): void;
  /** out: [rows, heads * headDim]; qkv as after ropeStore */
  pagedAttention(
    out: Tensor,
    qkv: Tensor,
    layer: KvLayerView,
    batch: BatchView,
    options: { headCount: number; scale: number; window: number; softcap: number },
  ): void;
  /** out[r, i] = act(gateUp[r, i]) * gateUp[r, inter + i]; out: [rows, inter] */
  actMul(out: Tensor, gateUp: Tensor, rows: number, activation: 'silu' | 'gelu_tanh'): void;
  moeRoute(
    expertIds: Tensor,
    expertWeights: Tensor,
    logits: Tensor,
    rows: number,
    normalise: 'topk' | 'none',
  ): void;
  /** out[j] = x[floor(j / divisor)] · weight[expertIds[j]]ᵀ for j < pairs */
  moeLinear(out: Tensor, x: Tensor, weight: Weight, expertIds: Tensor, pairs: number, divisor: number): void;
  moeCombine(out: Tensor, x: Tensor, expertWeights: Tensor, rows: number): void;
  softcap(x: Tensor, rows: number, cap: number): void;
  /** out[i] = x[indices[i]], NaN for an index outside x; [count, cols] */
  gatherRows(out: Tensor, x: Tensor, indices: Pointer, count: number): void;
  sample(args: SampleArguments): void;
}

/** An ordered queue of work on a device. */
export interface Stream {
  readonly handle: StreamHandle;
  readonly ops: Ops;
  copy(target: Pointer, source: Pointer, bytes: number): void;
  zero(target: Pointer, bytes: number): void;
  convert(target: Pointer, targetDtype: Dtype, source: Pointer, sourceDtype: Dtype, count: number): void;
  /** Plain tensor of N(mean, standardDeviation²). */
  random(target: Tensor, seed: number, standardDeviation: number, mean: number): void;
  /** The source's row 0 becomes `firstRow`; what it points to must stay until this has run. */
  fillWeight(
    weight: Weight,
    place: { index: number; firstRow: number; rowCount: number },
    source: StoredMatrix,
  ): void;
  /** Rows of a stored matrix as plain numbers; target: [rows, k], row-major. */
  readMatrix(target: Tensor & { readonly dtype: PlainDtype }, source: StoredMatrix): void;
  fillWeightRandom(weight: Weight, seed: number, standardDeviation: number): void;
  copySlices(
    target: { base: Pointer; blockBytes: number },
    source: { base: Pointer; blockBytes: number },
    pairs: readonly BlockPair[],
    slices: readonly BlockSlice[],
  ): void;
  /** K and V of a range of tokens, layers and heads, between places of different dtype, block size or
   *  heads. */
  moveKv(target: KvPlace, source: KvPlace, range: KvRange): void;
  /** CRC-32C of whole blocks, as 32-bit words; out: [blocks], host memory. CPU devices only. */
  checksumBlocks(out: Pointer, place: { base: Pointer; blockBytes: number }, blocks: readonly number[]): void;
  record(event: EventHandle): void;
  waitFor(event: EventHandle): void;
  beginGraph(): void;
  endGraph(): GraphHandle;
  launch(graph: GraphHandle): void;
  /** Resolves when everything enqueued so far has run; rejects with what failed. Never blocks the event
   *  loop. */
  wait(): Promise<void>;
  close(): void;
}

export interface Device {
  readonly info: DeviceInfo;
  supports(op: OpName, format: WeightFormat): boolean;
  /** Bytes of its memory that no process uses now. */
  readFreeBytes(): number;
  allocate(bytes: number): Pointer;
  release(pointer: Pointer): void;
  allocateHost(bytes: number): HostBuffer;
  releaseHost(buffer: HostBuffer): void;
  mapFile(path: string): MappedFile;
  createStream(): Stream;
  createEvent(): EventHandle;
  destroyEvent(event: EventHandle): void;
  /** Resolves when the event's last record has been reached. */
  waitEvent(event: EventHandle): Promise<void>;
  isReached(event: EventHandle): boolean;
  destroyGraph(graph: GraphHandle): void;
  /** A list: formats of rows that follow each other, all grouped, all but the last of a multiple of 32
   *  rows. */
  createWeight(
    shape: { count?: number; n: number; k: number },
    format: WeightFormat | readonly WeightPart[],
  ): Weight;
  destroyWeight(weight: Weight): void;
  createCache(bytes: number): CacheHandle;
  /** Host memory that this device and others can map: pinned for a GPU. */
  createHostCache(bytes: number): CacheHandle;
  exportCache(cache: CacheHandle): CacheExport;
  importCache(from: CacheExport): CacheHandle;
  cachePointer(cache: CacheHandle): Pointer;
  closeCache(cache: CacheHandle): void;
  /** Read bandwidth of the device's memory, best of `repeats`. Off the event loop. */
  measureReadBytesPerSecond(bytes: number, repeats: number): Promise<number>;
  close(): void;
}
