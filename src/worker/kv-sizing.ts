/** How many bytes and blocks a worker's KV cache gets. Pure. Used by load-engine.ts.
 *
 *    GPU   [ ---- share of the memory for all its workers ---------------------------- ][ left alone ]
 *          [ others, loaded before | weights, activations, largest step, graphs | KV   ]
 *
 *  Workers of one GPU load one after the other (control/load-turns.ts); the k-th of n may fill the GPU up to
 *  k/n of the share, so each ends up with the same part of it, and what other programs hold comes off too. */
import { ModelError } from '../base/errors.js';
import type { DeviceInfo } from '../device/device.js';
import type { KvLayout } from '../kv/kv-layout.js';

/** On the CPU: this share of the free memory, but not more than these bytes. */
const freeMemoryShare = 0.3;
const cpuKvBytesMax = 8 * 2 ** 30;

export function cpuKvBytes(freeBytes: number, workerCount: number): number {
  return Math.min((freeMemoryShare * freeBytes) / workerCount, cpuKvBytesMax);
}

interface GpuShare {
  /** Of the GPU's memory, for all workers on it. */
  readonly share: number;
  readonly workerCount: number;
  /** Of those, the ones that hold their part already. */
  readonly loadedCount: number;
}

/** `usedBytes`: of the whole GPU at this worker's largest step, before it has a cache. Throws ModelError when
 *  nothing is left. */
export function gpuKvBytes(
  { index, totalBytes }: DeviceInfo,
  { share, workerCount, loadedCount }: GpuShare,
  usedBytes: number,
): number {
  const allowedBytes = (share * totalBytes * (loadedCount + 1)) / workerCount;
  if (usedBytes < allowedBytes) return allowedBytes - usedBytes;
  const part =
    loadedCount + 1 === workerCount ? 'it' : `it that ${loadedCount + 1} of ${workerCount} workers may fill`;
  throw new ModelError(
    `GPU ${index}: nothing is left for the KV cache: the largest step brings the memory in use to ${gib(usedBytes)}, and the ` +
      `${(100 * share).toFixed(0)} % of ${part} are ${gib(allowedBytes)}. Give --gpu-memory-utilization more, lower ` +
      '--max-num-batched-tokens or --max-num-seqs, or put fewer workers on it',
  );
}

interface BlockWish {
  /** Wins over everything. */
  readonly blockCount?: number;
  readonly kvBytes?: number;
  /** Without a wish, but not more than every batch slot with a full context needs. */
  readonly automaticBytes: number;
  readonly sequenceCountMax: number;
  readonly maxModelTokenCount: number;
}

/** Throws ModelError when not even one full context fits. */
export function kvBlockCount(layout: KvLayout, wish: BlockWish): number {
  const { maxModelTokenCount, sequenceCountMax } = wish;
  const contextBlockCount = layout.blockCountFor(maxModelTokenCount);
  const fittingCount = Math.floor((wish.kvBytes ?? wish.automaticBytes) / layout.blockBytes);
  const chosenCount =
    wish.kvBytes === undefined ? Math.min(fittingCount, sequenceCountMax * contextBlockCount) : fittingCount;
  const blockCount = wish.blockCount ?? chosenCount;
  if (blockCount >= contextBlockCount) return blockCount;
  const needed = `one context of ${maxModelTokenCount} tokens needs ${contextBlockCount} KV blocks of ${layout.blockBytes} bytes`;
  throw new ModelError(
    `${needed}, there are ${blockCount}: give more KV memory, or a shorter maximum model length`,
  );
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
