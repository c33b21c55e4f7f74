/** What was learned of arrangements under loads like one another, so that a load that comes back is not learned anew, and one comparison's luck is
 *  averaged out by the others. Used by arranger.ts.
 *  Invariant: bounded memory; what was not used for longest is forgotten first. */
import type { Arrangement } from './arrangement.js';
import { type LoadFacts, windowCountMax } from './recent-requests.js';
import { Shortfalls } from './shortfall.js';

/** An arrangement, replayed. */
export interface Replayed {
  readonly arrangement: Arrangement;
  readonly name: string;
  /** Mean of withinLimits over the requests. */
  readonly replayedScore: number;
  /** Means of the worst tenth. */
  readonly ttftMsTail: number;
  readonly tpotMsTail: number;
}

/** A load is another one when its rate, its prompts or its answers are by this factor more or less. */
const changeFactor = 1.3;
const regimeCountMax = 16;
/** What is known of an arrangement is a mean over about six whole windows: more would be too slow to follow workers that change. */
const weightMax = 5 * windowCountMax ** 2;

/** One load, and what is known of it. */
export class Regime {
  /** Where it was first seen, moved by what came since. */
  load: LoadFacts;
  /** In use under this load; null: nothing chosen yet. */
  current: Arrangement | null;
  /** What the last comparisons in a row have picked. */
  pickedName = '';
  pickedCount = 0;
  readonly shortfalls = new Shortfalls();
  #replayed: readonly Replayed[] = [];
  #weight = 0;

  constructor(load: LoadFacts, current: Arrangement | null) {
    this.load = load;
    this.current = current;
  }

  /** Means with what is known already. */
  learn(latest: readonly Replayed[], requestCount: number, load: LoadFacts): readonly Replayed[] {
    const weight = requestCount ** 2; // fewer also tell less of the rate
    const share = weight / (this.#weight + weight);
    const mean = (next: number, before: number) => share * next + (1 - share) * before;
    this.#replayed = latest.map((next) => {
      const before = this.#replayed.find(({ name }) => name === next.name) ?? next;
      return {
        ...next,
        replayedScore: mean(next.replayedScore, before.replayedScore),
        ttftMsTail: mean(next.ttftMsTail, before.ttftMsTail),
        tpotMsTail: mean(next.tpotMsTail, before.tpotMsTail),
      };
    });
    this.load = {
      perMs: mean(load.perMs, this.load.perMs),
      promptTokenCount: mean(load.promptTokenCount, this.load.promptTokenCount),
      outputTokenCount: mean(load.outputTokenCount, this.load.outputTokenCount),
    };
    this.#weight = Math.min(weightMax, this.#weight + weight);
    return this.#replayed;
  }
}

export class Regimes {
  /** The one used last comes first. */
  #all: Regime[] = [];

  /** The one in use stays while its load does; otherwise the nearest that is known, or a new one that begins with what the nearest uses. */
  of(load: LoadFacts): Regime {
    const [used] = this.#all;
    if (used !== undefined && distance(load, used.load) <= Math.log(changeFactor)) return used;
    const nearest = this.#all.reduce<Regime | null>(
      (best, each) => (best === null || distance(load, each.load) < distance(load, best.load) ? each : best),
      null,
    );
    const isKnown = nearest !== null && distance(load, nearest.load) <= Math.log(changeFactor);
    const regime = isKnown ? nearest : new Regime(load, nearest?.current ?? null);
    this.#all = [regime, ...this.#all.filter((each) => each !== regime)].slice(0, regimeCountMax);
    return regime;
  }

  /** Other workers: nothing that was learned counts. */
  clear(): void {
    this.#all = [];
  }
}

/** Of the factor by which they differ most, the logarithm. */
function distance(a: LoadFacts, b: LoadFacts): number {
  const apart = (x: number, y: number) => Math.abs(Math.log(Math.max(x, 1e-9) / Math.max(y, 1e-9)));
  return Math.max(
    apart(a.perMs, b.perMs),
    apart(a.promptTokenCount, b.promptTokenCount),
    apart(a.outputTokenCount, b.outputTokenCount),
  );
}
