/** The newest steps of a worker on their way to the gateway: bounded, and packed as plain numbers, since they
 *  go with every snapshot. Used by worker.ts (collects, packs) and control/worker-slot.ts (unpacks). */
import type { StepSample } from '../router/step-work.js';

/** Between two snapshots; of more, the newest are kept. */
export const stepSampleCountMax = 64;

export const numbersPerStep = 5;
/** So many numbers a step, in the order of StepSample's fields; see packSteps. */
export type PackedSteps = readonly number[];

export class RecentSteps {
  readonly #samples: StepSample[] = [];
  #addedCount = 0;

  add(sample: StepSample): void {
    this.#samples[this.#addedCount++ % stepSampleCountMax] = sample;
  }

  /** Oldest first, and forgets them. */
  take(): readonly StepSample[] {
    const start = this.#addedCount > stepSampleCountMax ? this.#addedCount % stepSampleCountMax : 0;
    const samples = [...this.#samples.slice(start), ...this.#samples.slice(0, start)];
    this.#samples.length = 0;
    this.#addedCount = 0;
    return samples;
  }
}

/** Milliseconds to the microsecond: a message should not carry sixteen digits. */
export function packSteps(samples: readonly StepSample[]): PackedSteps {
  const packed: number[] = [];
  for (const { decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount, ms } of samples) {
    packed.push(
      decodeCount,
      decodeKvTokenCount,
      prefillTokenCount,
      prefillPairCount,
      Math.round(1000 * ms) / 1000,
    );
  }
  return packed;
}

export function unpackSteps(packed: PackedSteps): readonly StepSample[] {
  const samples: StepSample[] = [];
  for (let i = 0; i + numbersPerStep <= packed.length; i += numbersPerStep) {
    const [decodeCount = 0, decodeKvTokenCount = 0, prefillTokenCount = 0, prefillPairCount = 0, ms = 0] =
      packed.slice(i, i + numbersPerStep);
    samples.push({ decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount, ms });
  }
  return samples;
}
