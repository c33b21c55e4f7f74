/** The buffers one forward pass writes, allocated once for the most rows a step may have. Used by decoder.ts;
 *  every step overwrites them, so steps of one model must follow each other on one stream. */
import type { Device } from '../../device/device.js';
import type { Dtype } from '../../device/dtype.js';
import { byteCount, type Tensor } from '../../device/tensor.js';
import type { ModelConfig } from '../config.js';
import type { ModelLimits } from '../model.js';

/** R = rowCountMax, L = logitRowCountMax; dtype: activationDtype, unless said. */
export interface Activations {
  readonly residual: Tensor; // [R, hidden] the residual stream
  readonly normed: Tensor; // [R, hidden] its norm: what attention and feed-forward read
  readonly update: Tensor; // [R, hidden] what they add to it
  readonly queryKeyValue: Tensor; // [R, (heads + 2 kvHeads) headDim]
  readonly attended: Tensor; // [R, heads headDim]
  readonly gateUp: Tensor; // [R, 2 inter]
  readonly activated: Tensor; // [R, inter]
  readonly lastResidual: Tensor; // [L, hidden] rows whose logits are wanted
  readonly lastAttended: Tensor; // [L, heads headDim]
  readonly logits: Tensor; // [L, vocab] f32
  readonly experts: ExpertActivations | null;
}

/** P = R * experts per token */
export interface ExpertActivations {
  readonly routerLogits: Tensor; // [R, experts] f32
  readonly ids: Tensor; // [R, expertsPerToken] i32
  readonly weights: Tensor; // [R, expertsPerToken] f32
  readonly gateUp: Tensor; // [P, 2 moeInter]
  readonly activated: Tensor; // [P, moeInter]
  readonly outputs: Tensor; // [P, hidden]
}

/** Everything allocated; `release` gives it all back. */
export function allocateActivations(
  device: Device,
  config: ModelConfig,
  limits: ModelLimits,
  activationDtype: Dtype,
): { readonly activations: Activations; readonly bytes: number; readonly release: () => void } {
  const owned: Tensor[] = [];
  const allocate = (shape: readonly number[], dtype: Dtype = activationDtype): Tensor => {
    const tensor = { pointer: device.allocate(byteCount({ shape, dtype })), shape, dtype };
    owned.push(tensor);
    return tensor;
  };
  const release = () => {
    for (const tensor of owned.splice(0)) device.release(tensor.pointer);
  };
  try {
    const activations = makeActivations(config, limits, allocate);
    return { activations, bytes: owned.reduce((sum, tensor) => sum + byteCount(tensor), 0), release };
  } catch (error) {
    release();
    throw error;
  }
}

function makeActivations(
  config: ModelConfig,
  limits: ModelLimits,
  allocate: (shape: readonly number[], dtype?: Dtype) => Tensor,
): Activations {
  const { hiddenCount, headDim, interCount, moe } = config;
  const { rowCountMax, logitRowCountMax } = limits;
  const queryCount = config.headCount * headDim;
  return {
    residual: allocate([rowCountMax, hiddenCount]),
    normed: allocate([rowCountMax, hiddenCount]),
    update: allocate([rowCountMax, hiddenCount]),
    queryKeyValue: allocate([rowCountMax, queryCount + 2 * config.kvHeadCount * headDim]),
    attended: allocate([rowCountMax, queryCount]),
    gateUp: allocate([rowCountMax, 2 * interCount]),
    activated: allocate([rowCountMax, interCount]),
    lastResidual: allocate([logitRowCountMax, hiddenCount]),
    lastAttended: allocate([logitRowCountMax, queryCount]),
    logits: allocate([logitRowCountMax, config.vocabCount], 'f32'),
    experts: moe && {
      routerLogits: allocate([rowCountMax, moe.expertCount], 'f32'),
      ids: allocate([rowCountMax, moe.expertsPerToken], 'i32'),
      weights: allocate([rowCountMax, moe.expertsPerToken], 'f32'),
      gateUp: allocate([rowCountMax * moe.expertsPerToken, 2 * moe.interCount]),
      activated: allocate([rowCountMax * moe.expertsPerToken, moe.interCount]),
      outputs: allocate([rowCountMax * moe.expertsPerToken, hiddenCount]),
    },
  };
}
