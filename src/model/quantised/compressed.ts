/** compressed-tensors, packed: numbers along k ([n, k / 8] words of 4 bits, stored as q + 8; [n, k / 4] of
 *  8, as q + 128), scales [n, groups], zeros packed along the rows, or MXFP4 as bytes of two. Used by
 *  module.ts; its unpacked formats are scaled-bytes.ts. */
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
import { powersOfTwo } from './mxfp4.js';

export function storedCompressed(
  module: QuantisedModule,
  [rowCount, k]: readonly [number, number],
): StoredTensor {
  const packed = module.find('.weight_packed');
  if (packed?.fileDtype === 'U8' && module.find('.weight_scale')?.fileDtype === 'U8')
    return storedFp4(module, [rowCount, k]);
  const bits = ((packed?.shape[1] ?? 0) * 32) / k;
  if (packed === null || (bits !== 4 && bits !== 8)) {
    throw new ModelError(
      `${packed?.file}: tensor "${packed?.name}" of ${packed?.fileDtype} has shape [${packed?.shape.join(', ')}]: for a matrix [${rowCount}, ${k}] ` +
        'that is no packing of 4 or 8 bits, and no other is supported: use a checkpoint of 4 or 8 bits, or a GGUF file',
    );
  }
  const perWord = 32 / bits;
  const entry = required(module, '.weight_packed', ['I32'], [rowCount, k / perWord]);
  const groupCount = module.find('.weight_scale')?.shape[1] ?? 0;
  const scales = required(module, '.weight_scale', floatDtypes, [rowCount, groupCount]);
  const hasZeros = module.find('.weight_zero_point') !== null;
  const zeros = hasZeros
    ? required(module, '.weight_zero_point', ['I32'], [Math.ceil(rowCount / perWord), groupCount])
    : null;
  const groupColumns = groupColumnsOf(scales, k, groupCount);
  const indices =
    module.find('.weight_g_idx') === null ? null : required(module, '.weight_g_idx', ['I32'], [k]);
  const groups = indices === null ? null : readGroups(indices, groupColumns, groupCount);
  return {
    entry,
    isSymmetric: zeros === null,
    isInOrder: groups === null,
    layout: {
      encoding: bits === 4 ? 'u4' : 'u8',
      rowStride: k / perWord,
      columnStride: 1,
      groupColumns,
      groupCount,
    },
    readScaling: (): Scaling => ({
      scales: readFloats(scales),
      zeros:
        zeros === null
          ? new Float32Array(rowCount * groupCount).fill(2 ** (bits - 1))
          : readZeros(zeros, { bits, rowCount, groupCount }),
      groups,
    }),
  };
}

/** [rows, groups]; like the numbers, zeros are stored with half the range added. */
function readZeros(
  entry: TensorEntry,
  { bits, rowCount, groupCount }: { bits: number; rowCount: number; groupCount: number },
): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(readTensorBytes(entry).buffer);
  const perWord = 32 / bits;
  const zeros = new Float32Array(rowCount * groupCount);
  for (let row = 0; row < rowCount; row++) {
    for (let group = 0; group < groupCount; group++) {
      const word = words[Math.floor(row / perWord) * groupCount + group];
      zeros[row * groupCount + group] = unpacked(word, bits, row % perWord);
    }
  }
  return zeros;
}

/** Bytes of two numbers along k, a power of two for each 32. */
function storedFp4(module: QuantisedModule, [rowCount, k]: readonly [number, number]): StoredTensor {
  if (k % 32 !== 0)
    throw new ModelError(`${module.source}: "${module.name}" has ${k} columns, MXFP4 needs a multiple of 32`);
  const entry = required(module, '.weight_packed', ['U8'], [rowCount, k / 2]);
  const scales = required(module, '.weight_scale', ['U8'], [rowCount, k / 32]);
  return {
    entry,
    layout: { encoding: 'e2m1', rowStride: k / 8, columnStride: 1, groupColumns: 32, groupCount: k / 32 },
    readScaling: () => ({ scales: powersOfTwo(readTensorBytes(scales)), zeros: null, groups: null }),
  };
}
