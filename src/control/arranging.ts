/** When arrangements are compared: beside serving, a part in each turn of the event loop, and the seldomer the less it would say. Used by
 *  routing.ts. Invariant: at most one comparison at a time, and over time no more than its share of a core. */
import type { Clock } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import type { Arrangement } from '../router/arrangement.js';
import { Arranger, type Standing } from '../router/arranger.js';
import type { RememberedRequest } from '../router/recent-requests.js';
import type { Candidates } from '../router/route.js';
import type { WorkerSnapshot } from '../router/snapshot.js';

/** Between two comparisons, twice as long after each that changed nothing under the same load; and what share of one core they may take, so that
 *  large clusters compare less often. */
const everyMs = 2_000;
const pauseMsMax = 32_000;
const shareMax = 0.05;

interface ArrangingOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly snapshots: () => readonly WorkerSnapshot[];
  /** What a turn takes where computing takes no time, as in a simulation. */
  readonly turnPasses?: (workerCount: number) => Promise<void>;
}

export class Arranging {
  readonly #options: ArrangingOptions;
  readonly #arranger = new Arranger();
  #isRunning = false;
  #soonestMs = 0;
  #pauseMs = everyMs;
  #comparedMs: number | null = null;

  constructor(options: ArrangingOptions) {
    this.#options = options;
  }

  current(candidates: Candidates): Arrangement {
    return this.#arranger.current(candidates);
  }

  /** Of the last comparison. */
  get standings(): readonly Standing[] {
    return this.#arranger.standings;
  }

  /** null: none so far. */
  get comparedAgoMs(): number | null {
    return this.#comparedMs === null ? null : this.#options.clock.nowMs() - this.#comparedMs;
  }

  /** The request may be corrected later, from outside. */
  remember(request: RememberedRequest): void {
    this.#arranger.remember(request);
    if (!this.#arranger.isDue || this.#isRunning) return;
    this.#isRunning = true;
    void this.#lookAndCompare().finally(() => {
      this.#isRunning = false;
    });
  }

  /** A look at the load, and a comparison when one is due: a part of a replay in each turn of the event loop, so that nobody waits long (I6). */
  async #lookAndCompare(): Promise<void> {
    const { clock, logger, snapshots, turnPasses } = this.#options;
    await clock.yield(); // no request's decision waits for this
    const workers = snapshots();
    this.#arranger.look(workers);
    if (!this.#isDue(clock.nowMs())) return;
    const turns = this.#arranger.comparison(workers);
    let spentMs = 0;
    for (let isDone = false; !isDone; await clock.yield()) {
      const startMs = clock.nowMs();
      isDone = turns.next().done === true;
      await turnPasses?.(workers.length);
      spentMs += clock.nowMs() - startMs;
    }
    this.#comparedMs = clock.nowMs();
    this.#pauseMs = this.#arranger.isSteady ? Math.min(2 * this.#pauseMs, pauseMsMax) : everyMs;
    this.#soonestMs = this.#comparedMs + Math.max(everyMs, spentMs / shareMax);
    logger.debug({ standings: this.#arranger.standings }, 'arrangements compared');
  }

  #isDue(nowMs: number): boolean {
    if (nowMs < this.#soonestMs) return false;
    return !this.#arranger.isSteady || nowMs >= (this.#comparedMs ?? 0) + this.#pauseMs;
  }
}
