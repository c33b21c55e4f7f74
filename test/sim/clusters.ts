/** Loads and clusters that the simulator's tests use again and again. */
import { Prng } from '../../src/base/prng.js';
import { arrivals } from '../../src/bench/arrivals.js';
import type { PlannedRequest } from '../../src/bench/load-record.js';
import { planRequests } from '../../src/bench/plan.js';
import { createWorkload, type WorkloadName } from '../../src/bench/workload.js';
import { parseWorkerSpecs } from '../../src/control/worker-spec.js';
import type { ProfileFile } from '../../src/router/cost-parameters.js';
import type { Strategy } from '../../src/router/route.js';
import { stepMs } from '../../src/router/step-cost.js';
import { prefillPairCountOf, type StepSample, type StepWork } from '../../src/router/step-work.js';
import type { WorkerTimes } from '../../src/sim/simulated-workers.js';
import type { SimulatedSettings, SimulationOptions } from '../../src/sim/simulation.js';

export const settings: SimulatedSettings = {
  blockTokenCount: 16,
  blockCount: 4096,
  tokenBudget: 512,
  prefillChunkTokenCount: 512,
  sequenceCountMax: 64,
  maxModelTokenCount: 4096,
  prefixCaching: 'on',
  depth: 2,
  vocabCount: 1000,
};

/** 0.02 ms a prompt token, 2 ms a decode step; 1 GB/s. */
export const plainTimes = (): WorkerTimes => ({
  steps: {
    draw: ({ prefillTokenCount, decodeCount }) => 0.02 * prefillTokenCount + (decodeCount > 0 ? 2 : 0),
  },
  link: { drawLatency: () => 0.1, draw: (bytes) => bytes / 1e6 },
  request: { arrivalMs: 0.5, tokenMs: 0.25, handOverMs: 1, handOverMsPerToken: 0 },
  kvBytesPerToken: 1024,
});

export const load = {
  concurrencyMax: Number.POSITIVE_INFINITY,
  warmupMs: 0,
  warmupRequestCount: 0,
  drainMs: 600_000,
  durationMs: Number.POSITIVE_INFINITY,
};

export function poisson(
  name: WorkloadName,
  ratePerSecond: number,
  requestCountMax: number,
  seed = 1,
): Iterable<PlannedRequest> {
  const workload = createWorkload({
    name,
    seed,
    contentSeed: seed,
    tokenIdPool: Array.from({ length: 256 }, (_, i) => i + 3),
    inputTokenCount: 100,
    outputTokenCount: 32,
    rangeRatio: 0,
    outputShape: 'lognormal',
    lengthScale: 1,
  });
  const options = {
    outputLength: 'forced',
    contextTokenCount: 4096,
    requestCountMax,
    durationMs: Number.POSITIVE_INFINITY,
  } as const;
  return planRequests(arrivals({ ratePerSecond, burstiness: 1, seed }), workload, options, {
    shortenedCount: 0,
  });
}

/** One request at a time of its own. */
export function requestAt(
  at: number,
  promptTokenCount: number,
  wantedTokenCount: number,
  index = 0,
): PlannedRequest {
  const ids = Array.from({ length: promptTokenCount }, (_, i) => 3 + ((i * 31 + index * 7 + (i >> 3)) % 500));
  return {
    index,
    at,
    prompt: { kind: 'ids', ids },
    promptTokenCount,
    wantedTokenCount,
    maxTokenCount: 4 * wantedTokenCount,
  };
}

export function cluster(
  workers: string,
  strategy: Strategy,
  more: Partial<SimulationOptions> = {},
): SimulationOptions {
  return { workers: parseWorkerSpecs(workers), strategy, settings, timesOf: plainTimes, ...more };
}

/** What measuring a worker of that kind would give: decode over batch × length, prefill over lengths and
 *  cached prefixes, mixed steps. */
export function syntheticSamples(
  msOf: (work: StepWork) => number,
  scatter: number,
  seed: number,
): readonly StepSample[] {
  const prng = new Prng(seed);
  const works: StepWork[] = [];
  for (const decodeCount of [0, 1, 2, 4, 8, 16, 32, 64]) {
    for (const keyCount of [64, 256, 1024, 2048]) {
      for (const prefillTokenCount of [0, 32, 128, 448]) {
        for (const startPosition of [0, 512]) {
          if (decodeCount + prefillTokenCount === 0) continue;
          const prefillPairCount = prefillPairCountOf(startPosition, prefillTokenCount);
          works.push({
            decodeCount,
            decodeKvTokenCount: decodeCount * keyCount,
            prefillTokenCount,
            prefillPairCount,
          });
        }
      }
    }
  }
  return works.map((work) => ({ ...work, ms: msOf(work) * Math.exp(scatter * prng.normal()) }));
}

/** A worker of 1 ms a step, 0.05 ms a decoding row, 0.02 ms a prompt token, and a link of 1 GB/s. */
export function syntheticProfile(): ProfileFile {
  const step = {
    rowKnots: [
      { rowCount: 1, ms: 1.02 },
      { rowCount: 512, ms: 11.24 },
    ],
    msPerSampledRow: 0.03,
    msPerDecodeKvToken: 1e-5,
    msPerPrefillPair: 1e-6,
  };
  return {
    key: {
      deviceName: 'synthetic',
      threadCount: 1,
      modelName: 'synthetic',
      weightFormat: 'bf16',
      kvDtype: 'bf16',
      version: 1,
    },
    measuredAt: 'never',
    parameters: {
      step,
      links: [{ connector: 'peer', latencyMs: 0.1, bytesPerSecond: 1e9 }],
      request: { arrivalMs: 0.5, tokenMs: 0.2, handOverMs: 1, handOverMsPerToken: 0 },
      kvBytesPerToken: 4096,
      tokenBudget: 512,
      prefillChunkTokenCount: 512,
    },
    readable: {
      prefillMsPerToken: 0.02,
      decodeMsPerStep: 1.05,
      batchThreshold: 11,
      interferenceMsPerToken: 0.02,
      linkGBPerSecond: 1,
    },
    fitError: { median: 0.05, p90: 0.15 },
    samples: syntheticSamples((work) => stepMs(step, work), 0.1, 3),
    linkSamples: [1e4, 1e5, 1e6, 1e7].map((bytes) => ({ connector: 'peer', bytes, ms: 0.1 + bytes / 1e6 })),
  };
}
