/** Decode steps repeat: one row and one draw for each sequence, nothing of variable length. Such a step is
 *  padded to a shape of a small set, so that the ops recorded for that shape once (a CUDA graph; on the CPU
 *  an op list) serve it again. Used by model-runner; pure. */
import type { DeviceKind } from '../device/device.js';
import type { StepPlan } from './step-plan.js';

export interface StepShape {
  /** Rows, sequences and samples alike. */
  readonly rowCount: number;
  readonly blockTableStride: number;
  /** Upper bound, for launch shapes. */
  readonly kvCountMax: number;
  /** Of all rows' masks; 0: no row has one. */
  readonly maskWordCount: number;
  /** Names the shape, and whether alternatives are read back. */
  readonly key: string;
}

const strideMin = 16;

/** The shape that `plan` can run in, or null for a step that is no pure decode step. A GPU rounds the rows
 *  up, since padding rows cost it next to nothing and recording costs milliseconds; on the CPU a row costs
 *  time and recording does not. */
export function stepShapeOf(
  plan: StepPlan,
  {
    device,
    blockTokenCount,
    rowCountMax,
  }: { device: DeviceKind; blockTokenCount: number; rowCountMax: number },
): StepShape | null {
  const { entries, samples, rowCount } = plan;
  if (plan.chunks.length > 0 || samples.length !== rowCount || entries.length !== rowCount) return null;
  let blockCount = 1;
  for (const { sequence } of entries) blockCount = Math.max(blockCount, sequence.blockIds.length);
  let wantsTop = false;
  let maskWordCount = 0;
  for (const { choice, task } of samples) {
    const { request } = choice;
    if (task.kind === 'score' || request.needsHistory || request.biasesAt(task.drawIndex).size > 0)
      return null;
    maskWordCount = Math.max(maskWordCount, choice.maskWordCount);
    wantsTop ||= (request.sampling.topLogprobCount ?? 0) > 0;
  }
  const rows = device === 'cuda' ? Math.min(rowCountMax, roundedRowCount(rowCount)) : rowCount;
  const blockTableStride = Math.max(strideMin, 2 ** Math.ceil(Math.log2(blockCount)));
  const kvCountMax = blockTableStride * blockTokenCount;
  const key = `${rows}/${blockTableStride}/${wantsTop ? 'top' : 'token'}${maskWordCount === 0 ? '' : '/mask'}`;
  return { rowCount: rows, blockTableStride, kvCountMax, maskWordCount: rows * maskWordCount, key };
}

/** 1, 2, 4, 8, then multiples of 8 to 64, of 16 to 256, of 64 beyond. */
export function roundedRowCount(rowCount: number): number {
  if (rowCount <= 8) return 2 ** Math.ceil(Math.log2(rowCount));
  const grain = rowCount <= 64 ? 8 : rowCount <= 256 ? 16 : 64;
  return Math.ceil(rowCount / grain) * grain;
}
