/** Logits that are no numbers, on real worker processes: the requests that read the broken weights end with
 *  one error, collocated or handed over; the others write what a whole model writes, and no worker is lost,
 *  retried or left with anything. */
import { afterAll, afterEach, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { Gateway } from '../../src/control/gateway.js';
import type { RequestInput } from '../../src/control/gateway-api.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { fixtureFolder } from '../model/harness.js';
import { dropPlanted, plantedFolder, rowOf } from '../model/planted.js';
import { collect, expectNothingOwned, type RealOptions, startGateway } from './real-cluster.js';

const running: Gateway[] = [];
afterEach(async () => {
  for (const gateway of running.splice(0)) await gateway.stop();
});
afterAll(dropPlanted);

const poison = 300;
const inputs = (name: string): RequestInput[] => {
  const prng = new Prng(11);
  return Array.from({ length: 8 }, (_, index) => {
    const promptIds = Array.from({ length: 70 }, () => prng.integer(3, poison - 1));
    if (index % 2 === 1) promptIds[6] = poison;
    return {
      id: requestId(`${name}-${index}`),
      promptIds,
      sampling: { ...greedy, maxTokenCount: 10, logitBias: [[poison, -100]] },
    }; // read, never written
  });
};

async function start(workers: string, modelFolder: string, strategy: NonNullable<RealOptions['strategy']>) {
  const settings = { modelFolder, maxModelTokenCount: 512, prefillChunkTokenCount: 32, blockCount: 128 };
  const started = await startGateway(workers, { strategy, settings });
  running.push(started.gateway);
  return started;
}

const settled = (gateway: Gateway, name: string) =>
  Promise.allSettled(inputs(name).map((input) => collect(gateway, input)));

it.each([
  ['collocated', 'any:cpu?threads=1'],
  ['disaggregated', 'prefill:cpu?threads=1,decode:cpu?threads=1'],
] as const)('%s: ends the requests that read a NaN, and no others', async (strategy, workers) => {
  const whole = await start('any:cpu?threads=1', fixtureFolder('qwen3-moe'), 'collocated');
  const expected = await settled(whole.gateway, 'whole');
  const folder = plantedFolder(fixtureFolder('qwen3-moe'), { 'model.embed_tokens.weight': rowOf(poison) });
  const { gateway, records } = await start(workers, folder, strategy);
  for (const round of ['first', 'again']) {
    const found = await settled(gateway, round);
    for (const [index, result] of found.entries()) {
      if (index % 2 === 0) expect(result).toEqual(expected[index]);
      else expect(result).toMatchObject({ status: 'rejected', reason: { code: 'numeric_error' } });
    }
    await expectNothingOwned(gateway);
  }
  for (const { errorCode, routes, lossCount, cachedTokenCount } of records) {
    expect(routes).toHaveLength(1); // it is not tried elsewhere
    expect(lossCount).toBe(0);
    if (errorCode !== undefined) expect(cachedTokenCount).toBe(0);
  }
  expect(records.filter(({ errorCode }) => errorCode === 'numeric_error')).toHaveLength(8);
  expect(records.some(({ cachedTokenCount }) => cachedTokenCount > 0)).toBe(true);
});
