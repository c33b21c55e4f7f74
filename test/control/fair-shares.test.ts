/** Two equal workers on real processors, of which nothing is known beforehand: what noise there is must not become a difference that feeds
 *  itself. Counts requests, no times; but it needs a machine that nobody else uses, where equal workers are equally fast, so it is in the full
 *  suite. test/sim/fair-shares.test.ts is exact. */
import { expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { collect, isFull, startGateway } from './real-cluster.js';

const requestCount = 1000;
const clientCount = 6;

it.runIf(isFull)(
  'two workers have equal shares of 1,000 short requests',
  async () => {
    const { gateway, records } = await startGateway('any:cpu?threads=1,any:cpu?threads=1', { strategy: 'collocated' });
    let slowness: readonly number[] = [];
    try {
      const prng = new Prng(1);
      let askedCount = 0;
      const client = async () => {
        while (askedCount < requestCount) {
          const promptIds = Array.from({ length: prng.integer(8, 64) }, () => prng.integer(3, 4000));
          const id = requestId(`share-${++askedCount}`);
          const maxTokenCount = prng.integer(2, 12);
          await collect(gateway, { id, promptIds, sampling: { ...greedy, maxTokenCount, endTokenIds: [] } });
        }
      };
      await Promise.all(Array.from({ length: clientCount }, client));
      slowness = gateway.routing().workers.map((worker) => worker.slowness);
    } finally {
      await gateway.stop();
    }
    const shares = ['w0', 'w1'].map((id) => records.filter(({ routes }) => routes[0]?.workers[0] === id).length / records.length);
    expect(records.length).toBeGreaterThanOrEqual(requestCount);
    for (const share of shares) expect(Math.abs(share / 0.5 - 1), `shares ${shares}, slowness ${slowness}`).toBeLessThan(0.05);
  },
  180_000,
);
