/** AWQ, version "gemm": numbers and zeros packed along the rows ([k, n / 8] and [groups, n / 8] words),
 *  eight of a word in the order 0 2 4 6 1 3 5 7, scales [groups, n]. Used by module.ts. */
import { ModelError } from '../../base/errors.js';
import type { Scaling, StoredTensor, TensorEntry } from '../checkpoint.js';
import { readFloats, readTensorBytes } from '../safetensors.js';
import { floatDtypes, groupColumnsOf, type QuantisedModule, required, unpacked } from './module-tensors.js';
import { transposed } from './transposed.js';

export function storedAwq(module: QuantisedModule, [rowCount, k]: readonly [number, number]): StoredTensor {
  if (rowCount % 8 !== 0)
    throw new ModelError(
      `${module.source}: "${module.name}" has ${rowCount} rows, AWQ needs a multiple of 8`,
    );
  const entry = required(module, '.qweight', ['I32'], [k, rowCount / 8]);
  const groupCount = module.find('.scales')?.shape[0] ?? 0;
  const scales = required(module, '.scales', floatDtypes, [groupCount, rowCount]);
  const zeros =
    module.find('.qzeros') === null ? null : required(module, '.qzeros', ['I32'], [groupCount, rowCount / 8]);
  const groupColumns = groupColumnsOf(scales, k, groupCount);
  return {
    entry,
    layout: {
      encoding: 'u4',
      rowStride: 1,
      columnStride: rowCount / 8,
      wordsAlong: 'rows',
      wordOrder: 'awq',
      groupColumns,
      groupCount,
    },
    readScaling: (): Scaling => ({
      scales: transposed(readFloats(scales), groupCount, rowCount),
      zeros:
        zeros === null
          ? new Float32Array(groupCount * rowCount).fill(8)
          : readZeros(zeros, groupCount, rowCount),
      groups: null,
    }),
  };
}

/** Where row r % 8 lies in a word. */
const places = [0, 4, 1, 5, 2, 6, 3, 7];

/** [rows, groups] */
function readZeros(entry: TensorEntry, groupCount: number, rowCount: number): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(readTensorBytes(entry).buffer);
  const zeros = new Float32Array(rowCount * groupCount);
  for (let row = 0; row < rowCount; row++) {
    for (let group = 0; group < groupCount; group++) {
      const word = words[(group * rowCount) / 8 + Math.floor(row / 8)];
      zeros[row * groupCount + group] = unpacked(word, 4, places[row % 8] ?? 0);
    }
  }
  return zeros;
}
