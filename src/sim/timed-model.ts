/** A model without weights, on a timed device. The engine asks a model for its shape, its logits' place and
 *  its forward pass; nothing more is here. Used by simulated-workers.ts. */
import type { Dtype } from '../device/dtype.js';
import { dtypeByteCounts } from '../device/dtype.js';
import type { ModelConfig } from '../model/config.js';
import type { Model } from '../model/model.js';
import type { TimedDevice, TimedStream } from './timed-device.js';

interface TimedModelShape {
  readonly kvBytesPerToken: number;
  readonly vocabCount: number;
  readonly logitRowCountMax: number;
}

/** Hand-overs push layer by layer: this many pieces show the overlap, and cost the simulation less than all
 *  layers of a big model. */
const layerCount = 4;
export const simulatedKvDtype: Dtype = 'bf16';

export function timedModel(
  device: TimedDevice,
  { kvBytesPerToken, vocabCount, logitRowCountMax }: TimedModelShape,
): Model {
  const headDim = Math.max(
    1,
    Math.round(kvBytesPerToken / (2 * layerCount * dtypeByteCounts[simulatedKvDtype])),
  );
  const config = {
    architecture: 'simulated',
    vocabCount,
    hiddenCount: headDim,
    layerCount,
    kvHeadCount: 1,
    headDim,
  };
  const model: Pick<
    Model,
    'weightBytes' | 'activationBytes' | 'weightFormat' | 'logits' | 'forward' | 'close'
  > = {
    weightBytes: 0,
    activationBytes: 0,
    weightFormat: simulatedKvDtype,
    logits: { pointer: device.allocate(4), shape: [logitRowCountMax, vocabCount], dtype: 'f32' },
    forward: (stream, batch, _cache, onLayer) =>
      (stream as unknown as TimedStream).forward(batch.ids, batch.view, layerCount, onLayer),
    close: () => {},
  };
  return { ...model, config: config as unknown as ModelConfig } as Model;
}
