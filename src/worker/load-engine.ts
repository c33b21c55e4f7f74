/** From a worker's configuration to its parts: device, model, KV cache. Used by worker.ts and library/. */
import type { Clock } from '../base/clock.js';
import type { Device, DeviceInfo } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import { openDevice } from '../device/native.js';
import { Engine } from '../engine/engine.js';
import type { EngineHooks, StepTimeModel } from '../engine/engine-options.js';
import { KvLayout } from '../kv/kv-layout.js';
import { type ModelConfig, readModelConfig } from '../model/config.js';
import { loadConfiguredModel } from '../model/load.js';
import type { LoadProgress, Model } from '../model/model.js';
import { cpuKvBytes, gpuKvBytes, kvBlockCount } from './kv-sizing.js';
import { MaskThread } from './masks/mask-thread.js';
import type { WorkerConfig } from './messages.js';
import { type StepLimits, stepLimitsOf } from './step-limits.js';
import { warmUp } from './warm-up.js';

export interface LoadedEngine {
  readonly device: Device;
  readonly model: Model;
  readonly engine: Engine;
  /** To be closed with the engine; null: it enforces no grammars. */
  readonly masks: MaskThread | null;
}

/** Throws ModelError or DeviceError; then nothing stays allocated. */
export async function loadEngine(
  config: WorkerConfig,
  clock: Clock,
  hooks: EngineHooks,
  onProgress: (progress: LoadProgress) => void,
  stepTimes?: StepTimeModel,
): Promise<LoadedEngine> {
  const device = openDevice({ ...config.device, batchInvariant: config.batchInvariant ?? 'off' });
  let model: Model | null = null;
  try {
    const sizes = sizesOf(config, device.info); // fails before a long load, not after it
    model = await loadModelFor(config, sizes, device, onProgress);
    const masks = new MaskThread({ folder: config.modelFolder, vocabCount: model.config.vocabCount, clock });
    const engine = await engineFor(config, sizes, { device, model, clock, masks }, hooks, stepTimes);
    return { device, model, engine, masks };
  } catch (error) {
    model?.close();
    device.close();
    throw error;
  }
}

/** What configuration and model folder say of the sizes. */
interface Sizes {
  readonly modelConfig: ModelConfig;
  readonly limits: StepLimits;
  readonly layout: KvLayout;
}

/** Throws ModelError when not even all the memory would hold one context. */
function sizesOf(config: WorkerConfig, info: DeviceInfo): Sizes {
  const limits = stepLimitsOf(info.kind, config);
  const modelConfig = readModelConfig(config.modelFolder);
  const layout = layoutFor(modelConfig, config.blockTokenCount, kvDtypeOf(config, modelConfig));
  kvBlockCount(layout, { ...config, ...limits, automaticBytes: mostKvBytes(config, info) });
  return { modelConfig, limits, layout };
}

function loadModelFor(
  config: WorkerConfig,
  { modelConfig, limits: { tokenBudget, sequenceCountMax } }: Sizes,
  device: Device,
  onProgress: (progress: LoadProgress) => void,
): Promise<Model> {
  return loadConfiguredModel(config.modelFolder, modelConfig, {
    device,
    loadFormat: config.loadFormat,
    dtype: config.dtype,
    quantize: config.quantize,
    limits: { rowCountMax: tokenBudget, logitRowCountMax: Math.min(sequenceCountMax, tokenBudget) },
    maxModelTokenCount: config.maxModelTokenCount,
    onProgress,
  });
}

interface EngineParts {
  readonly device: Device;
  readonly model: Model;
  readonly clock: Clock;
  readonly masks: MaskThread;
}

async function engineFor(
  config: WorkerConfig,
  { limits, layout }: Sizes,
  parts: EngineParts,
  hooks: EngineHooks,
  stepTimes: StepTimeModel | undefined,
): Promise<Engine> {
  const { maxModelTokenCount, prefixCaching, depth } = config;
  const { blockTokenCount, dtype } = layout.shape;
  const sized = { ...parts, ...limits, maxModelTokenCount, depth };
  const automaticBytes = await automaticKvBytes(config, { ...sized, kv: { blockTokenCount, dtype } });
  const blockCount = kvBlockCount(layout, { ...config, ...limits, automaticBytes });
  return new Engine(
    { ...sized, kv: { blockTokenCount, blockCount, dtype }, prefixCaching, ...(stepTimes && { stepTimes }) },
    hooks,
  );
}

function kvDtypeOf(config: WorkerConfig, { dtype }: ModelConfig): Dtype {
  if (config.kvDtype !== 'auto') return config.kvDtype;
  return dtype === 'bf16' || dtype === 'f16' ? dtype : 'f32';
}

/** On a GPU what weights and steps leave is not known yet. */
function mostKvBytes({ deviceShareCount }: WorkerConfig, { kind, freeBytes }: DeviceInfo): number {
  return kind === 'cpu' ? cpuKvBytes(freeBytes, deviceShareCount) : freeBytes;
}

/** On a GPU the largest steps are run to see what they need; also when the size is given, so that the first
 *  request finds all ready. */
async function automaticKvBytes(config: WorkerConfig, parts: Parameters<typeof warmUp>[0]): Promise<number> {
  const { info } = parts.device;
  if (info.kind === 'cpu') return mostKvBytes(config, info);
  const { usedBytes } = await warmUp(parts);
  if (config.kvBytes !== undefined || config.blockCount !== undefined) return 0; // not asked
  const { gpuMemoryShare: share, deviceShareCount: workerCount, deviceLoadedCount: loadedCount = 0 } = config;
  return gpuKvBytes(info, { share, workerCount, loadedCount }, usedBytes);
}

function layoutFor(
  { layerCount, kvHeadCount, headDim }: ModelConfig,
  blockTokenCount: number,
  dtype: Dtype,
): KvLayout {
  return new KvLayout({
    modelName: 'for size only',
    layerCount,
    kvHeadCount,
    headDim,
    blockTokenCount,
    dtype,
  });
}
