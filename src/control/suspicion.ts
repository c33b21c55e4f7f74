/** Which requests kill the workers that compute them, and which were only there. Each request has a
 *  Suspicion; the coordinator has one SuspectLine for all. Used by request.ts and coordinator.ts.
 *
 *    a worker dies ─► a strike for every request it was computing ─► two in a row: a suspect ─► suspects are computed one at a time
 *                     an attempt that outlives those ─► acquitted                               ─► more than `lossCountMax`: it fails
 *
 *  Invariants: at most one suspect is on a worker, so that its next strikes are its own; a death from outside
 *  (kill -9) is no strike for who had got tokens; whoever was not on the worker gets none. */
import type { WorkerId } from '../base/ids.js';

/** Why a worker died. work: by something that it computed, as far as anybody can tell. outside: somebody
 *  killed or stopped it. */
export type Blame = 'work' | 'outside';

/** One death may be anybody's doing. */
const suspectStrikeCount = 2;

export class Suspicion {
  /** Deaths in a row that speak against it. */
  strikeCount = 0;
  onAcquitted: (() => void) | null = null;
  #worker: WorkerId | null = null;
  #hasStarted = false;
  /** Of this attempt. */
  #tokenCount = 0;
  /** The most that an attempt had got when its worker died. */
  #tokenCountAtDeath = 0;

  get isSuspect(): boolean {
    return this.strikeCount >= suspectStrikeCount;
  }

  /** An attempt begins there. */
  placedOn(worker: WorkerId): void {
    this.#worker = worker;
    this.#hasStarted = false;
    this.#tokenCount = 0;
  }

  /** The attempt goes on there: a hand-over has landed. */
  movedTo(worker: WorkerId): void {
    this.#worker = worker;
  }

  /** The worker has said that it computes it. */
  started(): void {
    this.#hasStarted = true;
  }

  tokens(count: number): void {
    this.#tokenCount += count;
    if (this.strikeCount === 0 || this.#tokenCount <= this.#tokenCountAtDeath) return;
    this.strikeCount = 0;
    this.onAcquitted?.();
  }

  /** A crash says nothing of the step that it was in: every request on the worker may have been in it. */
  lost({ worker, blame }: { readonly worker: WorkerId; readonly blame: Blame }): void {
    if (worker !== this.#worker) return;
    this.#worker = null;
    const isStrike = blame === 'work' || (this.#hasStarted && this.#tokenCount === 0);
    if (!isStrike) return;
    this.strikeCount++;
    this.#tokenCountAtDeath = Math.max(this.#tokenCountAtDeath, this.#tokenCount);
  }
}

/** A request, as far as it matters here. */
interface Suspectable {
  readonly suspicion: Suspicion;
  orSettled<T>(work: Promise<T>): Promise<T | null>;
}

/** First come, first served. */
export class SuspectLine {
  #holder: Suspectable | null = null;
  readonly #line = new Map<Suspectable, () => void>();

  /** Resolves when it may be computed: at once, unless it is a suspect and another one is being computed. */
  async turn(request: Suspectable): Promise<void> {
    if (!request.suspicion.isSuspect || this.#holder === request) return;
    if (this.#holder !== null) {
      const called = new Promise<void>((resolve) => this.#line.set(request, resolve));
      await request.orSettled(called);
      return;
    }
    this.#hold(request);
  }

  /** It is on no worker any more, or no suspect. */
  leave(request: Suspectable): void {
    this.#line.delete(request);
    if (this.#holder !== request) return;
    request.suspicion.onAcquitted = null;
    this.#holder = null;
    const [next] = this.#line;
    if (next === undefined) return;
    const [waiting, call] = next;
    this.#line.delete(waiting);
    this.#hold(waiting);
    call();
  }

  #hold(request: Suspectable): void {
    this.#holder = request;
    request.suspicion.onAcquitted = () => this.leave(request);
  }
}
