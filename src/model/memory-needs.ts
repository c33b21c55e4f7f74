/** Whether a device can hold a model, from its shapes alone and before anything is allocated. Used by
 *  load.ts; the invariant: no memory is filled that the device does not have, so that absurd shapes end in
 *  one message and not in an exhausted machine. */
import { ModelError } from '../base/errors.js';
import { byteCount } from '../device/tensor.js';
import type { ModelConfig } from './config.js';
import { parameterCount } from './parameter-count.js';

/** One host buffer, through which the table goes, holds less. */
const ropeBytesMax = 2 ** 32;

/** At least: matrices are padded, and some are kept twice. @throws ModelError */
export function requireMemoryFor(
  config: ModelConfig,
  {
    bytesPerParameter,
    positionCount,
    freeBytes,
  }: { readonly bytesPerParameter: number; readonly positionCount: number; readonly freeBytes: number },
): void {
  const ropeBytes = byteCount({ shape: [positionCount, config.rope.rotaryCount], dtype: 'f32' });
  if (ropeBytes >= ropeBytesMax) {
    throw new ModelError(
      `a context of ${positionCount} tokens needs ${gib(ropeBytes)} of rotary tables (less than ${gib(ropeBytesMax)} are ` +
        'supported): give a shorter --max-model-len',
    );
  }
  requireMemory(parameterCount(config) * bytesPerParameter + ropeBytes, freeBytes);
}

/** @throws ModelError */
export function requireMemory(neededBytes: number, freeBytes: number): void {
  if (neededBytes <= freeBytes) return;
  throw new ModelError(
    `the shapes in config.json need at least ${gib(neededBytes)} for weights and buffers, the device has ${gib(freeBytes)} free: ` +
      'use a smaller model, --quantize, or a device with more memory',
  );
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
