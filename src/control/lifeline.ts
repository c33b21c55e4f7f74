/** Ties waits to something that may end under them: a worker that dies, a request that is cancelled. Used by request.ts and
 *  remote-worker.ts. Unlike Promise.race on a long-lived promise it keeps nothing of a wait that is over. */

export class Lifeline {
  readonly #cutters = new Set<(error: Error) => void>();
  #error: Error | null = null;

  get isCut(): boolean {
    return this.#error !== null;
  }

  /** Rejects every guarded wait, now and from now on. The first error stays. */
  cut(error: Error): void {
    if (this.#error !== null) return;
    this.#error = error;
    for (const reject of [...this.#cutters]) reject(error);
  }

  /** `work`'s result, or the cut's error, whichever comes first. */
  guard<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#error !== null) reject(this.#error);
      else this.#cutters.add(reject);
      work.then(resolve, reject).finally(() => this.#cutters.delete(reject));
    });
  }
}
