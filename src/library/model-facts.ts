/** What a model is and what devices can do with it, reckoned from its shapes, the devices' memory and their
 *  bandwidth; nothing is loaded. Used by `twostroke models show`. */
import type { DeviceKind } from '../device/device.js';
import { type Dtype, dtypeByteCounts } from '../device/dtype.js';
import { KvLayout } from '../kv/kv-layout.js';
import type { ModelConfig } from '../model/config.js';
import { parameterCount, readParameterCount } from '../model/parameter-count.js';
import { cpuKvBytes } from '../worker/kv-sizing.js';

export interface DeviceFacts {
  /** `cpu` or `cuda:N`. */
  readonly device: string;
  readonly kind: DeviceKind;
  readonly name: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly readBytesPerSecond: number;
}

export interface ModelFacts {
  readonly architecture: string;
  readonly parameterCount: number;
  /** What one sequence's decode step reads of them: fewer in a mixture of experts. */
  readonly readParameterCount: number;
  readonly dtype: Dtype;
  readonly weightBytes: number;
  readonly contextTokenCount: number;
  readonly kvBytesPerToken: number;
  readonly devices: readonly DeviceFit[];
}

interface DeviceFit extends DeviceFacts {
  /** Null: the weights do not fit. */
  readonly fit: {
    /** In a KV cache as `serve` makes it unless a size is given. */
    readonly kvTokenCount: number;
    /** How many sequences of this length fit at once. */
    readonly contexts: readonly { readonly tokenCount: number; readonly sequenceCount: number }[];
    /** As fast as memory can be read, each sequence with `speedTokenCount` tokens of KV. */
    readonly speeds: readonly { readonly sequenceCount: number; readonly tokensPerSecond: number }[];
  } | null;
}

export const speedTokenCount = 1024;
const contextTokenCounts = [2048, 8192, 32_768];
const sequenceCounts = [1, 8];
const blockTokenCount = 16;
/** Of a GPU's memory, for steps and what the driver keeps: what 8 B parameters take at 2,048 tokens. */
const gpuStepBytes = 2 * 2 ** 30;

/** `weightBytes`: of the files; null where there are none. `gpuMemoryShare`: as --gpu-memory-utilization. */
export function modelFacts(
  config: ModelConfig,
  weightBytes: number | null,
  devices: readonly DeviceFacts[],
  gpuMemoryShare: number,
): ModelFacts {
  const { architecture, dtype, maxPositionCount } = config;
  const count = parameterCount(config);
  const bytes = weightBytes ?? count * dtypeByteCounts[dtype];
  const kvBytesPerToken = layoutOf(config).tokenBytes;
  return {
    architecture,
    dtype,
    kvBytesPerToken,
    parameterCount: count,
    readParameterCount: readParameterCount(config, 1),
    weightBytes: bytes,
    contextTokenCount: maxPositionCount,
    devices: devices.map((device) => ({
      ...device,
      fit: fitOf(config, device, { weightBytes: bytes, kvBytesPerToken, gpuMemoryShare }),
    })),
  };
}

function layoutOf({ layerCount, kvHeadCount, headDim, dtype }: ModelConfig): KvLayout {
  const kvDtype = dtype === 'bf16' || dtype === 'f16' ? dtype : 'f32';
  return new KvLayout({
    modelName: '',
    layerCount,
    kvHeadCount,
    headDim,
    blockTokenCount,
    dtype: kvDtype,
  });
}

interface Needs {
  readonly weightBytes: number;
  readonly kvBytesPerToken: number;
  readonly gpuMemoryShare: number;
}

function fitOf(config: ModelConfig, device: DeviceFacts, needs: Needs): DeviceFit['fit'] {
  const { weightBytes, kvBytesPerToken } = needs;
  const kvBytes = kvBytesOf(device, needs);
  if (kvBytes <= 0) return null;
  const kvTokenCount = blockTokenCount * Math.floor(kvBytes / (blockTokenCount * kvBytesPerToken));
  const { maxPositionCount } = config;
  const tokenCounts = [...contextTokenCounts.filter((count) => count < maxPositionCount), maxPositionCount];
  const sequences = (tokenCount: number) => Math.floor(kvTokenCount / tokenCount);
  return {
    kvTokenCount,
    contexts: tokenCounts.map((tokenCount) => ({ tokenCount, sequenceCount: sequences(tokenCount) })),
    speeds: sequenceCounts.map((sequenceCount) => {
      const readShare = readParameterCount(config, sequenceCount) / parameterCount(config);
      const stepBytes = weightBytes * readShare + sequenceCount * speedTokenCount * kvBytesPerToken;
      return { sequenceCount, tokensPerSecond: (sequenceCount * device.readBytesPerSecond) / stepBytes };
    }),
  };
}

function kvBytesOf({ kind, totalBytes, freeBytes }: DeviceFacts, needs: Needs): number {
  const { weightBytes, gpuMemoryShare } = needs;
  if (kind === 'cuda')
    return gpuMemoryShare * totalBytes - (totalBytes - freeBytes) - weightBytes - gpuStepBytes;
  return Math.min(cpuKvBytes(freeBytes, 1), freeBytes - weightBytes);
}
