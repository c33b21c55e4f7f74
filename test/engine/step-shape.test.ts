/** Decode steps that repeat run as recorded graphs; everything else is enqueued op by op. */
import { expect, it } from 'vitest';
import { fakeEngine, promptOf, request } from './fake-engine.js';

it('records one graph for a shape and lane, however many steps run in it', async () => {
  const { engine, device } = fakeEngine({ depth: 2 });
  const [result] = await engine.generate([request(promptOf(1, 5), { maxTokenCount: 60 })]);
  expect(result?.choices[0]?.tokens).toHaveLength(60);
  expect(device.graphs.size).toBe(2);
});

it('pads three sequences to the shape of four and gives the tokens each has alone', async () => {
  const ask = () => [3, 4, 5].map((seed) => request(promptOf(seed, 6), { maxTokenCount: 20 }));
  const together = fakeEngine({ prefixCaching: 'off' });
  const tokensOf = (results: Awaited<ReturnType<typeof together.engine.generate>>) =>
    results.map(({ choices }) => choices[0]!.tokens.map(({ tokenId }) => tokenId));
  const batched = tokensOf(await together.engine.generate(ask()));
  const alone = [];
  for (const one of ask())
    alone.push(...tokensOf(await fakeEngine({ prefixCaching: 'off' }).engine.generate([one])));
  expect(batched).toEqual(alone);
});

it('records nothing for steps with token history or biases', async () => {
  const { engine, device } = fakeEngine();
  await engine.generate([request(promptOf(1, 5), { maxTokenCount: 9, presencePenalty: 1 })]);
  await engine.generate([request(promptOf(2, 5), { maxTokenCount: 9, logitBias: [[4, 2]] })]);
  expect(device.graphs.size).toBe(0);
});

it('forgets graphs when the engine closes', async () => {
  const { engine, device } = fakeEngine();
  await engine.generate([request(promptOf(1, 5), { maxTokenCount: 9 })]);
  expect(device.graphs.size).toBeGreaterThan(0);
  await engine.close();
  expect(device.graphs.size).toBe(0);
});
