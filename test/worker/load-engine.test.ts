/** A load that fails gives back what it took: in a program of one's own the process goes on. */
import { afterEach, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { NativeDevice } from '../../src/device/native-device.js';
import { findLocalModel } from '../../src/hub/find-model.js';
import { Decoder } from '../../src/model/families/decoder.js';
import { loadEngine } from '../../src/worker/load-engine.js';
import type { WorkerConfig } from '../../src/worker/messages.js';

const config: WorkerConfig = {
  modelFolder: findLocalModel('demo'),
  loadFormat: 'auto',
  dtype: 'auto',
  kvDtype: 'auto',
  quantize: 'none',
  blockTokenCount: 16,
  gpuMemoryShare: 0.9,
  maxModelTokenCount: 4096,
  prefixCaching: 'off',
  depth: 2,
  role: 'any',
  device: { kind: 'cpu', index: 0, threadCount: 1 },
  deviceShareCount: 1,
  heartbeatEveryMs: 0,
};

afterEach(() => vi.restoreAllMocks());

it.each([
  { what: 'a model that is not there', wrong: { modelFolder: '/nowhere' }, modelCount: 0 },
  { what: 'a KV cache that is too small', wrong: { blockCount: 2 }, modelCount: 0 },
  {
    what: 'a KV cache that is too large, found when the model is loaded',
    wrong: { blockCount: 2 ** 40 },
    modelCount: 1,
  },
])('$what', async ({ wrong, modelCount }) => {
  const device = vi.spyOn(NativeDevice.prototype, 'close');
  const model = vi.spyOn(Decoder.prototype, 'close');
  await expect(loadEngine({ ...config, ...wrong }, systemClock, {}, () => undefined)).rejects.toThrow();
  expect(device).toHaveBeenCalledTimes(1);
  expect(model).toHaveBeenCalledTimes(modelCount);
});
