/** The arrays one forward pass reads, already on the device. Made by engine/model-runner, read by the model
 *  families. */
import type { BatchView } from '../device/device.js';
import type { Pointer } from '../device/tensor.js';

export interface Batch {
  readonly view: BatchView;
  /** [rowCount] token ids; -1 - s means "the token last sampled into slot s". */
  readonly ids: Pointer;
  /** [slot] tokens sampled on the device. */
  readonly lastTokens: Pointer;
  /** [logitRowCount] rows whose logits are wanted, ascending. */
  readonly logitRows: Pointer;
  readonly logitRowCount: number;
}

/** Called while the forward pass is being enqueued, right after a layer's keys and values are in the
 *  cache. */
export type OnLayer = (layer: number) => void;
