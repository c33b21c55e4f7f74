/** The structs of native/pd.h that ops take by address, written into one piece of native memory per stream.
 *  Used by native-ops.ts.
 *  Invariant: the callee copies a struct during the call, so the next call may overwrite it. */
import type { BatchView, KvLayerView, KvPlace, KvRange } from './device.js';
import { dtypeCodes } from './dtype.js';
import { encodingCode, type StoredMatrix } from './stored-matrix.js';
import type { Pointer } from './tensor.js';

export const layerOffset = 0;
export const batchOffset = 64;
export const structBytes = 128;

/** A DataView setter for integers up to 2^53, without a bigint. */
export function setUint64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 0x1_0000_0000, true);
  view.setUint32(offset + 4, Math.floor(value / 0x1_0000_0000), true);
}

/** PdKvLayer, 56 bytes. */
export function writeLayer(view: DataView, layer: KvLayerView): void {
  setUint64(view, layerOffset, layer.base);
  setUint64(view, layerOffset + 8, layer.blockBytes);
  setUint64(view, layerOffset + 16, layer.keyOffset);
  setUint64(view, layerOffset + 24, layer.valueOffset);
  view.setInt32(layerOffset + 32, dtypeCodes[layer.dtype], true);
  view.setInt32(layerOffset + 36, layer.blockTokenCount, true);
  view.setInt32(layerOffset + 40, layer.kvHeadCount, true);
  view.setInt32(layerOffset + 44, layer.headDim, true);
  view.setInt32(layerOffset + 48, layer.blockCount, true);
}

/** PdKvPlace, 56 bytes. */
export function kvPlaceStruct(place: KvPlace): DataView {
  const view = new DataView(new ArrayBuffer(56));
  const { base, blockBytes, layerBytes, valueOffset, scaleOffset } = place;
  for (const [i, value] of [base, blockBytes, layerBytes, valueOffset, scaleOffset].entries())
    setUint64(view, 8 * i, value);
  const counts = [dtypeCodes[place.dtype], place.blockTokenCount, place.headCount, place.firstHead];
  for (const [i, value] of counts.entries()) view.setInt32(40 + 4 * i, value, true);
  return view;
}

/** PdKvRange, 40 bytes. */
export function kvRangeStruct(range: KvRange): Int32Array {
  const {
    targetStart,
    sourceStart,
    tokenCount,
    targetLayer,
    sourceLayer,
    layerCount,
    firstHead,
    headCount,
    headDim,
  } = range;
  return Int32Array.of(
    ...[
      targetStart,
      sourceStart,
      tokenCount,
      targetLayer,
      sourceLayer,
      layerCount,
      firstHead,
      headCount,
      headDim,
      0,
    ],
  );
}

/** PdMatrix, 80 bytes. */
export function matrixStruct(matrix: StoredMatrix): DataView {
  const view = new DataView(new ArrayBuffer(80));
  const { pointer, scales = 0, zeros = 0, groups = 0, byteCount, rowStride, columnStride = 0 } = matrix;
  for (const [i, value] of [pointer, scales, zeros, groups, byteCount, rowStride, columnStride].entries())
    setUint64(view, 8 * i, value);
  const {
    groupColumns = 0,
    groupCount = 0,
    wordsAlong = 'columns',
    wordOrder = 'ascending',
    pairedRows = 0,
  } = matrix;
  const wordRows = wordsAlong === 'rows' ? 8 : 1;
  const isInterleaved = wordOrder === 'awq' ? 1 : 0;
  const counts = [
    encodingCode(matrix.encoding),
    groupColumns,
    groupCount,
    wordRows,
    isInterleaved,
    pairedRows,
  ];
  for (const [i, value] of counts.entries()) view.setInt32(56 + 4 * i, value, true);
  return view;
}

/** PdBatch, 64 bytes. */
export function writeBatch(view: DataView, batch: BatchView): void {
  view.setInt32(batchOffset, batch.rowCount, true);
  view.setInt32(batchOffset + 4, batch.sequenceCount, true);
  view.setInt32(batchOffset + 8, batch.blockTableStride, true);
  view.setInt32(batchOffset + 12, batch.queryCountMax, true);
  view.setInt32(batchOffset + 16, batch.kvCountMax, true);
  view.setInt32(batchOffset + 20, batch.singleQueryCount ?? 0, true);
  const pointers: readonly Pointer[] = [
    batch.positions,
    batch.slots,
    batch.queryStart,
    batch.kvCount,
    batch.blockTable,
  ];
  for (const [i, pointer] of pointers.entries()) setUint64(view, batchOffset + 24 + 8 * i, pointer);
}
