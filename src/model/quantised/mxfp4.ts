/** MXFP4 as gpt-oss has it: experts' matrices in one tensor, `_blocks` [experts, n, k / 32, 16] bytes of
 *  two numbers and `_scales` [experts, n, k / 32] exponents. Used by module.ts. */
import { ModelError } from '../../base/errors.js';
import type { StoredTensor } from '../checkpoint.js';
import { readTensorBytes } from '../safetensors.js';
import { type QuantisedModule, required } from './module-tensors.js';

/** All experts' rows, one expert after the other. */
export function storedMxfp4(module: QuantisedModule, [rowCount, k]: readonly [number, number]): StoredTensor {
  const expertCount = module.find('_blocks')?.shape[0] ?? 0;
  if (k % 32 !== 0 || expertCount < 1 || rowCount % expertCount !== 0) {
    throw new ModelError(
      `${module.source}: "${module.name}": ${rowCount} rows of ${k} columns are no MXFP4 of ${expertCount} experts (32 columns a scale)`,
    );
  }
  const rows = rowCount / expertCount;
  const entry = required(module, '_blocks', ['U8'], [expertCount, rows, k / 32, 16]);
  const scales = required(module, '_scales', ['U8'], [expertCount, rows, k / 32]);
  return {
    entry,
    layout: { encoding: 'e2m1', rowStride: k / 8, columnStride: 1, groupColumns: 32, groupCount: k / 32 },
    readScaling: () => ({ scales: powersOfTwo(readTensorBytes(scales)), zeros: null, groups: null }),
  };
}

/** Exponents with a bias of 127 (e8m0) as numbers. */
export function powersOfTwo(exponents: Uint8Array): Float32Array<ArrayBuffer> {
  return Float32Array.from(exponents, (exponent) => 2 ** (exponent - 127));
}
