/** A model on a device: weights in, logits out. Made by load.ts, run by engine/model-runner; knows nothing of
 *  requests. */
import type { Device, Stream } from '../device/device.js';
import type { Tensor } from '../device/tensor.js';
import type { WeightFormat } from '../device/weight-format.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { Batch, OnLayer } from './batch.js';
import type { ModelConfig } from './config.js';

export interface ModelLimits {
  /** Most query tokens of one forward pass. */
  readonly rowCountMax: number;
  /** Most rows whose logits are computed in one forward pass. */
  readonly logitRowCountMax: number;
}

export interface Model {
  readonly config: ModelConfig;
  readonly weightBytes: number;
  /** Buffers of a forward pass, on the device. */
  readonly activationBytes: number;
  readonly weightFormat: WeightFormat;
  /** [logitRowCountMax, vocab] f32; rows 0..logitRowCount-1 hold the result after forward. */
  readonly logits: Tensor;
  /** Enqueues one forward pass; no waiting, no allocation. */
  forward(stream: Stream, batch: Batch, cache: KvCache, onLayer?: OnLayer): void;
  close(): void;
}

export interface LoadProgress {
  readonly stage: 'weights' | 'dummy';
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface LoadOptions {
  readonly device: Device;
  readonly loadFormat: 'auto' | 'dummy';
  /** Weight format: the file's own where the device has it (the CPU has no f16: bf16) unless asked otherwise.
   *  On a GPU also the dtype of activations; on the CPU those are f32. */
  readonly dtype: 'auto' | 'f32' | 'bf16' | 'f16';
  readonly quantize: 'none' | 'int4' | 'int8' | 'fp8';
  readonly limits: ModelLimits;
  /** Longest context that rope tables are made for. */
  readonly maxModelTokenCount: number;
  readonly onProgress?: (progress: LoadProgress) => void;
}
