/** Lines before the decode workers: whoever finds no room waits its turn, first come, first served. The head
 *  asks again when the worker may have more room than before. Used by paths.ts.
 *  A finished prefill keeps its blocks only `holdMs` long while it waits: then it gives them back and the
 *  request is recomputed where it decodes, so that two workers that wait for each other's memory cannot stand
 *  still.
 *  Invariant: after `end` nothing waits for, or is timed by, a reservation. */
import type { Clock, TimerHandle } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { GatewayLimits } from './gateway-options.js';
import { Lifeline } from './lifeline.js';
import type { Request } from './request.js';
import { HandOverError, type Reserved, type WorkerClient } from './worker-client.js';

/** Just in time: when the first chunk is about to run, so that no memory waits behind a queue. Before
 *  prefill: when decode is short of memory, so that no finished prefill is stranded. */
export type ReservationTiming = 'just_in_time' | 'before_prefill';

/** Those who wait before one worker. */
class Line {
  readonly #waiting = new Set<Reserving>();
  /** Of those, the ones that have asked in vain. */
  refusedCount = 0;

  get first(): Reserving | undefined {
    return this.#waiting.values().next().value;
  }

  join(reserving: Reserving): void {
    this.#waiting.add(reserving);
  }

  leave(reserving: Reserving): void {
    const wasFirst = this.first === reserving;
    this.#waiting.delete(reserving);
    if (reserving.isRefused) this.refusedCount--;
    if (wasFirst) this.first?.nudge();
  }
}

interface ReservingOptions {
  readonly timing: ReservationTiming;
  readonly line: Line;
  readonly clock: Clock;
  readonly limits: GatewayLimits;
}

/** Too late, or not before that many milliseconds from now. */
type Lateness = HandOverError | { readonly inMs: number };

/** One request's place before one decode worker. */
export class Reserving {
  readonly timing: ReservationTiming;
  /** It has asked at least once and there was no room. */
  isRefused = false;
  readonly #request: Request;
  readonly #worker: WorkerClient;
  readonly #line: Line;
  readonly #clock: Clock;
  readonly #limits: GatewayLimits;
  readonly #lease = new Lifeline();
  #granted: Promise<Reserved> | null = null;
  #grantedMs: number | null = null;
  #isEnded = false;
  #isNudged = false;
  #wake: (() => void) | null = null;
  #leaseTimer: TimerHandle | null = null;

  constructor(request: Request, worker: WorkerClient, options: ReservingOptions) {
    this.#request = request;
    this.#worker = worker;
    this.timing = options.timing;
    this.#line = options.line;
    this.#clock = options.clock;
    this.#limits = options.limits;
  }

  /** Waits until there is room. Rejects with HandOverError when the finished prefill has waited too long. The
   *  same promise every time. */
  granted(): Promise<Reserved> {
    if (this.#granted === null) {
      this.#line.join(this);
      this.#granted = this.#ask().finally(() => this.#line.leave(this));
      this.#granted.catch(() => {}); // seen by whoever awaits it, if anybody still does
    }
    return this.#granted;
  }

  /** `prefilling`, but not for ever: a reservation made before it is worth `leaseMs` of waiting for its first
   *  chunk, and when the first token is out and there is a place, the bytes have `landDeadlineMs` to get
   *  there. */
  leased<T>(prefilling: Promise<T>): Promise<T> {
    this.#watchLease();
    return this.#lease.guard(prefilling).finally(() => this.#leaseTimer?.cancel());
  }

  /** Resolves when it has stopped asking: what was granted is the caller's to release. */
  async end(): Promise<void> {
    this.#isEnded = true;
    this.#lease.cut(unwanted());
    this.#leaseTimer?.cancel();
    this.nudge();
    await this.#granted?.catch(() => {});
  }

  /** Something has changed: it may be its turn, or over. */
  nudge(): void {
    this.#isNudged = true;
    this.#wake?.();
  }

  async #ask(): Promise<Reserved> {
    const startMs = this.#clock.nowMs() - this.#request.reservationWaitMs; // after what it waited for already
    for (;;) {
      if (this.#isEnded) throw unwanted();
      this.#isNudged = false;
      const reserved = this.#line.first === this ? await this.#askOnce() : await this.#nudged(null);
      this.#request.reservationWaitMs = this.#clock.nowMs() - startMs;
      if (reserved === null) continue;
      this.#grantedMs = this.#clock.nowMs();
      return reserved;
    }
  }

  /** Null: no room, but there may be now. */
  async #askOnce(): Promise<Reserved | null> {
    // from before the question: there may be room when the answer says that there is none
    const room = this.#worker.nextRoom();
    try {
      const reserved = await this.#worker.reserve(this.#request, this.#limits.growthTokenCount);
      if (reserved !== null) return reserved;
      this.#refuse();
      return await this.#nudged(room.happened);
    } finally {
      room.forget();
    }
  }

  #refuse(): void {
    if (!this.isRefused) this.#line.refusedCount++;
    this.isRefused = true;
  }

  /** Resolves when it is worth asking again. Rejects when a finished prefill has waited too long. */
  async #nudged(roomHappened: Promise<void> | null): Promise<null> {
    void roomHappened?.then(() => this.nudge());
    while (!this.#isNudged) {
      const held = this.#held();
      if (held instanceof HandOverError) throw held;
      const timer = held === null ? null : this.#clock.after(held.inMs, () => this.#wake?.());
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      timer?.cancel();
    }
    return null;
  }

  /** How long a finished prefill has waited. One that is not finished cannot have waited too long before
   *  `holdMs` from now; null: it begins when there is a place. */
  #held(): Lateness | null {
    const { holdMs } = this.#limits;
    const { firstTokenMs } = this.#request.times;
    if (firstTokenMs === undefined) return this.timing === 'before_prefill' ? null : { inMs: holdMs };
    const leftMs = firstTokenMs + holdMs - this.#clock.nowMs();
    if (leftMs > 0) return { inMs: leftMs };
    return new HandOverError(
      'no_room',
      'overloaded',
      `no room on ${this.#worker.id} for ${holdMs} ms after the prefill`,
    );
  }

  /** Looks at what may be late when it first can be. */
  #watchLease(): void {
    const late = this.#late();
    if (late instanceof HandOverError) this.#lease.cut(late);
    else this.#leaseTimer = this.#clock.after(late.inMs, () => this.#watchLease());
  }

  /** What has taken too long since there is a place. */
  #late(): Lateness {
    const { prefillStartedMs, firstTokenMs } = this.#request.times;
    const { leaseMs, landDeadlineMs } = this.#limits;
    const nowMs = this.#clock.nowMs();
    const grantedMs = this.#grantedMs ?? nowMs;
    if (prefillStartedMs === undefined) {
      const leftMs = grantedMs + leaseMs - nowMs;
      // once begun, it cannot be overdue before
      if (leftMs > 0) return { inMs: Math.min(leftMs, landDeadlineMs) };
      const what = `the prefill did not start within ${leaseMs} ms of its reservation`;
      return new HandOverError('lease_expired', 'deadline_exceeded', what);
    }
    const leftMs = Math.max(firstTokenMs ?? nowMs, grantedMs) + landDeadlineMs - nowMs;
    if (leftMs > 0) return { inMs: leftMs };
    const what = `KV did not land on ${this.#worker.id} within ${landDeadlineMs} ms`;
    return new HandOverError('overdue', 'deadline_exceeded', what);
  }
}

function unwanted(): HandOverError {
  return new HandOverError('unwanted', 'cancelled', 'the reservation is not wanted any more');
}

export class Reservations {
  readonly #lines = new Map<WorkerId, Line>();
  readonly #clock: Clock;
  readonly #limits: GatewayLimits;

  constructor(clock: Clock, limits: GatewayLimits) {
    this.#clock = clock;
    this.#limits = limits;
  }

  open(request: Request, worker: WorkerClient, timing: ReservationTiming): Reserving {
    const line = this.#lines.get(worker.id) ?? new Line();
    this.#lines.set(worker.id, line);
    return new Reserving(request, worker, { timing, line, clock: this.#clock, limits: this.#limits });
  }

  /** Requests that were refused by this worker, and wait. */
  waitingCount(worker: WorkerId): number {
    return this.#lines.get(worker)?.refusedCount ?? 0;
  }
}
