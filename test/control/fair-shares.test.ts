/** Two workers on real processors, of which nothing is known beforehand: what noise there is must not become
 *  a difference that feeds itself. Processors that are shared are not equally fast for long, so it is not
 *  requests that are compared but how many each held at a time: what the router decides. A worker that serves
 *  them faster then has more of them. test/sim/fair-shares.test.ts has equal workers, and counts. */
import { expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { collect, isFull, startGateway } from './real-cluster.js';

const requestCount = 1000;
const clientCount = 6;
/** Of six requests that are there at once a worker holds three, and now and then one more or less. */
const tolerance = 0.1;

it.runIf(isFull)(
  'two workers hold equally many of 1,000 short requests at a time',
  async () => {
    const { gateway, records } = await startGateway('any:cpu?threads=1,any:cpu?threads=1', {
      strategy: 'collocated',
    });
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
    const busyMs = ['w0', 'w1'].map((id) =>
      records
        .filter(({ routes }) => routes[0]?.workers[0] === id)
        .reduce((sum, { doneMs, arrivalMs }) => sum + (doneMs - arrivalMs), 0),
    );
    const mean = busyMs.reduce((sum, ms) => sum + ms / 2, 0);
    expect(records.length).toBeGreaterThanOrEqual(requestCount);
    for (const ms of busyMs)
      expect(Math.abs(ms / mean - 1), `held ${busyMs} ms, slowness ${slowness}`).toBeLessThan(tolerance);
  },
  180_000,
);
