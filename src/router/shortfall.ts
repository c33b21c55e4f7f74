/** By how much arrangements have kept fewer requests within their limits than their replays said. A replay knows steps and bytes; it does not
 *  know what messages, hand-overs and shared processors cost where everything is busy. Used by arranger.ts.
 *  An arrangement that was never used is taken to fall as short as `whole`, with which everything begins. Once used and found wanting it is
 *  believed again little by little, since loads change. Invariant: one mean for each arrangement that was ever used. */

/** A mean is worth as much as its requests, up to so many; beside so many that have met what was replayed. */
const requestCountMax = 512;
const metCount = 64;
/** What is left, after one comparison, of what is known of an arrangement that is not in use. */
const keptShare = 0.98;

interface Known {
  /** Of replayed less real, over requests. */
  readonly sum: number;
  readonly requestCount: number;
}

export class Shortfalls {
  readonly #byName = new Map<string, Known>();

  /** `realScores`: of requests that were routed within the arrangement and have finished. */
  judge(name: string, replayedScore: number, realScores: readonly number[]): void {
    for (const [other, known] of this.#byName) if (other !== name) this.#byName.set(other, scaled(known, keptShare));
    if (realScores.length === 0) return;
    const { sum, requestCount } = this.#byName.get(name) ?? { sum: 0, requestCount: 0 };
    const latest = realScores.reduce((total, score) => total + replayedScore - score, 0);
    const known = { sum: sum + latest, requestCount: requestCount + realScores.length };
    this.#byName.set(name, scaled(known, Math.min(1, requestCountMax / known.requestCount)));
  }

  /** Below 0: better than replayed. */
  of(name: string): number {
    const { sum, requestCount } = this.#byName.get(name) ?? this.#byName.get('whole') ?? { sum: 0, requestCount: 0 };
    return sum / (requestCount + metCount);
  }
}

function scaled({ sum, requestCount }: Known, share: number): Known {
  return { sum: share * sum, requestCount: share * requestCount };
}
