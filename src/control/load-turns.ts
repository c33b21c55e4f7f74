/** Workers of one GPU load one after another: each takes for its KV cache what those before it have left of
 *  the GPU's share. Used by worker-slot.ts; one for each GPU. Invariant: at most one turn is neither loaded
 *  nor ended. */

export interface LoadTurn {
  /** Workers that held their memory when the turn began. */
  readonly loadedCount: number;
  /** The worker has its memory: the next one may load. */
  loaded(): void;
  /** Its process is gone, loaded or not. */
  end(): void;
}

export class LoadTurns {
  #loadedCount = 0;
  #last: Promise<void> = Promise.resolve();

  /** Resolves when nobody else is loading. */
  async take(): Promise<LoadTurn> {
    const previous = this.#last;
    let pass = () => {};
    this.#last = new Promise((resolve) => {
      pass = resolve;
    });
    await previous;
    let state: 'loading' | 'loaded' | 'ended' = 'loading';
    const loaded = () => {
      if (state !== 'loading') return;
      state = 'loaded';
      this.#loadedCount++;
      pass();
    };
    const end = () => {
      if (state === 'loaded') this.#loadedCount--;
      state = 'ended';
      pass();
    };
    return { loadedCount: this.#loadedCount, loaded, end };
  }
}
