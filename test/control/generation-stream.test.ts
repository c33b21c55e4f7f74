/** The queue between workers and a client that reads slowly. */
import { expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { EventQueue } from '../../src/control/generation-stream.js';
import type { TokenEvent } from '../../src/engine/token-event.js';

it('forgets a choice however much of the others is queued', async () => {
  const queue = new EventQueue(() => {});
  const event = (choiceIndex: number): TokenEvent => ({ kind: 'tokens', requestId: requestId('r'), choiceIndex, tokens: [] });
  for (let i = 0; i < 300_000; i++) queue.push(event(i % 3));
  queue.drop(1);
  queue.end(null);
  const left = new Map<number, number>();
  for (let next = await queue.next(); next.done !== true; next = await queue.next()) {
    const { choiceIndex } = next.value as { choiceIndex: number };
    left.set(choiceIndex, (left.get(choiceIndex) ?? 0) + 1);
  }
  expect([...left]).toEqual([
    [0, 100_000],
    [2, 100_000],
  ]);
});
