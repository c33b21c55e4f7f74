/** What the workers can hold together, as admission counts it. Used by coordinator.ts. A worker that restarts
 *  counts as before: it is soon back, and its requests go on. */
import type { Capacity } from './admission.js';
import type { WorkerFacts } from './worker-directory.js';

export function capacityOf(workers: readonly WorkerFacts[]): Capacity {
  const decoders = decodersOf(workers);
  const slotCounts = decoders.map(({ batchSlotCount = Number.POSITIVE_INFINITY }) => batchSlotCount);
  const tokenCounts = decoders.map(({ blockCount, blockTokenCount }) => blockCount * blockTokenCount);
  return {
    slotCount: sum(slotCounts),
    slotCountMax: Math.max(...slotCounts),
    tokenCount: sum(tokenCounts),
  };
}

/** A role that has no worker is served by the others. */
export function decodersOf(workers: readonly WorkerFacts[]): readonly WorkerFacts[] {
  const decoders = workers.filter(({ role }) => role !== 'prefill');
  return decoders.length > 0 ? decoders : workers;
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}
