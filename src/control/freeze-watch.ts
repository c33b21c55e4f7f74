/** Tells a frozen worker from a slow one within `frozenMs`, by what the operating system says of its process.
 *  Made by worker-slot.ts, one per process.
 *
 *    stopped (SIGSTOP)                                          frozen
 *    waiting, without a heartbeat and without processor time    frozen: a heartbeat that is due would have made it runnable
 *    runnable, or in the disk, or using processor time          alive, however long it says nothing: others have the cores
 *
 *  Invariant: a process that is only starved of cores is never called frozen. */

import type { ProcessLook } from './process-look.js';
import type { Blame } from './suspicion.js';

/** Looks, and heartbeats, in `frozenMs`: one that comes late is made up for by the next. */
export const looksPerFreeze = 4;

export interface Freeze {
  readonly reason: string;
  readonly blame: Blame;
}

export class FreezeWatch {
  readonly #frozenMs: number;
  #stoppedMs = 0;
  #stuckMs = 0;
  #cpuTicks = -1;

  constructor(frozenMs: number) {
    this.#frozenMs = frozenMs;
  }

  /** It has said something. */
  heard(): void {
    this.#stuckMs = 0;
  }

  /** `elapsedMs`: since the last look. `heartbeat`: whether it has promised any. */
  look(
    { state, cpuTicks }: ProcessLook,
    elapsedMs: number,
    heartbeat: 'promised' | 'not_yet',
  ): Freeze | null {
    const isStuck = heartbeat === 'promised' && state === 'waiting' && cpuTicks === this.#cpuTicks;
    this.#stoppedMs = state === 'stopped' ? this.#stoppedMs + elapsedMs : 0;
    this.#stuckMs = isStuck ? this.#stuckMs + elapsedMs : 0;
    this.#cpuTicks = cpuTicks;
    if (this.#stoppedMs >= this.#frozenMs)
      return { reason: 'it has been stopped by a signal', blame: 'outside' };
    if (this.#stuckMs >= this.#frozenMs)
      return { reason: 'it is stuck: no heartbeat, and nothing runs in it', blame: 'work' };
    return null;
  }
}
