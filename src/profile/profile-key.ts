/** Names what a profile holds for: a device and its threads, a model's shape and number formats. Used to find
 *  files and to name them. */
import type { ProfileKey } from '../router/cost-parameters.js';
import type { ReadyBody } from '../worker/messages.js';

export const profileVersion = 1;

type KeyFacts = Pick<ReadyBody, 'device' | 'kv' | 'weightFormat' | 'batchInvariant'>;

/** Of a worker that is ready. The model is named by its shape: weights of the same shape take the same
 *  time. */
export function profileKeyOf({ device, kv, weightFormat, batchInvariant }: KeyFacts): ProfileKey {
  return {
    deviceName: device.name,
    threadCount: device.threadCount,
    modelName: kv.modelName,
    weightFormat,
    kvDtype: kv.dtype,
    ...(batchInvariant === 'on' && device.kind === 'cuda' ? { batchInvariant } : {}), // a CPU always is, at no cost
    version: profileVersion,
  };
}

export function isSameKey(a: ProfileKey, b: ProfileKey): boolean {
  return (
    a.deviceName === b.deviceName &&
    a.threadCount === b.threadCount &&
    a.modelName === b.modelName &&
    a.weightFormat === b.weightFormat &&
    a.kvDtype === b.kvDtype &&
    a.batchInvariant === b.batchInvariant &&
    a.version === b.version
  );
}

/** Different keys may share a name only if they differ in punctuation alone; isSameKey has the last word. */
export function profileFileName({
  deviceName,
  threadCount,
  modelName,
  weightFormat,
  kvDtype,
  batchInvariant,
}: ProfileKey): string {
  const threads = threadCount > 0 ? `-${threadCount}t` : '';
  const invariance = batchInvariant === 'on' ? '-batch-invariant' : '';
  return `${slug(deviceName)}${threads}-${slug(modelName)}-${weightFormat}-kv-${kvDtype}${invariance}.json`;
}

function slug(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');
}
