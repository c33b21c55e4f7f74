/** Default SLOs are multiples of what a request takes that is alone. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { LoneRequests } from '../../src/control/unloaded-requests.js';
import type { ProfileFile } from '../../src/router/cost-parameters.js';
import { defaultSlo } from '../../src/router/default-slo.js';
import { UnloadedTimes } from '../../src/router/unloaded-ratios.js';
import { WorkerCosts } from '../../src/router/worker-costs.js';
import { facts, worker } from '../router/workers.js';
import { syntheticProfile } from '../sim/clusters.js';
import { FakeCluster, stepMs } from './fake-cluster.js';

/** Says 10 ms for a prompt of 64 tokens and 4 ms for each token after it. The fake workers take three steps
 *  and one. */
function optimistic(): ProfileFile {
  const profile = syntheticProfile();
  const rowKnots = [
    { rowCount: 1, ms: 4 },
    { rowCount: 64, ms: 10 },
  ];
  const step = { rowKnots, msPerSampledRow: 0, msPerDecodeKvToken: 0, msPerPrefillPair: 0 };
  const request = { arrivalMs: 0, tokenMs: 0, handOverMs: 0, handOverMsPerToken: 0 };
  return { ...profile, parameters: { ...profile.parameters, step, request } };
}

function optimisticCosts(): WorkerCosts {
  const costs = new WorkerCosts();
  for (const id of ['w0', 'w1']) costs.use(workerId(id), optimistic());
  return costs;
}

describe('requests that are alone', () => {
  it('teach what default SLOs are made of, to all workers of their kind', async () => {
    const costs = optimisticCosts();
    const cluster = new FakeCluster({ roles: ['any', 'any'], strategy: 'collocated', costs });
    for (let i = 0; i < 4; i++) {
      expect(costs.unloadedOf(workerId('w0'))).toEqual({ ttft: 1, tpot: 1 });
      await cluster.clock.drive(cluster.ask(`r${i}`, 64, 12));
      await cluster.clock.drive(cluster.settle());
    }
    for (const id of ['w0', 'w1']) {
      const { ttft, tpot } = costs.unloadedOf(workerId(id));
      expect(ttft).toBeCloseTo((3 * stepMs) / 10, 9);
      expect(tpot).toBeCloseTo(stepMs / 4, 9);
    }
    expect(cluster.coordinator.routing.workers[1]?.unloaded.tpot).toBeCloseTo(stepMs / 4, 9);
    expect(costs.unloadedOf(workerId('of another kind'))).toEqual({ ttft: 1, tpot: 1 });
  });

  it('are those that met nobody, from their first moment to their last', async () => {
    const costs = optimisticCosts();
    const cluster = new FakeCluster({ roles: ['any', 'any'], strategy: 'collocated', costs });
    for (let i = 0; i < 8; i++) {
      const late = cluster.clock.sleep(40).then(() => cluster.ask(`late${i}`, 64, 12));
      await cluster.clock.drive(Promise.all([cluster.ask(`r${i}`, 64, 12), late]));
      await cluster.clock.drive(cluster.settle());
    }
    expect(costs.unloadedOf(workerId('w0'))).toEqual({ ttft: 1, tpot: 1 });
    const [company, a, b] = [new LoneRequests(), {}, {}];
    company.enter(a);
    company.enter(b);
    expect([company.leave(a), company.leave(b)]).toEqual([false, false]);
    company.enter(a);
    expect(company.leave(a)).toBe(true);
  });
});

it('the ratio is a median of the last ones, within bounds; what does not compare is left out', () => {
  const times = new UnloadedTimes();
  for (const ttft of [1.2, 9, 1.4, 1.3]) times.observe({ ttft, tpot: null });
  expect(times.ratios).toEqual({ ttft: 1.35, tpot: 1 });
  for (let i = 0; i < 100; i++) times.observe({ ttft: 0.1, tpot: 7 });
  expect(times.ratios).toEqual({ ttft: 0.8, tpot: 2 });
  for (let i = 0; i < 17; i++) times.observe({ ttft: 1.1, tpot: 1.1 });
  expect(times.ratios).toEqual({ ttft: 1.1, tpot: 1.1 });
});

it('a default SLO uses it', () => {
  const unloaded = { ttft: 1.5, tpot: 1.25 };
  const [costed, real] = [worker('a', 'any'), worker('a', 'any', { unloaded })];
  const [asIs, asCosts] = [defaultSlo(facts(), [real]), defaultSlo(facts(), [costed])];
  expect(asIs.ttftMs).toBeCloseTo(1.5 * asCosts.ttftMs, 9);
  expect(asIs.tpotMs).toBeCloseTo(1.25 * asCosts.tpotMs, 9);
});
