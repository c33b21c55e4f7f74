/** A model's tensors from whatever it is stored in: a folder of safetensors or a GGUF file. Used by
 *  load.ts. */
import type { Checkpoint } from './checkpoint.js';
import { GgufCheckpoint } from './gguf/gguf-checkpoint.js';
import { ggufFileOf } from './gguf/gguf-file.js';
import { readQuantisation } from './quantised/scheme.js';
import { SafetensorsCheckpoint } from './safetensors-checkpoint.js';

/** `model`: a folder or a GGUF file. Reads headers only. @throws ModelError */
export function openCheckpoint(model: string): Checkpoint {
  const file = ggufFileOf(model);
  if (file !== null) return GgufCheckpoint.open(file);
  return SafetensorsCheckpoint.open(model, readQuantisation(model));
}
