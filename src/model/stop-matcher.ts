/** Finds stop strings in a text that comes in pieces. Used by text-stream.ts. Invariant: a piece costs what
 *  it weighs times the number of stop strings, however long those are and however much of one has matched
 *  (Knuth, Morris and Pratt; the table grows with the match, so that a long stop string costs nothing until
 *  text comes near it). */

interface StopMatch {
  readonly stopString: string;
  /** In the piece just given, one past the stop string's last unit. */
  readonly end: number;
}

export class StopMatcher {
  readonly #searches: readonly Search[];

  constructor(stopStrings: readonly string[]) {
    this.#searches = stopStrings.filter((stop) => stop !== '').map((stop) => new Search(stop));
  }

  /** Length of the longest end of the text that a stop string starts with. */
  get possibleLength(): number {
    return this.#searches.reduce((longest, { matched }) => Math.max(longest, matched), 0);
  }

  /** The stop string that is completed first; of several that end there, the longest. */
  push(piece: string): StopMatch | null {
    let first: StopMatch | null = null;
    for (let at = 0; at < piece.length && this.#searches.length > 0; at++) {
      const completed = this.#step(piece.charCodeAt(at));
      if (first === null && completed !== null) first = { stopString: completed, end: at + 1 };
    }
    return first;
  }

  #step(unit: number): string | null {
    let longest: string | null = null;
    for (const search of this.#searches) {
      if (search.step(unit) && search.stop.length > (longest?.length ?? 0)) longest = search.stop;
    }
    return longest;
  }
}

class Search {
  readonly stop: string;
  /** How many first units of the stop string the text ends with; all of them only within `step`. */
  matched = 0;
  /** For each length, the longest shorter start of the stop string that its first units end with. */
  readonly #shorter: number[] = [0, 0];

  constructor(stop: string) {
    this.stop = stop;
  }

  /** Whether this unit completes the stop string. */
  step(unit: number): boolean {
    this.matched = this.#advance(this.matched, unit);
    if (this.matched < this.stop.length) return false;
    this.matched = this.#shorterThan(this.matched);
    return true;
  }

  #advance(from: number, unit: number): number {
    let length = from;
    while (length > 0 && this.stop.charCodeAt(length) !== unit) length = this.#shorterThan(length);
    return this.stop.charCodeAt(length) === unit ? length + 1 : 0;
  }

  #shorterThan(length: number): number {
    for (let known = this.#shorter.length; known <= length; known++) {
      this.#shorter.push(this.#advance(this.#shorter[known - 1] ?? 0, this.stop.charCodeAt(known - 1)));
    }
    return this.#shorter[length] ?? 0;
  }
}
