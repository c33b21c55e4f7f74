/** From a worker's configuration to its parts: device, model, KV cache. Used by worker.ts and `twostroke generate`. */
import type { Clock } from '../base/clock.js';
import type { Device } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import { openDevice } from '../device/native.js';
import { Engine } from '../engine/engine.js';
import type { EngineHooks } from '../engine/engine-options.js';
import { KvLayout } from '../kv/kv-layout.js';
import type { ModelConfig } from '../model/config.js';
import { loadModel } from '../model/load.js';
import type { LoadProgress, Model } from '../model/model.js';
import { cpuKvBytes, gpuKvBytes, kvBlockCount } from './kv-sizing.js';
import type { WorkerConfig } from './messages.js';
import { stepLimitsOf } from './step-limits.js';
import { warmUp } from './warm-up.js';

export interface LoadedEngine {
  readonly device: Device;
  readonly model: Model;
  readonly engine: Engine;
}

/** Throws ModelError or DeviceError; nothing stays allocated that the end of the process does not free. */
export async function loadEngine(
  config: WorkerConfig,
  clock: Clock,
  hooks: EngineHooks,
  onProgress: (progress: LoadProgress) => void,
): Promise<LoadedEngine> {
  const device = openDevice({ ...config.device, batchInvariant: config.batchInvariant ?? 'off' });
  const limits = stepLimitsOf(device.info.kind, config);
  const { maxModelTokenCount, prefixCaching, depth, blockTokenCount } = config;
  const model = await loadModel(config.modelFolder, {
    device,
    loadFormat: config.loadFormat,
    dtype: config.dtype,
    quantize: config.quantize,
    limits: { rowCountMax: limits.tokenBudget, logitRowCountMax: Math.min(limits.sequenceCountMax, limits.tokenBudget) },
    maxModelTokenCount,
    onProgress,
  });
  const dtype = kvDtypeOf(config, model);
  const parts = { device, model, ...limits, maxModelTokenCount, depth, clock };
  const automaticBytes = await automaticKvBytes(config, { ...parts, kv: { blockTokenCount, dtype } });
  const layout = layoutFor(model.config, blockTokenCount, dtype);
  const blockCount = kvBlockCount(layout, { ...config, ...limits, automaticBytes });
  const kv = { blockTokenCount, blockCount, dtype };
  return { device, model, engine: new Engine({ ...parts, kv, prefixCaching }, hooks) };
}

function kvDtypeOf(config: WorkerConfig, model: Model): Dtype {
  if (config.kvDtype !== 'auto') return config.kvDtype;
  const { dtype } = model.config;
  return dtype === 'bf16' || dtype === 'f16' ? dtype : 'f32';
}

/** On a GPU the largest steps are run to see what they need; also when the size is given, so that the first request finds all ready. */
async function automaticKvBytes(config: WorkerConfig, parts: Parameters<typeof warmUp>[0]): Promise<number> {
  const { info } = parts.device;
  if (info.kind === 'cpu') return cpuKvBytes(info.freeBytes, config.deviceShareCount);
  const { usedBytes } = await warmUp(parts);
  if (config.kvBytes !== undefined || config.blockCount !== undefined) return 0; // not asked
  const { gpuMemoryShare: share, deviceShareCount: workerCount, deviceLoadedCount: loadedCount = 0 } = config;
  return gpuKvBytes(info, { share, workerCount, loadedCount }, usedBytes);
}

function layoutFor({ layerCount, kvHeadCount, headDim }: ModelConfig, blockTokenCount: number, dtype: Dtype): KvLayout {
  return new KvLayout({ modelName: 'for size only', layerCount, kvHeadCount, headDim, blockTokenCount, dtype });
}
