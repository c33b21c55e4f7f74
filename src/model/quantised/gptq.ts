/** GPTQ: numbers packed along k ([k / 8, n] words of 4 bits, [k / 4, n] of 8), scales [groups, n], zeros
 *  packed [groups, n / 8], and g_idx, the group of each column, which act-order leaves in any order. Used
 *  by module.ts. */
import { ModelError } from '../../base/errors.js';
import type { Scaling, StoredTensor, TensorEntry } from '../checkpoint.js';
import { readFloats, readTensorBytes } from '../safetensors.js';
import {
  floatDtypes,
  groupColumnsOf,
  type QuantisedModule,
  readGroups,
  required,
  unpacked,
} from './module-tensors.js';
import { transposed } from './transposed.js';

export function storedGptq(
  module: QuantisedModule,
  zeroOffset: 0 | 1,
  [rowCount, k]: readonly [number, number],
): StoredTensor {
  const weight = module.find('.qweight');
  const bits = ((weight?.shape[0] ?? 0) * 32) / k;
  if (weight === null || (bits !== 4 && bits !== 8)) {
    throw new ModelError(
      `${weight?.file}: tensor "${weight?.name}" has shape [${weight?.shape.join(', ')}]: for a matrix [${rowCount}, ${k}] that is no GPTQ of 4 or ` +
        '8 bits, and no other is supported: use a checkpoint of 4 or 8 bits, or a GGUF file',
    );
  }
  const perWord = 32 / bits;
  const entry = required(module, '.qweight', ['I32'], [k / perWord, rowCount]);
  const groupCount = module.find('.scales')?.shape[0] ?? 0;
  const scales = required(module, '.scales', floatDtypes, [groupCount, rowCount]);
  const zeros = required(module, '.qzeros', ['I32'], [groupCount, Math.ceil(rowCount / perWord)]);
  const groupColumns = groupColumnsOf(scales, k, groupCount);
  const indices = module.find('.g_idx') === null ? null : required(module, '.g_idx', ['I32'], [k]);
  const groups = indices === null ? null : readGroups(indices, groupColumns, groupCount);
  return {
    entry,
    layout: {
      encoding: bits === 4 ? 'u4' : 'u8',
      rowStride: 1,
      columnStride: rowCount,
      groupColumns,
      groupCount,
    },
    isInOrder: groups === null,
    readScaling: (): Scaling => ({
      scales: transposed(readFloats(scales), groupCount, rowCount),
      zeros: transposed(readZeros(zeros, { bits, zeroOffset, groupCount, rowCount }), groupCount, rowCount),
      groups,
    }),
  };
}

/** [groups, rows] */
function readZeros(
  entry: TensorEntry,
  {
    bits,
    zeroOffset,
    groupCount,
    rowCount,
  }: { bits: number; zeroOffset: number; groupCount: number; rowCount: number },
): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(readTensorBytes(entry).buffer);
  const perWord = 32 / bits;
  const perRow = Math.ceil(rowCount / perWord);
  const zeros = new Float32Array(groupCount * rowCount);
  for (let group = 0; group < groupCount; group++) {
    for (let row = 0; row < rowCount; row++) {
      const word = words[group * perRow + Math.floor(row / perWord)];
      zeros[group * rowCount + row] = unpacked(word, bits, row % perWord) + zeroOffset;
    }
  }
  return zeros;
}
