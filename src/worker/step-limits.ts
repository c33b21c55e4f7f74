/** How large a step may be when nobody says, per kind of device. Used by load-engine.ts and shown in the help
 *  of `twostroke serve`. */
import type { DeviceKind } from '../device/device.js';
import type { WorkerSettings } from './messages.js';

export interface StepLimits {
  /** Query tokens per step. */
  readonly tokenBudget: number;
  /** Most prompt tokens of one sequence per step. */
  readonly prefillChunkTokenCount: number;
  /** Sequences per batch. */
  readonly sequenceCountMax: number;
}

/** A GPU is bound by its arithmetic from some 500 rows on: 2048 of them gain 1 % a token (docs/results), more
 *  would only make every stream in the batch wait longer for its next token. On a CPU 512 rows take a
 *  second. */
export const defaultStepLimits: Readonly<Record<DeviceKind, StepLimits>> = {
  cpu: { tokenBudget: 512, prefillChunkTokenCount: 512, sequenceCountMax: 64 },
  cuda: { tokenBudget: 2048, prefillChunkTokenCount: 2048, sequenceCountMax: 256 },
};

/** What was asked for, the rest by the device's kind; a chunk is never larger than a step. */
export function stepLimitsOf(
  kind: DeviceKind,
  wishes: Partial<Pick<WorkerSettings, keyof StepLimits>>,
): StepLimits {
  const fallback = defaultStepLimits[kind];
  const tokenBudget = wishes.tokenBudget ?? fallback.tokenBudget;
  const prefillChunkTokenCount = Math.min(
    wishes.prefillChunkTokenCount ?? fallback.prefillChunkTokenCount,
    tokenBudget,
  );
  return {
    tokenBudget,
    prefillChunkTokenCount,
    sequenceCountMax: wishes.sequenceCountMax ?? fallback.sequenceCountMax,
  };
}
