/** By how much arrangements have kept fewer requests within their limits than their replays said. A replay knows steps and bytes; it does not
 *  know what messages, hand-overs and shared processors cost where everything is busy. Used by arranger.ts.
 *  An arrangement that was never used is taken to fall as short as `whole`, with which everything begins. Once used and found wanting it is
 *  believed again little by little, since loads change. Invariant: one number for each arrangement that was ever used. */

/** Fewer finished requests tell too little. */
const requestCountMin = 24;
/** Weight of the latest judgement. */
const newShare = 0.5;
/** What is left, after one comparison, of the difference to `whole` of an arrangement that is not in use. */
const keptShare = 0.98;

export class Shortfalls {
  readonly #byName = new Map<string, number>();

  /** `realScores`: of requests that were routed within the arrangement and have finished. */
  judge(name: string, replayedScore: number, realScores: readonly number[]): void {
    const whole = this.of('whole');
    for (const [other, shortfall] of this.#byName) {
      if (other !== name) this.#byName.set(other, whole + keptShare * (shortfall - whole));
    }
    if (realScores.length < requestCountMin) return;
    const latest = Math.max(0, replayedScore - realScores.reduce((sum, score) => sum + score, 0) / realScores.length);
    const before = this.#byName.get(name) ?? latest;
    this.#byName.set(name, newShare * latest + (1 - newShare) * before);
  }

  of(name: string): number {
    return this.#byName.get(name) ?? this.#byName.get('whole') ?? 0;
  }
}
