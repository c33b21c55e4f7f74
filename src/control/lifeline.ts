/** Ties waits to something that may end under them: a worker that dies, a request that settles. Used by
 *  remote-worker.ts and reservations.ts. Unlike Promise.race on a long-lived promise it keeps nothing of a
 *  wait that is over.
 *  Invariant: a guarded wait is kept until its work settles or the line is cut, so work that may never settle
 *  must be settled by its owner. */

export class Lifeline {
  readonly #cutters = new Set<(error: Error) => void>();
  #error: Error | null = null;

  get isCut(): boolean {
    return this.#error !== null;
  }

  /** Guarded waits that are not over: none may be left when nobody waits. */
  get waitCount(): number {
    return this.#cutters.size;
  }

  /** Rejects every guarded wait, now and from now on. The first error stays. */
  cut(error: Error): void {
    if (this.#error !== null) return;
    this.#error = error;
    for (const reject of this.#cutters) reject(error);
    this.#cutters.clear();
  }

  /** `work`'s result, or the cut's error, whichever comes first. */
  guard<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#error !== null) reject(this.#error);
      else this.#cutters.add(reject);
      const done = () => void this.#cutters.delete(reject);
      work.then(resolve, reject).then(done);
    });
  }
}
