/** The deltas of several generations in the order they come. Used by exchange.ts.
 *  Invariant: when one fails or the consumer leaves, the others are cancelled and nothing is left unhandled. */
import type { ChoiceDelta } from './choice-text.js';
import type { Generation } from './generation.js';

type IndexedDelta = readonly [promptIndex: number, delta: ChoiceDelta];

export async function* mergeDeltas(generations: readonly Generation[]): AsyncGenerator<IndexedDelta, void, undefined> {
  const [only] = generations;
  if (generations.length === 1 && only !== undefined) {
    for await (const delta of only.deltas()) yield [0, delta];
    return;
  }
  yield* race(generations);
}

interface Arrival {
  readonly index: number;
  readonly result: IteratorResult<ChoiceDelta, void>;
}

async function* race(generations: readonly Generation[]): AsyncGenerator<IndexedDelta, void, undefined> {
  const iterators = generations.map((generation) => generation.deltas());
  const next = (index: number): Promise<Arrival> | undefined =>
    iterators[index]?.next().then((result): Arrival => ({ index, result }));
  const pending = new Map<number, Promise<Arrival>>();
  const ask = (index: number) => {
    const arrival = next(index);
    if (arrival !== undefined) pending.set(index, arrival);
  };
  for (const index of iterators.keys()) ask(index);
  try {
    while (pending.size > 0) {
      const { index, result } = await Promise.race(pending.values());
      pending.delete(index);
      if (result.done === true) continue;
      yield [index, result.value];
      ask(index);
    }
  } finally {
    for (const arrival of pending.values()) arrival.catch(() => undefined);
    for (const generation of generations) generation.cancel();
  }
}
