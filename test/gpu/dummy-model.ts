/** Qwen3-8B's shape with random weights: what the benchmarks and the batch-invariance test run on. Used by
 *  bench.ts and invariance.ts. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Device } from '../../src/device/device.js';
import { loadModel } from '../../src/model/load.js';
import type { LoadOptions, Model } from '../../src/model/model.js';
import { root } from './rig.js';

export interface DummyOptions {
  readonly layerCount?: number;
  readonly quantize?: LoadOptions['quantize'];
}

export const dummyLimits = { rowCountMax: 2048, logitRowCountMax: 256 };

export function loadDummy(
  device: Device,
  { layerCount = 36, quantize = 'none' }: DummyOptions = {},
): Promise<Model> {
  const folder = path.join(process.env.OUT ?? '/tmp', `qwen3-8b-shape-${layerCount}`);
  mkdirSync(folder, { recursive: true });
  const config = JSON.parse(
    readFileSync(path.join(root, 'models', 'shape-qwen3-8b', 'config.json'), 'utf8'),
  ) as object;
  writeFileSync(
    path.join(folder, 'config.json'),
    JSON.stringify({ ...config, num_hidden_layers: layerCount }),
  );
  const options = {
    device,
    limits: dummyLimits,
    loadFormat: 'dummy',
    dtype: 'bf16',
    quantize,
    maxModelTokenCount: 8192,
  } as const;
  return loadModel(folder, options);
}
