/** The queue between workers and a client that reads slowly. */
import { expect, it } from 'vitest';
import { TwostrokeError } from '../../src/base/errors.js';
import { requestId } from '../../src/base/ids.js';
import { EventQueue } from '../../src/control/generation-stream.js';
import type { TokenEvent } from '../../src/engine/token-event.js';

it('forgets a choice however much of the others is queued', async () => {
  const queue = new EventQueue(() => {});
  const event = (choiceIndex: number): TokenEvent => ({
    kind: 'tokens',
    requestId: requestId('r'),
    choiceIndex,
    tokens: [],
  });
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

it('answers everyone who waits, in order, and gives nothing after a return', async () => {
  const event: TokenEvent = { kind: 'cached', requestId: requestId('r'), cachedTokenCount: 1 };
  const queue = new EventQueue(() => {});
  const waiting = [queue.next(), queue.next(), queue.next()];
  queue.push(event);
  queue.end(new TwostrokeError('unavailable', 'gone'));
  expect(await Promise.allSettled(waiting)).toMatchObject([
    { value: { done: false, value: event } },
    { reason: { code: 'unavailable' } },
    { value: { done: true } },
  ]);
  const left = new EventQueue(() => {});
  left.push(event);
  await left.return();
  left.end(null);
  expect(await left.next()).toMatchObject({ done: true });
});
