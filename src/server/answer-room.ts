/** The memory of what answers keep until their clients have taken it: tokens and log-probabilities that wait
 *  to be read, those of answers that are sent whole, and those that have been asked for and will come. Made
 *  by app.ts, used by exchange.ts.
 *  Invariants: all answers together keep no more than the room has. Who asks for log-probabilities is refused
 *  early when half of it is taken; when all of it is, the answer that keeps most ends. */
import { getHeapStatistics } from 'node:v8';
import type { TwostrokeError } from '../base/errors.js';
import { OverloadedError } from '../control/admission.js';
import type { Kept } from '../control/generation-stream.js';

/** What V8 gives this process, by this. */
const heapShare = 1 / 8;
const retryAfterMs = 1000;

export class AnswerRoom {
  readonly #byteCountMax: number;
  readonly #shares = new Set<AnswerShare>();
  #byteCount = 0;

  constructor(byteCountMax: number = heapShare * getHeapStatistics().heap_size_limit) {
    this.#byteCountMax = byteCountMax;
  }

  get byteCount(): number {
    return this.#byteCount;
  }

  /** `byteCount`: of the log-probabilities that will come for certain; null: none are asked for. `onCut` is
   *  called at most once. Throws OverloadedError. */
  open(byteCount: number | null, onCut: (error: TwostrokeError) => void): AnswerShare {
    const expected = byteCount ?? 0;
    if (byteCount !== null && this.#byteCount + expected > this.#byteCountMax / 2) throw this.#error();
    const share = new AnswerShare(
      (added) => this.#add(added),
      (ended) => this.#shares.delete(ended),
      onCut,
    );
    this.#shares.add(share);
    share.add(expected);
    return share;
  }

  #add(byteCount: number): void {
    this.#byteCount += byteCount;
    while (this.#byteCount > this.#byteCountMax && this.#shares.size > 0) {
      const largest = [...this.#shares].reduce((most, each) =>
        each.byteCount > most.byteCount ? each : most,
      );
      const error = this.#error();
      largest.end();
      largest.onCut(error);
    }
  }

  #error(): OverloadedError {
    const megabytes = Math.round(this.#byteCount / 2 ** 20);
    return new OverloadedError(
      `what clients have asked for and not read yet takes ${megabytes} MiB (log-probabilities take most of it)`,
      retryAfterMs,
    );
  }
}

/** What one answer keeps. */
class AnswerShare implements Kept {
  readonly onCut: (error: TwostrokeError) => void;
  readonly #onAdd: (byteCount: number) => void;
  readonly #onEnd: (share: AnswerShare) => void;
  #byteCount = 0;
  #isEnded = false;

  constructor(
    onAdd: (byteCount: number) => void,
    onEnd: (share: AnswerShare) => void,
    onCut: (error: TwostrokeError) => void,
  ) {
    this.#onAdd = onAdd;
    this.#onEnd = onEnd;
    this.onCut = onCut;
  }

  get byteCount(): number {
    return this.#byteCount;
  }

  add(byteCount: number): void {
    if (this.#isEnded) return;
    this.#byteCount += byteCount;
    this.#onAdd(byteCount);
  }

  /** Nothing of it is kept any more. Also more than once. */
  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#onEnd(this);
    this.#onAdd(-this.#byteCount);
  }
}
