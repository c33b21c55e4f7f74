/** From a worker's configuration to its parts: device, model, KV cache. Used by worker.ts and `twostroke generate`. */
import type { Clock } from '../base/clock.js';
import type { Device, DeviceInfo } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import { openDevice } from '../device/native.js';
import { Engine } from '../engine/engine.js';
import type { EngineHooks } from '../engine/engine-options.js';
import type { StepTimeModel } from '../engine/pacer.js';
import { KvLayout } from '../kv/kv-layout.js';
import { type ModelConfig, readModelConfig } from '../model/config.js';
import { loadConfiguredModel } from '../model/load.js';
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
  stepTimes?: StepTimeModel,
): Promise<LoadedEngine> {
  const device = openDevice({ ...config.device, batchInvariant: config.batchInvariant ?? 'off' });
  const limits = stepLimitsOf(device.info.kind, config);
  const { maxModelTokenCount, prefixCaching, depth, blockTokenCount } = config;
  const modelConfig = readModelConfig(config.modelFolder);
  const dtype = kvDtypeOf(config, modelConfig);
  const layout = layoutFor(modelConfig, blockTokenCount, dtype);
  kvBlockCount(layout, { ...config, ...limits, automaticBytes: mostKvBytes(config, device.info) }); // fails before a long load, not after it
  const model = await loadConfiguredModel(config.modelFolder, modelConfig, {
    device,
    loadFormat: config.loadFormat,
    dtype: config.dtype,
    quantize: config.quantize,
    limits: { rowCountMax: limits.tokenBudget, logitRowCountMax: Math.min(limits.sequenceCountMax, limits.tokenBudget) },
    maxModelTokenCount,
    onProgress,
  });
  const parts = { device, model, ...limits, maxModelTokenCount, depth, clock };
  const automaticBytes = await automaticKvBytes(config, { ...parts, kv: { blockTokenCount, dtype } });
  const blockCount = kvBlockCount(layout, { ...config, ...limits, automaticBytes });
  const kv = { blockTokenCount, blockCount, dtype };
  return { device, model, engine: new Engine({ ...parts, kv, prefixCaching, ...(stepTimes && { stepTimes }) }, hooks) };
}

function kvDtypeOf(config: WorkerConfig, { dtype }: ModelConfig): Dtype {
  if (config.kvDtype !== 'auto') return config.kvDtype;
  return dtype === 'bf16' || dtype === 'f16' ? dtype : 'f32';
}

/** On a GPU what weights and steps leave is not known yet. */
function mostKvBytes({ deviceShareCount }: WorkerConfig, { kind, freeBytes }: DeviceInfo): number {
  return kind === 'cpu' ? cpuKvBytes(freeBytes, deviceShareCount) : freeBytes;
}

/** On a GPU the largest steps are run to see what they need; also when the size is given, so that the first request finds all ready. */
async function automaticKvBytes(config: WorkerConfig, parts: Parameters<typeof warmUp>[0]): Promise<number> {
  const { info } = parts.device;
  if (info.kind === 'cpu') return mostKvBytes(config, info);
  const { usedBytes } = await warmUp(parts);
  if (config.kvBytes !== undefined || config.blockCount !== undefined) return 0; // not asked
  const { gpuMemoryShare: share, deviceShareCount: workerCount, deviceLoadedCount: loadedCount = 0 } = config;
  return gpuKvBytes(info, { share, workerCount, loadedCount }, usedBytes);
}

function layoutFor({ layerCount, kvHeadCount, headDim }: ModelConfig, blockTokenCount: number, dtype: Dtype): KvLayout {
  return new KvLayout({ modelName: 'for size only', layerCount, kvHeadCount, headDim, blockTokenCount, dtype });
}
