/** Connections of a listener that have not said yet who they are. Used by unix-socket.ts and by
 *  transfer/tcp-receiver.ts.
 *  Invariants: there are never more than `countMax` of them, the oldest is hung up on for the newest; none
 *  stays one longer than `deadlineMs`. */
import type { Clock, TimerHandle } from '../base/clock.js';

export interface StrangerLimits {
  readonly countMax: number;
  readonly deadlineMs: number;
}

interface Stranger {
  close(reason: string): void;
}

export class Strangers {
  readonly #clock: Clock;
  readonly #limits: StrangerLimits;
  /** The oldest first. */
  readonly #timers = new Map<Stranger, TimerHandle>();

  constructor(clock: Clock, limits: StrangerLimits) {
    this.#clock = clock;
    this.#limits = limits;
  }

  add(stranger: Stranger): void {
    const { countMax, deadlineMs } = this.#limits;
    const [oldest] = this.#timers.keys();
    if (oldest !== undefined && this.#timers.size >= countMax)
      this.#drop(oldest, `${countMax} others have come since and not said hello either`);
    const expire = () => this.#drop(stranger, `no hello within ${deadlineMs} ms`);
    this.#timers.set(stranger, this.#clock.after(deadlineMs, expire));
  }

  /** It is known now, or gone. */
  delete(stranger: Stranger): void {
    this.#timers.get(stranger)?.cancel();
    this.#timers.delete(stranger);
  }

  #drop(stranger: Stranger, reason: string): void {
    this.delete(stranger);
    stranger.close(reason);
  }
}
