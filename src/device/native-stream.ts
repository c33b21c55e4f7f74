/** A Stream over a native library: copies, fills, events and graphs; its ops are in native-ops.ts. Made by
 *  native-device.ts.
 *  Invariant: a native handle is never used after it was destroyed: calls on a closed stream throw, and a
 *  stream that is closed while a wait is on its way is destroyed when that wait has returned. */
import { assert } from '../base/assert.js';
import { DeviceError } from '../base/errors.js';
import type { NativeLibrary } from './abi.js';
import type {
  BlockPair,
  BlockSlice,
  EventHandle,
  GraphHandle,
  KvPlace,
  KvRange,
  Stream,
  StreamHandle,
  Weight,
} from './device.js';
import type { Dtype } from './dtype.js';
import { dtypeCodes } from './dtype.js';
import { NativeOps } from './native-ops.js';
import { kvPlaceStruct, kvRangeStruct, matrixStruct, setUint64 } from './native-structs.js';
import type { PlainDtype, StoredMatrix } from './stored-matrix.js';
import type { Pointer, Tensor } from './tensor.js';
import { elementCount } from './tensor.js';

const pdInvalid = 2;
const sliceBytes = 24;

export class NativeStream implements Stream {
  readonly handle: StreamHandle;
  readonly ops: NativeOps;
  readonly #library: NativeLibrary;
  readonly #onClose: () => void;
  // an event of its own, recorded before each wait: it keeps the message of a failure
  readonly #marker: number;
  #isOpen = true;
  #waitCount = 0;

  constructor(library: NativeLibrary, device: number, onClose: () => void) {
    const out = new BigUint64Array(1);
    this.#library = library;
    this.#onClose = onClose;
    library.check(library.call.pd_stream_create(device, out), 'create stream');
    this.handle = Number(out[0]) as StreamHandle;
    library.check(library.call.pd_event_create(device, out), 'create event');
    this.#marker = Number(out[0]);
    this.ops = new NativeOps(library, device, this.handle);
  }

  copy(target: Pointer, source: Pointer, bytes: number): void {
    this.#check(this.#library.call.pd_copy(this.#live, target, source, bytes), `copy ${bytes} bytes`);
  }

  zero(target: Pointer, bytes: number): void {
    this.#check(this.#library.call.pd_zero(this.#live, target, bytes), `zero ${bytes} bytes`);
  }

  convert(target: Pointer, targetDtype: Dtype, source: Pointer, sourceDtype: Dtype, count: number): void {
    const [to, from] = [dtypeCodes[targetDtype], dtypeCodes[sourceDtype]];
    const status = this.#library.call.pd_convert(this.#live, target, to, source, from, count);
    this.#check(status, `convert ${count} elements from ${sourceDtype} to ${targetDtype}`);
  }

  random(target: Tensor, seed: number, standardDeviation: number, mean: number): void {
    const { call } = this.#library;
    const { pointer, shape } = target;
    const count = elementCount(shape);
    const status = call.pd_random(
      this.#live,
      pointer,
      dtypeCodes[target.dtype],
      count,
      seed,
      standardDeviation,
      mean,
    );
    this.#check(status, `random [${shape}] ${target.dtype}`);
  }

  fillWeight(
    weight: Weight,
    place: { index: number; firstRow: number; rowCount: number },
    source: StoredMatrix,
  ): void {
    const { index, firstRow, rowCount } = place;
    const what = `fill rows ${firstRow}..${firstRow + rowCount} of weight ${index} of [${weight.count}, ${weight.n}, ${weight.k}]`;
    const fits =
      index >= 0 && index < weight.count && firstRow >= 0 && rowCount >= 0 && firstRow + rowCount <= weight.n;
    if (!fits) throw new DeviceError(`${what}: out of range`, pdInvalid);
    const { call } = this.#library;
    this.#check(
      call.pd_weight_fill(this.#live, weight.handle, index, firstRow, rowCount, matrixStruct(source)),
      what,
    );
  }

  readMatrix(target: Tensor & { readonly dtype: PlainDtype }, source: StoredMatrix): void {
    const [rowCount = 0, k = 0] = target.shape;
    const { call } = this.#library;
    const struct = matrixStruct(source);
    const status = call.pd_read_matrix(
      this.#live,
      target.pointer,
      dtypeCodes[target.dtype],
      struct,
      rowCount,
      k,
    );
    this.#check(status, `read [${rowCount}, ${k}] stored as ${source.encoding}`);
  }

  fillWeightRandom(weight: Weight, seed: number, standardDeviation: number): void {
    const status = this.#library.call.pd_weight_fill_random(
      this.#live,
      weight.handle,
      seed,
      standardDeviation,
    );
    this.#check(status, `fill weight [${weight.count}, ${weight.n}, ${weight.k}] with random numbers`);
  }

  copySlices(
    target: { base: Pointer; blockBytes: number },
    source: { base: Pointer; blockBytes: number },
    pairs: readonly BlockPair[],
    slices: readonly BlockSlice[],
  ): void {
    if (pairs.length === 0 || slices.length === 0) return;
    const pairList = new Int32Array(pairs.length * 2);
    pairs.forEach((pair, i) => {
      pairList[2 * i] = pair.target;
      pairList[2 * i + 1] = pair.source;
    });
    const sliceList = new DataView(new ArrayBuffer(slices.length * sliceBytes));
    slices.forEach((slice, i) => {
      setUint64(sliceList, i * sliceBytes, slice.targetOffset);
      setUint64(sliceList, i * sliceBytes + 8, slice.sourceOffset);
      setUint64(sliceList, i * sliceBytes + 16, slice.bytes);
    });
    const [to, from] = [target.base, source.base];
    const status = this.#library.call.pd_copy_slices(
      ...([
        this.#live,
        to,
        from,
        target.blockBytes,
        source.blockBytes,
        pairList,
        pairs.length,
        sliceList,
        slices.length,
      ] as const),
    );
    this.#check(status, `copy ${slices.length} slices of ${pairs.length} blocks`);
  }

  moveKv(target: KvPlace, source: KvPlace, range: KvRange): void {
    for (const [place, start] of [
      [target, range.targetStart],
      [source, range.sourceStart],
    ] as const) {
      const neededCount = Math.ceil((start + range.tokenCount) / place.blockTokenCount);
      assert(
        neededCount <= place.blocks.length,
        `${range.tokenCount} tokens in ${place.blocks.length} blocks`,
      );
    }
    if (range.tokenCount === 0) return;
    const lists = [Int32Array.from(target.blocks), Int32Array.from(source.blocks)] as const;
    const [to, from] = [kvPlaceStruct(target), kvPlaceStruct(source)];
    const { call } = this.#library;
    const status = call.pd_move_kv(this.#live, to, lists[0], from, lists[1], kvRangeStruct(range));
    this.#check(status, `move K and V of ${range.tokenCount} tokens from ${source.dtype} to ${target.dtype}`);
  }

  checksumBlocks(
    out: Pointer,
    place: { base: Pointer; blockBytes: number },
    blocks: readonly number[],
  ): void {
    if (blocks.length === 0) return;
    const list = Int32Array.from(blocks);
    const { call } = this.#library;
    const status = call.pd_checksum_blocks(this.#live, out, place.base, place.blockBytes, list, list.length);
    this.#check(status, `checksum ${blocks.length} blocks`);
  }

  record(event: EventHandle): void {
    this.#check(this.#library.call.pd_event_record(this.#live, event), 'record event');
  }

  waitFor(event: EventHandle): void {
    this.#check(this.#library.call.pd_stream_wait_event(this.#live, event), 'wait for event');
  }

  beginGraph(): void {
    this.#check(this.#library.call.pd_graph_begin(this.#live), 'begin graph');
  }

  endGraph(): GraphHandle {
    const out = new BigUint64Array(1);
    this.#check(this.#library.call.pd_graph_end(this.#live, out), 'end graph');
    return Number(out[0]) as GraphHandle;
  }

  launch(graph: GraphHandle): void {
    this.#check(this.#library.call.pd_graph_launch(this.#live, graph), 'launch graph');
  }

  async wait(): Promise<void> {
    const handle = this.#live;
    this.#check(this.#library.call.pd_event_record(handle, this.#marker), 'wait for stream');
    this.#waitCount++;
    try {
      if ((await this.#library.blocking.pd_stream_wait(handle)) === 0) return;
      this.#check(this.#library.call.pd_event_wait(this.#marker), 'work on a stream failed');
    } finally {
      this.#waitCount--;
      if (!this.#isOpen && this.#waitCount === 0) this.#destroy();
    }
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (this.#waitCount === 0) this.#destroy();
  }

  #destroy(): void {
    this.#check(this.#library.call.pd_stream_destroy(this.handle), 'close stream');
    this.#check(this.#library.call.pd_event_destroy(this.#marker), 'close stream');
    this.ops.close();
    this.#onClose();
  }

  get #live(): number {
    assert(this.#isOpen, 'a closed stream is not used');
    return this.handle;
  }

  #check(status: number, what: string): void {
    this.#library.check(status, what);
  }
}
