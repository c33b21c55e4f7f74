/** Runs the engine: steps while there is work, sleeps on a promise while there is none. Made by worker.ts.
 *  Invariant: between two steps the event loop gets a turn, so that messages (new requests, aborts) get in at
 *  every step. */
import type { Clock } from '../base/clock.js';
import type { TokenEvent } from '../engine/token-event.js';

/** What the loop needs of an Engine. */
export interface Steppable {
  readonly hasWork: boolean;
  step(): Promise<readonly TokenEvent[]>;
}

export class EngineLoop {
  readonly #engine: Steppable;
  readonly #clock: Clock;
  readonly #deliver: (events: readonly TokenEvent[]) => Promise<void> | undefined;
  #wake: (() => void) | null = null;
  #isStopped = false;

  /** `deliver` gets every step's events; the loop waits for the promise it may return (a congested
   *  reader). */
  constructor(
    engine: Steppable,
    clock: Clock,
    deliver: (events: readonly TokenEvent[]) => Promise<void> | undefined,
  ) {
    this.#engine = engine;
    this.#clock = clock;
    this.#deliver = deliver;
  }

  /** There may be work: to be called after everything that gives the engine some. */
  wake(): void {
    this.#wake?.();
    this.#wake = null;
  }

  stop(): void {
    this.#isStopped = true;
    this.wake();
  }

  /** Resolves after stop(), between two steps. Rejects with what a step threw: the engine is then beyond
   *  use. */
  async run(): Promise<void> {
    while (!this.#isStopped) {
      if (!this.#engine.hasWork) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        // what woke it is answered before a step takes the thread, and what came with it is in that step
        await this.#clock.yield();
        continue;
      }
      const events = await this.#engine.step();
      if (events.length > 0) await this.#deliver(events);
      await this.#clock.yield();
    }
  }
}
