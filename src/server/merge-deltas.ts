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

export async function* mergeDeltas(
  generations: readonly Generation[],
  atOnce: number,
): AsyncGenerator<IndexedDelta, void, undefined> {
  const [only] = generations;
  if (generations.length === 1 && only !== undefined) {
    // nearly every request: a promise less for each of its tokens
    for await (const delta of only.deltas()) yield [0, delta];
    return;
  }
  yield* merged(generations, atOnce);
}

async function* merged(
  generations: readonly Generation[],
  atOnce: number,
): AsyncGenerator<IndexedDelta, void, undefined> {
  const iterators = generations.map((generation) => generation.deltas());
  const arrivals = new Arrivals();
  const ask = (index: number) => {
    const result = iterators[index]?.next();
    if (result !== undefined) arrivals.expect({ index, result });
  };
  let begunCount = 0;
  const begin = () => {
    if (begunCount < generations.length) ask(begunCount++);
  };
  for (let i = 0; i < atOnce; i++) begin();
  try {
    for (let endedCount = 0; endedCount < generations.length; ) {
      const { index, result } = await arrivals.next();
      const { done, value } = await result;
      if (done === true) {
        endedCount++;
        begin();
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
