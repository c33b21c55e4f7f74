/** Lines before the decode workers: whoever finds no room waits its turn, first come, first served, while the head asks again.
 *  Used by paths.ts. A finished prefill keeps its blocks only `holdMs` long while it waits: then it gives them back and the request is
 *  recomputed where it decodes, so that two workers that wait for each other's memory cannot stand still. */
import type { Clock, TimerHandle } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { GatewayLimits } from './gateway-options.js';
import { Lifeline } from './lifeline.js';
import type { Request } from './request.js';
import { HandOverError, type Reserved, type WorkerClient } from './worker-client.js';

const retryEveryMs = 5;
/** Every question carries the prompt: a long one, which waits longer anyway, asks less often. */
const retryMsPerPromptToken = 0.005;
const watchEveryMs = 250;

/** Just in time: when the first chunk is about to run, so that no memory waits behind a queue. Before prefill: when decode is short of
 *  memory, so that no finished prefill is stranded. */
export type ReservationTiming = 'just_in_time' | 'before_prefill';

interface ReservingOptions {
  readonly timing: ReservationTiming;
  readonly line: Reserving[];
  readonly clock: Clock;
  readonly limits: GatewayLimits;
}

/** One request's place before one decode worker. */
export class Reserving {
  readonly timing: ReservationTiming;
  /** It has asked at least once and there was no room. */
  isRefused = false;
  readonly #request: Request;
  readonly #worker: WorkerClient;
  readonly #line: Reserving[];
  readonly #clock: Clock;
  readonly #limits: GatewayLimits;
  #granted: Promise<Reserved> | null = null;
  #grantedMs: number | null = null;
  #isEnded = false;

  constructor(request: Request, worker: WorkerClient, options: ReservingOptions) {
    this.#request = request;
    this.#worker = worker;
    this.timing = options.timing;
    this.#line = options.line;
    this.#clock = options.clock;
    this.#limits = options.limits;
  }

  /** Asks until there is room. Rejects with HandOverError when the finished prefill has waited too long. The same promise every time. */
  granted(): Promise<Reserved> {
    if (this.#granted === null) {
      this.#line.push(this);
      this.#granted = this.#ask().finally(() => this.#line.splice(this.#line.indexOf(this), 1));
      this.#granted.catch(() => {}); // seen by whoever awaits it, if anybody still does
    }
    return this.#granted;
  }

  /** `prefilling`, but not for ever: a reservation made before it is worth `leaseMs` of waiting for its first chunk, and when the first
   *  token is out and there is a place, the bytes have `landDeadlineMs` to get there. */
  async leased<T>(prefilling: Promise<T>): Promise<T> {
    const lease = new Lifeline();
    let timer: TimerHandle | null = null;
    const watch = () => {
      const overdue = this.#overdue();
      if (overdue !== null) lease.cut(overdue);
      else timer = this.#clock.after(watchEveryMs, watch);
    };
    timer = this.#clock.after(watchEveryMs, watch);
    return lease.guard(prefilling).finally(() => timer?.cancel());
  }

  /** Resolves when it has stopped asking: what was granted is the caller's to release. */
  async end(): Promise<void> {
    this.#isEnded = true;
    await this.#granted?.catch(() => {});
  }

  /** What has taken too long; null: nothing. */
  #overdue(): HandOverError | null {
    const { prefillStartedMs, firstTokenMs } = this.#request.times;
    const { leaseMs, landDeadlineMs } = this.#limits;
    const nowMs = this.#clock.nowMs();
    if (this.#grantedMs === null) return null;
    if (prefillStartedMs === undefined) {
      if (nowMs - this.#grantedMs <= leaseMs) return null;
      const what = `the prefill did not start within ${leaseMs} ms of its reservation`;
      return new HandOverError('lease_expired', 'deadline_exceeded', what);
    }
    if (firstTokenMs === undefined) return null;
    const isLate = nowMs - Math.max(firstTokenMs, this.#grantedMs) > landDeadlineMs;
    if (!isLate) return null;
    const what = `KV did not land on ${this.#worker.id} within ${landDeadlineMs} ms`;
    return new HandOverError('overdue', 'deadline_exceeded', what);
  }

  async #ask(): Promise<Reserved> {
    const startMs = this.#clock.nowMs() - this.#request.reservationWaitMs; // after what it waited for already
    for (;;) {
      if (this.#isEnded) throw new HandOverError('unwanted', 'cancelled', 'the reservation is not wanted any more');
      if (this.#line[0] === this) {
        const reserved = await this.#worker.reserve(this.#request, this.#limits.growthTokenCount);
        this.#request.reservationWaitMs = this.#clock.nowMs() - startMs;
        if (reserved !== null) {
          this.#grantedMs = this.#clock.nowMs();
          return reserved;
        }
        this.isRefused = true;
      }
      const { firstTokenMs } = this.#request.times;
      if (firstTokenMs !== undefined && this.#clock.nowMs() - firstTokenMs > this.#limits.holdMs) {
        const what = `no room on ${this.#worker.id} for ${this.#limits.holdMs} ms after the prefill`;
        throw new HandOverError('no_room', 'overloaded', what);
      }
      await this.#clock.sleep(retryEveryMs + this.#request.input.promptIds.length * retryMsPerPromptToken);
    }
  }
}

export class Reservations {
  readonly #lines = new Map<WorkerId, Reserving[]>();
  readonly #clock: Clock;
  readonly #limits: GatewayLimits;

  constructor(clock: Clock, limits: GatewayLimits) {
    this.#clock = clock;
    this.#limits = limits;
  }

  open(request: Request, worker: WorkerClient, timing: ReservationTiming): Reserving {
    const line = this.#lines.get(worker.id) ?? [];
    this.#lines.set(worker.id, line);
    return new Reserving(request, worker, { timing, line, clock: this.#clock, limits: this.#limits });
  }

  /** Requests that were refused by this worker, and wait. */
  waitingCount(worker: WorkerId): number {
    return this.#lines.get(worker)?.filter(({ isRefused }) => isRefused).length ?? 0;
  }
}
