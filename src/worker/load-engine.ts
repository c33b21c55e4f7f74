/** From a worker's configuration to its parts: device, model, KV cache. Used by worker.ts. */
import type { Clock } from '../base/clock.js';
import { ModelError } from '../base/errors.js';
import type { Device } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import { openDevice } from '../device/native.js';
import { Engine } from '../engine/engine.js';
import type { EngineHooks } from '../engine/engine-options.js';
import { KvLayout } from '../kv/kv-layout.js';
import { type ModelConfig, readModelConfig } from '../model/config.js';
import { loadModel } from '../model/load.js';
import type { LoadProgress, Model } from '../model/model.js';
import type { WorkerConfig } from './messages.js';

export interface LoadedEngine {
  readonly device: Device;
  readonly model: Model;
  readonly engine: Engine;
}

/** Without a wish, on the CPU: this share of the free memory, but not more than every seat with a full context needs, nor this many bytes. */
const freeMemoryShare = 0.3;
const cpuKvBytesMax = 8 * 2 ** 30;
/** On a GPU: left for the driver's context, cuBLASLt's workspace and graphs of each worker. */
const gpuReserveBytes = 2 ** 30;

/** Throws ModelError or DeviceError; nothing stays allocated that the end of the process does not free. */
export async function loadEngine(
  config: WorkerConfig,
  clock: Clock,
  hooks: EngineHooks,
  onProgress: (progress: LoadProgress) => void,
): Promise<LoadedEngine> {
  const device = openDevice({ ...config.device, batchInvariant: config.batchInvariant ?? 'off' });
  const modelConfig = readModelConfig(config.modelFolder);
  const logitRowCountMax = Math.min(config.sequenceCountMax, config.tokenBudget);
  const model = await loadModel(config.modelFolder, {
    device,
    loadFormat: config.loadFormat,
    dtype: config.dtype,
    quantize: config.quantize,
    limits: { rowCountMax: config.tokenBudget, logitRowCountMax },
    maxModelTokenCount: config.maxModelTokenCount,
    onProgress,
  });
  const dtype = kvDtypeOf(config, model);
  const blockCount = kvBlockCount(config, modelConfig, dtype, automaticKvBytes(config, model, device));
  const { blockTokenCount, tokenBudget, prefillChunkTokenCount, sequenceCountMax, maxModelTokenCount, prefixCaching, depth } =
    config;
  const limits = { tokenBudget, prefillChunkTokenCount, sequenceCountMax, maxModelTokenCount };
  const kv = { blockTokenCount, blockCount, dtype };
  return { device, model, engine: new Engine({ device, model, kv, ...limits, prefixCaching, depth, clock }, hooks) };
}

function kvDtypeOf(config: WorkerConfig, model: Model): Dtype {
  if (config.kvDtype !== 'auto') return config.kvDtype;
  const { dtype } = model.config;
  return dtype === 'bf16' || dtype === 'f16' ? dtype : 'f32';
}

function automaticKvBytes(config: WorkerConfig, model: Model, device: Device): number {
  const { kind, totalBytes, freeBytes } = device.info;
  if (kind === 'cpu') return Math.min((freeMemoryShare * freeBytes) / config.deviceShareCount, cpuKvBytesMax);
  const share = (config.gpuMemoryShare * totalBytes) / config.deviceShareCount;
  const left = share - model.weightBytes - model.activationBytes - gpuReserveBytes;
  return Math.max(0, Math.min(left, device.readFreeBytes() - gpuReserveBytes));
}

/** Throws ModelError when not even one full context fits. */
function kvBlockCount(config: WorkerConfig, model: ModelConfig, dtype: Dtype, automaticBytes: number): number {
  const { layerCount, kvHeadCount, headDim } = model;
  const { blockTokenCount, maxModelTokenCount, sequenceCountMax } = config;
  const layout = new KvLayout({ modelName: 'for size only', layerCount, kvHeadCount, headDim, blockTokenCount, dtype });
  const contextBlockCount = layout.blockCountFor(maxModelTokenCount);
  const fittingCount = Math.floor((config.kvBytes ?? automaticBytes) / layout.blockBytes);
  const chosenCount = config.kvBytes === undefined ? Math.min(fittingCount, sequenceCountMax * contextBlockCount) : fittingCount;
  const blockCount = config.blockCount ?? chosenCount;
  if (blockCount >= contextBlockCount) return blockCount;
  const needed = `one context of ${maxModelTokenCount} tokens needs ${contextBlockCount} KV blocks of ${layout.blockBytes} bytes`;
  throw new ModelError(`${needed}, there are ${blockCount}: give more KV memory, or a shorter maximum model length`);
}
