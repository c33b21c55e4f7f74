/** A step's events on their way to the gateway: in order, and no message longer than can be read in a moment. */
import { expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { requestId } from '../../src/base/ids.js';
import { Request } from '../../src/control/request.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { TokenEvent, TokenLogprob } from '../../src/engine/token-event.js';
import { tokenMessages } from '../../src/worker/token-messages.js';

const id = requestId('a');
const logprobs = (count: number, topCount: number): TokenLogprob[] =>
  Array.from({ length: count }, (_, i) => ({
    logprob: -i,
    top: Array.from({ length: topCount }, (_each, rank) => [rank, -rank] as const),
  }));
const tokens: TokenEvent = { kind: 'tokens', requestId: id, choiceIndex: 0, tokens: [{ tokenId: 1 }] };
const scores = (count: number, topCount: number): TokenEvent => ({
  kind: 'promptLogprobs',
  requestId: id,
  logprobs: logprobs(count, topCount),
});

it('keeps events together, except a prompt’s many log-probabilities', () => {
  expect([...tokenMessages([tokens, tokens])]).toEqual([{ events: [tokens, tokens] }]);
  expect([...tokenMessages([])]).toEqual([]);
  const messages = [...tokenMessages([tokens, scores(2000, 20), tokens, tokens])];
  const kinds = messages.map(({ events }) => events.map(({ kind }) => kind).join());
  expect(kinds).toEqual(['tokens', ...Array(6).fill('promptLogprobs'), 'tokens,tokens']);
  const scored = messages.flatMap(({ events }) => events.filter((event) => event.kind === 'promptLogprobs'));
  for (const piece of scored) expect(piece.logprobs.length * 21).toBeLessThanOrEqual(8192);
  expect(scored.flatMap((piece) => piece.logprobs)).toEqual(logprobs(2000, 20));
});

it('gives a request each log-probability once, also when the worker dies between two pieces', async () => {
  const sampling = { ...greedy, promptLogprobCount: 20 };
  const request = new Request({ id, promptIds: Array(2001).fill(7), sampling }, systemClock, 60_000);
  const pieces = [...tokenMessages([scores(2000, 20)])].flatMap(({ events }) => events);
  for (const piece of pieces.slice(0, 3)) request.emit(piece);
  expect(request.toBody().sampling.promptLogprobCount).toBe(20); // it needs the others from another worker
  for (const piece of pieces) request.emit(piece);
  expect(request.toBody().sampling.promptLogprobCount).toBeNull();
  for (const piece of pieces) request.emit(piece);
  request.emit({ ...tokens, finishReason: 'length' });
  const seen: TokenLogprob[] = [];
  for await (const event of request.stream) if (event.kind === 'promptLogprobs') seen.push(...event.logprobs);
  expect(seen).toEqual(logprobs(2000, 20));
});
