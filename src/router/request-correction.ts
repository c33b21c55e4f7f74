/** What requests really took against what was predicted of them: factors that keep predictions true where
 *  steps alone do not tell (messages, event loops, processors that are shared). Used by worker-costs.ts, one
 *  for each kind of worker: how far a prediction is off depends on the requests as well, and a worker that
 *  had got others than its peers would be blamed for them, and sent more of the same. */
import { FactorFilter } from './factor-filter.js';

/** By what predictions of steps and messages are multiplied. */
export interface Corrections {
  /** Of a first token: messages, what comes before the prompt, the prompt. */
  readonly messages: number;
  readonly wait: number;
  readonly prefill: number;
  /** Of each further token. */
  readonly step: number;
  /** Of KV on its way, as far as it is exposed. */
  readonly transfer: number;
}

export const uncorrected: Corrections = { messages: 1, wait: 1, prefill: 1, step: 1, transfer: 1 };

/** Predicted parts as they were reported, with the corrections that were in them, and what came of it.
 *  Milliseconds. */
export interface RequestOutcomeTimes {
  readonly corrections: Corrections;
  readonly messagesMs: number;
  readonly waitMs: number;
  readonly prefillMs: number;
  readonly stepMs: number;
  readonly transferMs: number;
  readonly real: {
    readonly ttftMs: number;
    /** null: too few tokens to tell. */
    readonly stepMs: number | null;
    /** null: nothing moved. */
    readonly transferMs: number | null;
  };
}

const options = { doubt: 0.2, kinship: 0, scatter: 0.4, factorMin: 0.4, factorMax: 2.5 };

export class RequestCorrection {
  #ttft = new FactorFilter({ ...options, partCount: 3 });
  #step = new FactorFilter({ ...options, partCount: 1 });
  #corrections = uncorrected;
  #transfer = new FactorFilter({ ...options, partCount: 1, factorMin: 0.1, factorMax: 10 });

  /** With what it has learned. */
  copy(): RequestCorrection {
    const copy = new RequestCorrection();
    copy.#ttft = this.#ttft.copy();
    copy.#step = this.#step.copy();
    copy.#transfer = this.#transfer.copy();
    copy.#corrections = this.#corrections;
    return copy;
  }

  get corrections(): Corrections {
    return this.#corrections;
  }

  /** What the worker did that computed the prompt: up to the first token, and the transfer from it. */
  observePrompt({
    corrections: used,
    messagesMs,
    waitMs,
    prefillMs,
    transferMs,
    real,
  }: RequestOutcomeTimes): void {
    this.#ttft.observe(
      [messagesMs / used.messages, waitMs / used.wait, prefillMs / used.prefill],
      real.ttftMs,
    );
    if (real.transferMs !== null) this.#transfer.observe([transferMs / used.transfer], real.transferMs);
    const [messages = 1, wait = 1, prefill = 1] = this.#ttft.factors;
    this.#corrections = {
      ...this.#corrections,
      messages,
      wait,
      prefill,
      transfer: this.#transfer.factors[0] ?? 1,
    };
  }

  /** What the worker did that decoded. */
  observeSteps({ corrections: used, stepMs, real }: RequestOutcomeTimes): void {
    if (real.stepMs === null) return;
    this.#step.observe([stepMs / used.step], real.stepMs);
    this.#corrections = { ...this.#corrections, step: this.#step.factors[0] ?? 1 };
  }
}
