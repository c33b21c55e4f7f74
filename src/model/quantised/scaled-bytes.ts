/** Numbers of one byte, fp8 (e4m3) or int8, in place of the weight, with a scale for the tensor, for each
 *  row, for each group of a row, or for each block of rows and columns (`weight_scale_inv`, partial blocks
 *  at the edges). Used by module.ts. */
import { ModelError } from '../../base/errors.js';
import type { Scaling, StoredTensor, TensorEntry } from '../checkpoint.js';
import { readFloats, readTensorBytes } from '../safetensors.js';
import { checkDtype, floatDtypes, groupColumnsOf, type QuantisedModule, required } from './module-tensors.js';

export function storedBytes(
  module: QuantisedModule,
  weight: TensorEntry,
  block: readonly [number, number] | null,
  [rowCount, k]: readonly [number, number],
): StoredTensor {
  const entry = required(module, '.weight', [weight.fileDtype], [rowCount, k]);
  const scale = module.find('.weight_scale_inv') ?? module.find('.weight_scale');
  if (scale === null) {
    throw new ModelError(
      `${entry.file}: tensor "${entry.name}" is ${entry.fileDtype} without a "${module.name}.weight_scale"`,
    );
  }
  checkDtype(scale, floatDtypes);
  const [blockRows, blockColumns] = blockOf(scale, block, rowCount, k);
  const groupCount = Math.ceil(k / blockColumns);
  const zeros = zerosOf(module, scale);
  const spread = (values: Float32Array) => spreadRows(values, rowCount, blockRows, groupCount);
  return {
    entry,
    layout: {
      encoding: weight.fileDtype === 'I8' ? 'i8' : 'fp8',
      rowStride: k,
      groupColumns: blockColumns,
      groupCount,
    },
    isSymmetric: zeros === null,
    readScaling: (): Scaling => ({
      scales: spread(readFloats(scale)),
      zeros: zeros === null ? null : spread(Float32Array.from(new Int8Array(readTensorBytes(zeros).buffer))),
      groups: null,
    }),
  };
}

/** Rows and columns that share a scale. @throws ModelError */
function blockOf(
  scale: TensorEntry,
  block: readonly [number, number] | null,
  rowCount: number,
  k: number,
): readonly [number, number] {
  const [rows = 1, columns = 1] = scale.shape;
  if (scale.shape.length <= 2 && rows === 1 && columns === 1) return [rowCount, k];
  if (scale.shape.length <= 2 && block === null && rows === rowCount)
    return [1, groupColumnsOf(scale, k, columns)];
  const [blockRows, blockColumns] = block ?? [128, 128];
  const isWhole =
    scale.shape.length === 2 &&
    rows === Math.ceil(rowCount / blockRows) &&
    columns === Math.ceil(k / blockColumns);
  if (isWhole && (columns === 1 || blockColumns % 16 === 0)) return [blockRows, blockColumns];
  throw new ModelError(
    `${scale.file}: tensor "${scale.name}" has shape [${scale.shape.join(', ')}]: for a matrix [${rowCount}, ${k}] that is no scale for the tensor, for ` +
      `each row, or for blocks of ${blockRows} x ${blockColumns}`,
  );
}

/** int8 zeros, shaped like the scales. */
function zerosOf(module: QuantisedModule, scale: TensorEntry): TensorEntry | null {
  return module.find('.weight_zero_point') === null
    ? null
    : required(module, '.weight_zero_point', ['I8'], scale.shape);
}

/** [blocks of rows, groups] to [rows, groups] */
function spreadRows(
  values: Float32Array,
  rowCount: number,
  blockRows: number,
  groupCount: number,
): Float32Array<ArrayBuffer> {
  const spread = new Float32Array(rowCount * groupCount);
  for (let row = 0; row < rowCount; row++) {
    const from = Math.floor(row / blockRows) * groupCount;
    spread.set(values.subarray(from, from + groupCount), row * groupCount);
  }
  return spread;
}
