/** The processor cores that workers, gateway and load generator share when they run on one host: who computes
 *  waits while an event loop has its core. Made by host.ts; timed-device.ts computes on it,
 *  event-loop.ts takes from it.
 *
 *  Computing streams live in work time: it goes on as virtual time does while there is a core for each of
 *  them, slower while there are fewer, and stands still for what event loops take. Event loops run for
 *  microseconds and come first (the compute threads are niced), so theirs is a debt that is paid by all who
 *  compute, and only while no core is free. With cores to spare work time is virtual time.
 *
 *  Invariant: work time never goes back, and what waits for a moment of it goes on at that moment, in the
 *  order of the moments. */
import { at } from '../base/assert.js';
import type { Clock, TimerHandle } from '../base/clock.js';

export interface CoresOptions {
  /** Infinity: cores to spare. */
  readonly coreCount: number;
  /** How much longer a step takes for each other that is computed meanwhile: caches and memory, which cores
   *  share too. */
  readonly neighbourSlowdown: number;
}

interface Waiter {
  readonly workMs: number;
  readonly pass: () => void;
}

/** Two moments closer than this are one: sums of floating-point milliseconds. */
const toleranceMs = 1e-9;

export class SharedCores {
  readonly #clock: Clock;
  readonly #options: CoresOptions;
  #workMs = 0;
  /** Virtual time up to which work time is known. */
  #knownMs = 0;
  /** Virtual time that event loops have taken from those who compute, and that has not passed yet. */
  #debtMs = 0;
  #computingCount = 0;
  /** Ascending. */
  readonly #waiters: Waiter[] = [];
  #timer: { readonly dueMs: number; readonly handle: TimerHandle } | null = null;
  readonly #loops = new Set<EventLoop>();

  constructor(clock: Clock, options: CoresOptions) {
    this.#clock = clock;
    this.#options = options;
  }

  workMs(): number {
    const nowMs = this.#clock.nowMs();
    const passedMs = nowMs - this.#knownMs;
    if (passedMs > 0) {
      const paidMs = Math.min(this.#debtMs, passedMs);
      this.#debtMs -= paidMs;
      this.#workMs += (passedMs - paidMs) * this.#rate;
      this.#knownMs = nowMs;
    }
    return this.#workMs;
  }

  /** Calls `pass` when work time has come to `workMs`; later than now, always. */
  when(workMs: number, pass: () => void): void {
    const waiters = this.#waiters;
    let index = waiters.length;
    while (index > 0 && at(waiters, index - 1).workMs > workMs) index--;
    waiters.splice(index, 0, { workMs, pass });
    if (index === 0) this.#arm();
  }

  /** One more stream computes, or one fewer. */
  computes(change: 1 | -1): void {
    this.workMs();
    this.#computingCount += change;
    this.#arm();
  }

  addLoop(): EventLoop {
    const loop = new EventLoop(this.#clock, (ms) => this.#take(ms));
    this.#loops.add(loop);
    return loop;
  }

  get #rate(): number {
    const { coreCount, neighbourSlowdown } = this.#options;
    const otherCount = Math.max(0, this.#computingCount - 1);
    return Math.min(1, coreCount / (otherCount + 1)) / (1 + neighbourSlowdown * otherCount);
  }

  /** An event loop needs a core for so long: a free one, or it is missed by those who compute. */
  #take(ms: number): void {
    if (this.#computingCount === 0) return;
    this.workMs();
    let runningCount = 0;
    for (const loop of this.#loops) if (loop.isRunning) runningCount++;
    const { coreCount } = this.#options;
    const missingCount = Math.min(1, Math.max(0, this.#computingCount + runningCount - coreCount));
    this.#debtMs += (ms * missingCount) / Math.min(this.#computingCount, coreCount);
  }

  /** A timer that comes too early, since loops have taken time meanwhile, sets itself again. */
  #arm(): void {
    const first = this.#waiters[0];
    if (first === undefined) return;
    const waitMs = this.#debtMs + Math.max(0, first.workMs - this.workMs()) / this.#rate;
    const dueMs = this.#clock.nowMs() + waitMs;
    if (this.#timer !== null && this.#timer.dueMs <= dueMs) return;
    this.#timer?.handle.cancel();
    this.#timer = { dueMs, handle: this.#clock.after(waitMs, () => this.#pass()) };
  }

  #pass(): void {
    this.#timer = null;
    const reachedMs = this.workMs() + toleranceMs;
    while (this.#waiters.length > 0 && at(this.#waiters, 0).workMs <= reachedMs) {
      const waiter = this.#waiters.shift();
      this.#workMs = Math.max(this.#workMs, waiter?.workMs ?? 0);
      waiter?.pass();
    }
    this.#arm();
  }
}

/** One thread that does one thing after another: of the gateway, of a worker, of the load generator. */
export class EventLoop {
  readonly #clock: Clock;
  readonly #take: (ms: number) => void;
  #freeMs = 0;
  #runningUntilMs = 0;

  /** By SharedCores.addLoop. */
  constructor(clock: Clock, take: (ms: number) => void) {
    this.#clock = clock;
    this.#take = take;
  }

  get isRunning(): boolean {
    return this.#runningUntilMs > this.#clock.nowMs();
  }

  /** Something to do that takes so long and comes in `inMs`. Returns the milliseconds it then waits for what
   *  came before; its own time is not in it. */
  run(ms: number, inMs = 0): number {
    if (ms <= 0) return 0;
    const nowMs = this.#clock.nowMs();
    const startMs = Math.max(nowMs + inMs, this.#freeMs);
    this.#freeMs = startMs + ms;
    if (startMs === nowMs) this.#begin(ms);
    else this.#clock.after(startMs - nowMs, () => this.#begin(ms));
    return startMs - nowMs - inMs;
  }

  #begin(ms: number): void {
    this.#runningUntilMs = this.#clock.nowMs() + ms;
    this.#take(ms);
  }
}
