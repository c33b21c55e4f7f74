/** When choices with a grammar wait for their masks, and what becomes of those whose masks cannot be made.
 *  Used by engine.ts. Invariant: whoever has no grammar is neither looked at nor waited for here. */
import { toWire } from '../base/errors.js';
import type { RequestId } from '../base/ids.js';
import type { MaskSource } from './mask-source.js';
import type { Scheduler } from './scheduler.js';
import type { RequestState } from './sequence.js';

export class MaskTurns {
  readonly #source: MaskSource;
  readonly #scheduler: Scheduler;
  readonly #requests: ReadonlyMap<RequestId, RequestState>;
  readonly #onRequestEnd: (request: RequestState) => void;
  #handledFailureCount = 0;

  constructor(
    source: MaskSource,
    scheduler: Scheduler,
    requests: ReadonlyMap<RequestId, RequestState>,
    onRequestEnd: (request: RequestState) => void,
  ) {
    this.#source = source;
    this.#scheduler = scheduler;
    this.#requests = requests;
    this.#onRequestEnd = onRequestEnd;
  }

  /** Its choices' masks begin with the tokens they have; of one that another worker prefills, only the
   *  grammar is made ready. */
  register({ sampling, choices, outputLimit, mode }: RequestState): void {
    const { grammar, endTokenIds } = sampling;
    if (grammar === undefined) return;
    if (mode === 'reserved') {
      this.#source.prepare(grammar);
      return;
    }
    for (const choice of choices) {
      if (choice.state === 'ended') continue;
      choice.masks = this.#source.open({ grammar, endTokenIds, tokenIds: choice.outputIds, outputLimit });
    }
  }

  /** Where nothing can be computed before masks arrive, all that are nearly there are waited for: else
   *  each choice would begin a step of its own. */
  async beforeStep(stepsInFlightCount: number): Promise<void> {
    this.#failBroken();
    if (stepsInFlightCount > 0 || !this.#isIdleWithout) return;
    while (this.#source.computingCount > 0) await this.#source.arrival();
    this.#failBroken();
  }

  get #isIdleWithout(): boolean {
    const { waiting, late, running } = this.#scheduler;
    if (this.#source.computingCount === 0 || waiting.count + late.count > 0) return false;
    return running.items.every(({ request, isDecoding }) => request.hasGrammar && isDecoding);
  }

  #failBroken(): void {
    if (this.#source.failureCount === this.#handledFailureCount) return;
    this.#handledFailureCount = this.#source.failureCount;
    for (const request of this.#requests.values()) {
      const error = request.choices.find(({ masks }) => masks !== null && masks.error !== null)?.masks?.error;
      if (error !== undefined && error !== null) this.#fail(request, error);
    }
  }

  /** A prompt of a hand-over stays until it is released. */
  #fail(request: RequestState, error: Error): void {
    this.#scheduler.events.push({ kind: 'failed', requestId: request.id, error: toWire(error) });
    for (const choice of request.choices) {
      choice.masks?.close();
      choice.masks = null;
      if (request.mode !== 'prefill') this.#scheduler.end(choice);
    }
    if (request.isEnded) this.#onRequestEnd(request);
  }
}
