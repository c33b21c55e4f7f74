import { describe, expect, it } from 'vitest';
import { arrivals } from '../../src/bench/arrivals.js';
import { planRequests } from '../../src/bench/plan.js';
import type { PlannedRequest } from '../../src/bench/request-record.js';
import { createWorkload, type WorkloadName } from '../../src/bench/workload.js';
import { parseWorkerSpecs } from '../../src/control/worker-spec.js';
import type { Strategy } from '../../src/router/route.js';
import type { WorkerTimes } from '../../src/sim/simulated-workers.js';
import { type SimulationOptions, simulate } from '../../src/sim/simulation.js';

const settings = {
  ...{ blockTokenCount: 16, blockCount: 4096, tokenBudget: 512, prefillChunkTokenCount: 512, sequenceCountMax: 64 },
  ...{ maxModelTokenCount: 4096, prefixCaching: 'on', depth: 2, vocabCount: 1000 },
} as const;

/** 0.02 ms a prompt token, 2 ms a decode step; 1 GB/s. */
const plainTimes = (): WorkerTimes => ({
  steps: {
    draw: ({ prefillTokenCount, decodeCount }) => 0.02 * prefillTokenCount + (decodeCount > 0 ? 2 : 0),
  },
  link: { latencyMs: 0.1, draw: (bytes) => bytes / 1e6 },
  request: { arrivalMs: 0.5, tokenMs: 0.25, handOverMs: 1 },
  kvBytesPerToken: 1000,
});

const load = {
  ...{ concurrencyMax: Number.POSITIVE_INFINITY, warmupMs: 0, warmupRequestCount: 0 },
  ...{ drainMs: 600_000, durationMs: Number.POSITIVE_INFINITY },
};

function plan(name: WorkloadName, ratePerSecond: number, requestCountMax: number, seed = 1): Iterable<PlannedRequest> {
  const workload = createWorkload({
    ...{ name, seed, contentSeed: seed, tokenIdPool: Array.from({ length: 256 }, (_, i) => i + 3) },
    ...{ inputTokenCount: 100, outputTokenCount: 32, rangeRatio: 0, outputShape: 'lognormal', lengthScale: 1 },
  });
  const options = {
    outputLength: 'forced',
    contextTokenCount: 4096,
    requestCountMax,
    durationMs: Number.POSITIVE_INFINITY,
  } as const;
  return planRequests(arrivals({ ratePerSecond, burstiness: 1, seed }), workload, options, { shortenedCount: 0 });
}

function options(workers: string, strategy: Strategy, more: Partial<SimulationOptions> = {}): SimulationOptions {
  return { workers: parseWorkerSpecs(workers), strategy, settings, timesOf: plainTimes, ...more };
}

describe('simulation', () => {
  it('runs', async () => {
    const start = performance.now();
    const result = await simulate(options('any:cpu*2', 'adaptive'), plan('mixed', 20, 500), load);
    console.log(performance.now() - start, result.records.length, result.records.slice(0, 3), result.engines[0]);
    expect(result.records.every(({ outcome }) => outcome === 'completed')).toBe(true);
  });
});
