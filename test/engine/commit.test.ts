/** What is told of a step is plain data: it survives JSON. */
import { expect, it } from 'vitest';
import { readLogprob } from '../../src/engine/commit.js';

it('a log-probability of -Infinity stays the lowest one on its way over the bus', () => {
  const none = Number.NEGATIVE_INFINITY;
  const topLogprobs = Float32Array.of(-0.5, none);
  const result = { logprobs: Float32Array.of(none), topIds: Int32Array.of(7, -1), topLogprobs };
  const { logprob, top } = JSON.parse(JSON.stringify(readLogprob(result, 0, 2))) as ReturnType<
    typeof readLogprob
  >;
  expect(top[0]).toEqual([7, -0.5]);
  for (const lowest of [logprob, top[1]?.[1]]) expect(lowest).toBeLessThan(-1e38);
});
