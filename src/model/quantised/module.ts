/** Quantised modules of a safetensors checkpoint as stored tensors. Which layout a module has is seen by
 *  its tensors; every shape is checked against the matrix that the architecture needs. Used by
 *  safetensors-checkpoint.ts. */
import type { StoredTensor } from '../checkpoint.js';
import { storedAwq } from './awq.js';
import { storedCompressed } from './compressed.js';
import { storedGptq } from './gptq.js';
import type { QuantisedModule } from './module-tensors.js';
import { storedMxfp4 } from './mxfp4.js';
import { storedBytes } from './scaled-bytes.js';
import type { QuantisationScheme } from './scheme.js';

/** null: the module is not quantised. @throws ModelError naming file and tensor */
export function quantisedModule(
  module: QuantisedModule,
  scheme: QuantisationScheme | null,
  shape: readonly [rowCount: number, k: number],
): StoredTensor | null {
  if (module.find('.qweight') !== null) {
    if (scheme?.method === 'gptq') return storedGptq(module, scheme.zeroOffset, shape);
    if (scheme?.method === 'awq') return storedAwq(module, shape);
  }
  if (module.find('.weight_packed') !== null) return storedCompressed(module, shape);
  if (module.find('_blocks') !== null && module.find('_scales') !== null) return storedMxfp4(module, shape);
  const weight = module.find('.weight');
  if (weight?.fileDtype === 'F8_E4M3' || weight?.fileDtype === 'I8') {
    return storedBytes(module, weight, scheme?.method === 'fp8' ? scheme.block : null, shape);
  }
  return null;
}
