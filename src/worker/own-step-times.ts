/** What this worker predicts its steps to take: by the gateway's profile once it has it, a guess until then,
 *  both corrected by the real steps. Used by worker.ts, for the engine's pacer. */
import type { StepTimeModel } from '../engine/engine-options.js';
import { StepCorrection } from '../router/step-correction.js';
import type { StepCost } from '../router/step-cost.js';
import type { StepWork } from '../router/step-work.js';
import { guessedParameters } from '../router/worker-costs.js';

export class OwnStepTimes implements StepTimeModel {
  #correction = new StepCorrection(guessedParameters.step, 'guess');

  /** What was measured replaces what was learned from a guess. */
  use(cost: StepCost): void {
    this.#correction = new StepCorrection(cost, 'profile');
  }

  predictMs(work: StepWork): number {
    return this.#correction.predictMs(work);
  }

  observe(work: StepWork, ms: number): void {
    if (ms > 0) this.#correction.observe(work, ms);
  }
}
