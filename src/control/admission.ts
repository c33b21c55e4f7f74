/** Says no early: when more is accepted and unfinished than the workers will come to soon, with an honest
 *  guess when to come back. Used by coordinator.ts. Invariant: what is admitted is counted until it has
 *  ended, so that nothing queues without a bound. */
import { assert } from '../base/assert.js';
import { InvalidRequestError, TwostrokeError } from '../base/errors.js';
import type { ServiceClass } from './service-class.js';

export class OverloadedError extends TwostrokeError {
  /** For a Retry-After header. */
  readonly retryAfterMs: number;

  /** `what`: there is too much of, as a sentence. */
  constructor(what: string, retryAfterMs: number) {
    super('overloaded', `${what}; retry in ${Math.ceil(retryAfterMs / 1000)} s`);
    this.retryAfterMs = retryAfterMs;
  }
}

/** What all workers that decode have together. */
export interface Capacity {
  /** Batch slots; infinite while none is known. */
  readonly slotCount: number;
  /** Of the worker that has most: no request may have more choices. */
  readonly slotCountMax: number;
  /** KV memory. */
  readonly tokenCount: number;
}

/** A client's request before it is submitted: one or more prompts, each with as many choices. */
export interface Bundle {
  readonly promptCount: number;
  readonly choiceCount: number;
  /** Absent: of no class, with nothing reserved. */
  readonly serviceClass?: ServiceClass;
}

interface AdmissionOptions {
  /** As given; null: what the workers can hold, twice, and no more KV memory than that. */
  readonly choiceCountMax: number | null;
  readonly capacity: () => Capacity;
  /** KV memory that is expected to be needed by all that were routed and have not ended. */
  readonly claimedTokenCount: () => number;
}

const retryMsMin = 1000;
const retryMsMax = 60_000;
/** Weight of the latest request in the mean time that requests take. */
const latestShare = 1 / 32;
/** One batch that is computed, and one that waits: a slot that becomes free is taken at once, and who is
 *  admitted waits about as long as a request takes, not longer. More would be answered no sooner, only later:
 *  each would wait for all that are ahead of it. */
const holdings = 2;

export class Admission {
  readonly #options: AdmissionOptions;
  #choiceCount = 0;
  /** Of these, by class. */
  readonly #classCounts = new Map<string, number>();
  #meanLifeMs: number | null = null;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** That may be in flight: running or waiting. */
  get choiceCountMax(): number {
    const { choiceCountMax, capacity } = this.#options;
    return choiceCountMax ?? holdings * capacity().slotCount;
  }

  /** Throws OverloadedError when nothing more is taken in now: to be asked before any work is done. */
  check(serviceClass?: ServiceClass): void {
    if (this.#isReserved(serviceClass, 1)) return;
    this.#refuseBeyond(this.choiceCountMax - 1);
    const { choiceCountMax, capacity, claimedTokenCount } = this.#options;
    if (choiceCountMax !== null) return;
    const { tokenCount } = capacity();
    const claimed = claimedTokenCount();
    if (this.#choiceCount === 0 || claimed < holdings * tokenCount) return;
    const what = `the requests that run or wait are expected to need ${Math.round(claimed)} tokens of KV memory`;
    throw new OverloadedError(`${what}, and the workers have ${tokenCount}`, this.#retryAfterMs());
  }

  /** All of a bundle or nothing. Of many prompts only some may be in flight at a time, so that one client
   *  does not keep all others out. Throws OverloadedError, or InvalidRequestError when no worker has so many
   *  batch slots. */
  enter({ promptCount, choiceCount, serviceClass }: Bundle): Place {
    const { slotCountMax } = this.#options.capacity();
    if (choiceCount > slotCountMax)
      throw new InvalidRequestError(
        `n must be between 1 and ${slotCountMax}, the batch slots of a worker, not ${choiceCount}`,
        'n',
      );
    this.check(serviceClass);
    const perBatch = Math.floor(this.choiceCountMax / holdings / choiceCount);
    const promptsAtOnce = Math.min(promptCount, Math.max(1, perBatch));
    const heldCount = promptsAtOnce * choiceCount;
    if (this.#choiceCount > 0 && !this.#isReserved(serviceClass, heldCount))
      this.#refuseBeyond(this.choiceCountMax - heldCount);
    this.#hold(heldCount, serviceClass);
    return new Place(promptsAtOnce, () => this.#hold(-heldCount, serviceClass));
  }

  /** Within what its class has reserved it is taken in beside all that others hold: these never had to leave
   *  anything free for it, and all classes together exceed the whole by their reservations at most. */
  #isReserved(serviceClass: ServiceClass | undefined, choiceCount: number): boolean {
    if (serviceClass === undefined) return false;
    const heldCount = this.#classCounts.get(serviceClass.name) ?? 0;
    return heldCount + choiceCount <= Math.floor(serviceClass.reservedShare * this.choiceCountMax);
  }

  #hold(choiceCount: number, serviceClass: ServiceClass | undefined): void {
    this.#choiceCount += choiceCount;
    if (serviceClass === undefined) return;
    const { name } = serviceClass;
    const heldCount = (this.#classCounts.get(name) ?? 0) + choiceCount;
    if (heldCount === 0) this.#classCounts.delete(name);
    else this.#classCounts.set(name, heldCount);
  }

  /** A request has ended: how long that took says how soon there is room. */
  observe(lifeMs: number): void {
    this.#meanLifeMs =
      this.#meanLifeMs === null ? lifeMs : this.#meanLifeMs + latestShare * (lifeMs - this.#meanLifeMs);
  }

  #refuseBeyond(choiceCount: number): void {
    if (this.#choiceCount <= choiceCount) return;
    const what = `${this.#choiceCount} requests are running or waiting, of ${this.choiceCountMax} that the workers come to soon`;
    throw new OverloadedError(what, this.#retryAfterMs());
  }

  /** Until a tenth of those in flight have ended: they all do within the time that one takes. */
  #retryAfterMs(): number {
    return Math.min(retryMsMax, Math.max(retryMsMin, (this.#meanLifeMs ?? 0) * 0.1));
  }
}

/** What was admitted. It is counted until whoever entered has left and every request in it has ended. */
export class Place {
  /** Prompts of the bundle that may be in flight at once. */
  readonly promptsAtOnce: number;
  readonly #onEmpty: () => void;
  #openCount = 0;
  #hasLeft = false;

  constructor(promptsAtOnce: number, onEmpty: () => void) {
    this.promptsAtOnce = promptsAtOnce;
    this.#onEmpty = onEmpty;
  }

  begin(): void {
    assert(!this.#hasLeft, 'a request is submitted before its place has been left');
    this.#openCount++;
  }

  end(): void {
    this.#openCount--;
    this.#settle();
  }

  /** No more requests come. Also more than once. */
  leave(): void {
    if (this.#hasLeft) return;
    this.#hasLeft = true;
    this.#settle();
  }

  #settle(): void {
    if (this.#hasLeft && this.#openCount === 0) this.#onEmpty();
  }
}
