/** A simulated process's view of time: once the process is dead, nothing of it ever goes on. Used by
 *  simulated-workers.ts. */
import type { Clock, TimerHandle } from '../base/clock.js';
import type { SharedCores } from './shared-cores.js';
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

  get isDead(): boolean {
    return this.#isDead;
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

/** The work time of one device, in milliseconds (see shared-cores.ts). */
export interface ComputeTime {
  nowMs(): number;
  /** Resolves when it is `atMs`; at once when it is past that. */
  until(atMs: number): Promise<void>;
  /** The device has something to compute until then. */
  computeUntil(atMs: number): void;
}

export class MortalComputeTime implements ComputeTime {
  readonly #cores: SharedCores;
  readonly #life: MortalClock;
  #endMs = 0;
  #isComputing = false;

  constructor(cores: SharedCores, life: MortalClock) {
    this.#cores = cores;
    this.#life = life;
  }

  nowMs(): number {
    return this.#cores.workMs();
  }

  until(atMs: number): Promise<void> {
    if (atMs <= this.nowMs()) return Promise.resolve();
    return new Promise((resolve) => {
      this.#cores.when(atMs, () => {
        if (!this.#life.isDead) resolve();
      });
    });
  }

  computeUntil(atMs: number): void {
    if (atMs <= this.#endMs) return;
    this.#endMs = atMs;
    if (!this.#isComputing) this.#cores.computes(1);
    this.#isComputing = true;
    this.#cores.when(atMs, () => {
      if (this.#endMs > atMs) return;
      this.#isComputing = false;
      this.#cores.computes(-1);
    });
  }
}
