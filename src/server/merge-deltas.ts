/** The deltas of one or more generations in the order they come. Used by exchange.ts.
 *  Invariants: when one fails or the consumer leaves, the others are cancelled and nothing is left unhandled;
 *  a delta takes the same work however many generations there are; no more than `atOnce` of them have begun
 *  and not ended. */
import type { ChoiceDelta } from './choice-text.js';
import type { Generation } from './generation.js';

type IndexedDelta = readonly [promptIndex: number, delta: ChoiceDelta];

interface Arrival {
  readonly index: number;
  /** Rejected when the generation has failed. */
  readonly result: Promise<IteratorResult<ChoiceDelta, void>>;
}

interface MergeOptions {
  /** Generations that may have begun and not ended. */
  readonly atOnce: number;
  /** A later turn of the event loop. */
  readonly turn: () => Promise<unknown>;
  /** No more of them will be submitted. */
  readonly onAllBegun: () => void;
}

export async function* mergeDeltas(
  generations: readonly Generation[],
  options: MergeOptions,
): AsyncGenerator<IndexedDelta, void, undefined> {
  const [only] = generations;
  if (generations.length === 1 && only !== undefined) {
    // nearly every request: a promise less for each of its tokens
    const deltas = only.deltas();
    const first = deltas.next();
    options.onAllBegun();
    for (let item = await first; item.done !== true; item = await deltas.next()) yield [0, item.value];
    return;
  }
  yield* merged(generations, options);
}

/** One begins in each turn of the event loop: to route a request takes about a millisecond. */
async function* merged(
  generations: readonly Generation[],
  { atOnce, turn, onAllBegun }: MergeOptions,
): AsyncGenerator<IndexedDelta, void, undefined> {
  const iterators = generations.map((generation) => generation.deltas());
  const arrivals = new Arrivals();
  const ask = (index: number) => {
    const result = iterators[index]?.next();
    if (result !== undefined) arrivals.expect({ index, result });
  };
  let begunCount = 0;
  const begin = async () => {
    if (begunCount === generations.length) return;
    ask(begunCount++);
    if (begunCount === generations.length) onAllBegun();
    await turn();
  };
  try {
    for (let i = 0; i < Math.min(atOnce, generations.length); i++) await begin();
    for (let endedCount = 0; endedCount < generations.length; ) {
      const { index, result } = await arrivals.next();
      const { done, value } = await result;
      if (done === true) {
        endedCount++;
        await begin();
      } else {
        yield [index, value];
        ask(index);
      }
    }
  } finally {
    for (const generation of generations) generation.cancel();
    // so that each has seen its end
    for (const iterator of iterators) iterator.return().catch(() => undefined);
  }
}

/** Results in the order they are there. A generation is asked for one at a time, so that what waits here is
 *  bounded. */
class Arrivals {
  #settled: Arrival[] = [];
  /** Those that are handed out now, the next one last. */
  #batch: Arrival[] = [];
  #wake: (() => void) | null = null;

  expect(arrival: Arrival): void {
    const settle = () => {
      this.#settled.push(arrival);
      this.#wake?.();
    };
    arrival.result.then(settle, settle);
  }

  async next(): Promise<Arrival> {
    for (let arrival = this.#batch.pop(); ; arrival = this.#batch.pop()) {
      if (arrival !== undefined) return arrival;
      if (this.#settled.length === 0) await this.#somethingSettled();
      this.#batch = this.#settled.reverse();
      this.#settled = [];
    }
  }

  #somethingSettled(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
