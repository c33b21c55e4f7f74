/** A simulated process's view of time: once the process is dead, nothing of it ever goes on. Used by simulated-workers.ts. */
import type { Clock, TimerHandle } from '../base/clock.js';
import { turnMs } from './virtual-clock.js';

export class MortalClock implements Clock {
  readonly #clock: Clock;
  #isDead = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  die(): void {
    this.#isDead = true;
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  wallMs(): number {
    return this.#clock.wallMs();
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.after(delayMs, resolve));
  }

  after(delayMs: number, fire: () => void): TimerHandle {
    return this.#clock.after(delayMs, () => {
      if (!this.#isDead) fire();
    });
  }

  yield(): Promise<void> {
    return this.sleep(turnMs);
  }
}
