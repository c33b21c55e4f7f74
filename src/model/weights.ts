/** A model's parameters on a device, filled straight from checkpoint files: mapped on the CPU, through
 *  pinned buffers elsewhere. Used by families/ (declares what it needs) and load.ts (fills and closes).
 *  Two phases, so that a wrong checkpoint fails before a byte moves:
 *
 *      declare   store.matrix(…), store.vector(…), store.table(…)   checks names and shapes, allocates, queues a fill job
 *      fill      await store.fill(onProgress)                        runs the jobs, a few dozen MiB in flight at a time
 *
 *  The store owns everything it hands out: `close` gives it all back. Weight bytes never pass through
 *  JavaScript. */
import { assert } from '../base/assert.js';
import { ModelError } from '../base/errors.js';
import type { Device, HostBuffer, MappedFile, Stream, Weight } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import {
  isPlainDtype,
  type PlainDtype,
  plainMatrix,
  type StoredMatrix,
  storedRowBytes,
} from '../device/stored-matrix.js';
import { byteCount, elementCount, offsetPointer, type Pointer, type Tensor } from '../device/tensor.js';
import type { WeightFormat } from '../device/weight-format.js';
import type { Checkpoint, StoredTensor, TensorEntry } from './checkpoint.js';
import { defaultPieceLimits, type FilePiece, streamPieces } from './file-pieces.js';
import { packedParts } from './packed-format.js';

/** Rows of a packed matrix that come from one checkpoint tensor. */
export interface MatrixPart {
  readonly name: string;
  readonly rowCount: number;
}

/** Of every matrix that is not declared with another. */
export interface LinearFormat {
  /** Numbers of quantised files stay as they are, where a kernel multiplies them. */
  readonly asStored: boolean;
  readonly other: WeightFormat;
}

/** Standard deviation of random weights: what transformers initialises with. */
const dummyDeviation = 0.02;
/** Bytes enqueued before waiting: bounds staging, and how coarse progress is. */
const bytesInFlight = 64 * 2 ** 20;

interface FillJob {
  readonly bytes: number;
  run(stream: Stream): void;
}

export class ParameterStore {
  readonly #device: Device;
  readonly #checkpoint: Checkpoint | null;
  readonly #linearFormat: LinearFormat;
  readonly #jobs: FillJob[] = [];
  /** Used instead of jobs where the device cannot read mapped files. */
  readonly #pieces: FilePiece[] = [];
  readonly #weights: Weight[] = [];
  readonly #tensors: Tensor[] = [];
  readonly #files = new Map<string, MappedFile>();
  readonly #staging: (() => void)[] = [];
  #dummySeed = 1;

  /** `checkpoint` null: random weights. `linearFormat`: of every matrix that is not declared with another. */
  constructor(device: Device, checkpoint: Checkpoint | null, linearFormat: LinearFormat) {
    this.#device = device;
    this.#checkpoint = checkpoint;
    this.#linearFormat = linearFormat;
  }

  /** Device memory of all parameters, in bytes. */
  get bytes(): number {
    return [...this.#weights.map((weight) => weight.bytes), ...this.#tensors.map(byteCount)].reduce(
      (sum, bytes) => sum + bytes,
      0,
    );
  }

  /** The format of most bytes among the matrices. */
  get mainFormat(): WeightFormat {
    const bytes = new Map<WeightFormat, number>();
    for (const weight of this.#weights)
      bytes.set(weight.format, (bytes.get(weight.format) ?? 0) + weight.bytes);
    const [most] = [...bytes].sort((a, b) => b[1] - a[1]);
    return most?.[0] ?? this.#linearFormat.other;
  }

  /** A packed matrix [sum of rows, k] out of one or more checkpoint tensors [rows, k]. @throws ModelError */
  matrix(parts: readonly MatrixPart[], k: number, format?: WeightFormat): Weight {
    return this.matrixStack([parts], k, format);
  }

  /** Equal matrices, one per expert. @throws ModelError */
  matrixStack(stack: readonly (readonly MatrixPart[])[], k: number, format?: WeightFormat): Weight {
    const n = (stack[0] ?? []).reduce((sum, part) => sum + part.rowCount, 0);
    const tensors = stack.map((parts) =>
      parts.map((part) => this.#checkpoint?.matrix(part.name, [part.rowCount, k]) ?? null),
    );
    const rowCounts = (stack[0] ?? []).map((part) => part.rowCount);
    const asStored =
      format === undefined && this.#linearFormat.asStored ? packedParts(tensors, rowCounts) : null;
    const chosen = asStored ?? format ?? this.#linearFormat.other;
    const weight = this.#device.createWeight({ count: stack.length, n, k }, chosen);
    this.#weights.push(weight);
    if (this.#checkpoint === null) {
      const seed = this.#dummySeed++;
      this.#jobs.push({
        bytes: weight.bytes,
        run: (stream) => stream.fillWeightRandom(weight, seed, dummyDeviation),
      });
    }
    for (const [index, parts] of tensors.entries()) {
      let firstRow = 0;
      for (const [i, tensor] of parts.entries()) {
        const rowCount = stack[index]?.[i]?.rowCount ?? 0;
        if (tensor !== null) this.#queueRows(weight, { index, firstRow, rowCount }, tensor);
        firstRow += rowCount;
      }
    }
    return weight;
  }

  /** Norm weights as f32, `offset` added to each (Gemma stores w - 1); ones when random. @throws
   *  ModelError */
  norm(name: string, count: number, offset: number): Tensor {
    this.#checkpoint?.check(name, [count]);
    return this.constant(
      [count],
      () =>
        this.#checkpoint?.floats(name, [count]).map((value) => value + offset) ??
        new Float32Array(count).fill(1),
    );
  }

  /** Biases as f32, laid end to end like the rows of the matrix they go with; zeros when random. @throws
   *  ModelError */
  bias(parts: readonly MatrixPart[]): Tensor {
    for (const { name, rowCount } of parts) this.#checkpoint?.check(name, [rowCount]);
    const count = parts.reduce((sum, part) => sum + part.rowCount, 0);
    return this.constant([count], () => {
      const values = new Float32Array(count);
      let first = 0;
      for (const { name, rowCount } of parts) {
        if (this.#checkpoint !== null) values.set(this.#checkpoint.floats(name, [rowCount]), first);
        first += rowCount;
      }
      return values;
    });
  }

  /** An embedding table [rows, columns], row-major, in the file's dtype unless `dtype` asks otherwise. On
   *  the CPU it stays in the mapped file where that is aligned. @throws ModelError */
  table(name: string, shape: readonly [number, number], dtype: PlainDtype): Tensor {
    const stored = this.#checkpoint?.matrix(name, shape) ?? null;
    if (stored === null) {
      const table = this.#allocate(shape, dtype);
      const seed = this.#dummySeed++;
      this.#jobs.push({
        bytes: byteCount(table),
        run: (stream) => stream.random(table, seed, dummyDeviation, 0),
      });
      return table;
    }
    const sourceDtype = plainDtypeOf(stored);
    const source = sourceDtype !== null && this.#readsMappedFiles ? this.#mapped(stored.entry) : null;
    if (source !== null && sourceDtype === dtype && source % 4 === 0)
      return { pointer: source, shape, dtype };
    const table = this.#allocate(shape, dtype);
    if (sourceDtype === null) {
      const run = (stream: Stream) => stream.readMatrix({ ...table, dtype }, this.#stored(stored));
      this.#jobs.push({ bytes: byteCount(table), run });
    } else if (source === null) {
      this.#queueTable(table, stored.entry, sourceDtype);
    } else {
      const run = (stream: Stream) =>
        stream.convert(table.pointer, dtype, source, sourceDtype, elementCount(shape));
      this.#jobs.push({ bytes: byteCount(table), run });
    }
    return table;
  }

  /** A small f32 tensor whose values are computed on the host when it is filled. */
  constant(shape: readonly number[], values: () => Float32Array<ArrayBuffer>): Tensor {
    const tensor = this.#allocate(shape, 'f32');
    const bytes = byteCount(tensor);
    this.#jobs.push({ bytes, run: (stream) => this.#upload(stream, tensor, values()) });
    return tensor;
  }

  /** Runs every queued job. Rejects with what failed; the store must then be closed. */
  async fill(onProgress: (doneBytes: number, totalBytes: number) => void): Promise<void> {
    const pieces = this.#pieces.splice(0);
    const totalBytes =
      this.#jobs.reduce((sum, job) => sum + job.bytes, 0) +
      pieces.reduce((sum, piece) => sum + piece.byteCount, 0);
    const stream = this.#device.createStream();
    let doneBytes = 0;
    let enqueuedBytes = 0;
    const settle = async () => {
      await stream.wait();
      for (const release of this.#staging.splice(0)) release();
      doneBytes += enqueuedBytes;
      enqueuedBytes = 0;
      onProgress(doneBytes, totalBytes);
    };
    try {
      for (const job of this.#jobs.splice(0)) {
        job.run(stream);
        enqueuedBytes += job.bytes;
        if (enqueuedBytes >= bytesInFlight) await settle();
      }
      await settle();
      await streamPieces(this.#device, stream, pieces, defaultPieceLimits, (byteCount) => {
        doneBytes += byteCount;
        onProgress(doneBytes, totalBytes);
      });
    } finally {
      stream.close();
      for (const release of this.#staging.splice(0)) release();
    }
  }

  close(): void {
    for (const weight of this.#weights.splice(0)) this.#device.destroyWeight(weight);
    for (const tensor of this.#tensors.splice(0)) this.#device.release(tensor.pointer);
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
  }

  /** Plain rows stream through pinned buffers where the device cannot read mapped files; others are read
   *  from a mapping everywhere. */
  #queueRows(
    weight: Weight,
    place: { readonly index: number; readonly firstRow: number; readonly rowCount: number },
    tensor: StoredTensor,
  ): void {
    const { entry } = tensor;
    const dtype = plainDtypeOf(tensor);
    if (dtype !== null && !this.#readsMappedFiles) {
      this.#queuePieces(entry, storedRowBytes(dtype, weight.k), (stream, pointer, first, count) => {
        const source = plainMatrix(pointer, dtype, count, weight.k);
        stream.fillWeight(weight, { ...place, firstRow: place.firstRow + first, rowCount: count }, source);
      });
      return;
    }
    this.#jobs.push({
      bytes: entry.byteCount,
      run: (stream) => stream.fillWeight(weight, place, this.#stored(tensor)),
    });
  }

  #queueTable(table: Tensor, entry: TensorEntry, sourceDtype: PlainDtype): void {
    const elementBytes = byteCount({ shape: [1], dtype: table.dtype });
    const columnCount = table.shape[1] ?? 1;
    this.#queuePieces(
      entry,
      entry.byteCount / Math.max(1, table.shape[0] ?? 0),
      (stream, pointer, first, count) => {
        const target = offsetPointer(table.pointer, first * columnCount * elementBytes);
        if (sourceDtype === table.dtype) stream.copy(target, pointer, count * columnCount * elementBytes);
        else stream.convert(target, table.dtype, pointer, sourceDtype, count * columnCount);
      },
    );
  }

  /** Whole rows, as many as a piece holds. */
  #queuePieces(
    entry: TensorEntry,
    rowBytes: number,
    enqueue: (stream: Stream, pointer: Pointer, firstRow: number, rowCount: number) => void,
  ): void {
    const rowCountMax = Math.max(1, Math.floor(defaultPieceLimits.pieceBytes / rowBytes));
    const { file, name, byteOffset } = entry;
    for (let first = 0; first * rowBytes < entry.byteCount; first += rowCountMax) {
      const count = Math.min(rowCountMax, entry.byteCount / rowBytes - first);
      this.#pieces.push({
        file,
        name,
        byteOffset: byteOffset + first * rowBytes,
        byteCount: count * rowBytes,
        enqueue: (stream, pointer) => enqueue(stream, pointer, first, count),
      });
    }
  }

  get #readsMappedFiles(): boolean {
    return this.#device.info.kind === 'cpu';
  }

  /** Where the entry's bytes are, in a mapping that lives until close. */
  #mapped(entry: TensorEntry): Pointer {
    const file = this.#files.get(entry.file) ?? this.#device.mapFile(entry.file);
    this.#files.set(entry.file, file);
    if (entry.byteOffset + entry.byteCount > file.byteCount) {
      throw new ModelError(`${entry.file}: truncated while it was being loaded (tensor "${entry.name}")`);
    }
    return offsetPointer(file.pointer, entry.byteOffset);
  }

  /** With addresses: of the mapped bytes, and of what turns numbers into values, which stays until the
   *  stream is waited for. */
  #stored({ entry, layout, readScaling }: StoredTensor): StoredMatrix {
    const matrix = { ...layout, pointer: this.#mapped(entry), byteCount: entry.byteCount };
    if (readScaling === null) return matrix;
    const { scales, zeros, groups } = readScaling();
    return {
      ...matrix,
      scales: this.#stage(scales).pointer,
      ...(zeros !== null && { zeros: this.#stage(zeros).pointer }),
      ...(groups !== null && { groups: this.#stage(groups).pointer }),
    };
  }

  /** In host memory until the next settling. */
  #stage(values: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>): HostBuffer {
    const staging = this.#device.allocateHost(values.byteLength);
    this.#staging.push(() => this.#device.releaseHost(staging));
    staging.bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return staging;
  }

  #allocate(shape: readonly number[], dtype: Dtype): Tensor {
    const tensor = { pointer: this.#device.allocate(byteCount({ shape, dtype })), shape, dtype };
    this.#tensors.push(tensor);
    return tensor;
  }

  #upload(stream: Stream, tensor: Tensor, values: Float32Array<ArrayBuffer>): void {
    const bytes = byteCount(tensor);
    if (values.length === 0) return; // stays zero, as allocated
    assert(values.byteLength === bytes, `constant of ${bytes} bytes, ${values.byteLength} given`);
    stream.copy(tensor.pointer, this.#stage(values).pointer, bytes);
  }
}

/** null: quantised, or rows are not in order. */
function plainDtypeOf({ layout }: StoredTensor): PlainDtype | null {
  return isPlainDtype(layout.encoding) && (layout.pairedRows ?? 0) === 0 ? layout.encoding : null;
}
