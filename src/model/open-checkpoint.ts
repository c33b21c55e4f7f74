/** A model's tensors from whatever it is stored in: a folder of safetensors or a GGUF file. Used by
 *  load.ts. */
import type { Checkpoint } from './checkpoint.js';
import { readQuantisation } from './quantised/scheme.js';
import { SafetensorsCheckpoint } from './safetensors-checkpoint.js';

/** `model`: as resolveModelFolder gives it. Reads headers only. @throws ModelError */
export function openCheckpoint(model: string): Checkpoint {
  return SafetensorsCheckpoint.open(model, readQuantisation(model));
}
