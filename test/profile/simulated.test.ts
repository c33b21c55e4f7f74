/** The whole measurement against workers whose costs are known: gateway, workers, engines and hand-overs are the real ones, on virtual time. */
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/base/log.js';
import { Gateway } from '../../src/control/gateway.js';
import { parseWorkerSpecs } from '../../src/control/worker-spec.js';
import { errorOf } from '../../src/profile/fit-step.js';
import { type MeasuredProfile, profileWorkers } from '../../src/profile/profile.js';
import { type StepCost, stepMs } from '../../src/router/step-cost.js';
import { SimulatedWorkers, type WorkerTimes } from '../../src/sim/simulated-workers.js';
import { VirtualClock } from '../../src/sim/virtual-clock.js';
import { settings, syntheticSamples } from '../sim/clusters.js';

const cost: StepCost = {
  rowKnots: [
    { rowCount: 1, ms: 4 },
    { rowCount: 16, ms: 5 },
    { rowCount: 512, ms: 90 },
  ],
  msPerSampledRow: 0.08,
  msPerDecodeKvToken: 1e-3,
  msPerPrefillPair: 2e-5,
};
const request = { arrivalMs: 0.5, tokenMs: 0.25, handOverMs: 3, handOverMsPerToken: 0 };
const times: WorkerTimes = {
  steps: { draw: (work) => stepMs(cost, work) },
  link: { drawLatency: () => 0.1, draw: (bytes) => bytes / 2e6 },
  ...{ request, kvBytesPerToken: 4096 },
};

/** Of two workers, `budgetMs` of virtual time. */
async function profileSimulated(budgetMs: number): Promise<{ profiles: readonly MeasuredProfile[]; tookMs: number }> {
  const clock = new VirtualClock();
  const processes = new SimulatedWorkers({ clock, logger: silentLogger, timesOf: () => times, vocabCount: settings.vocabCount });
  const run = async () => {
    const gateway = await Gateway.start({
      ...{
        workers: parseWorkerSpecs('any:cpu*2'),
        strategy: 'adaptive',
        clock,
        logger: silentLogger,
        workerEntry: '',
        processes,
      },
      settings: {
        ...settings,
        ...{ modelFolder: '', loadFormat: 'dummy', dtype: 'auto', kvDtype: 'auto', quantize: 'none', gpuMemoryShare: 1 },
        connector: 'peer',
      },
    });
    await gateway.ready;
    await clock.sleep(2000); // ways between the workers are opened
    const startMs = clock.nowMs();
    const signal = new AbortController().signal;
    const options = {
      gateway,
      clock,
      vocabCount: settings.vocabCount,
      budgetMs,
      measuredAt: 'now',
      signal,
      onProgress: () => {},
    };
    const profiles = await profileWorkers(options);
    const tookMs = clock.nowMs() - startMs;
    await gateway.checkIntegrity();
    await gateway.stop();
    return { profiles, tookMs };
  };
  return clock.drive(run());
}

describe('a profile of simulated workers', () => {
  it('finds their costs, within the time it was given', async () => {
    const { profiles, tookMs } = await profileSimulated(9000);
    expect(profiles).toHaveLength(1);
    const { file, workers, soloShare } = profiles[0]!;
    expect(workers).toEqual(['w0', 'w1']);
    expect(soloShare).toBeCloseTo(1, 1); // they share nothing
    const truth = syntheticSamples((work) => stepMs(cost, work), 0, 1);
    const off = errorOf(file.parameters.step, truth);
    expect(off.median).toBeLessThan(0.02);
    expect(off.p90).toBeLessThan(0.06);
    const { arrivalMs, tokenMs, handOverMs } = file.parameters.request;
    expect(arrivalMs + tokenMs).toBeCloseTo(request.arrivalMs + request.tokenMs, 1);
    expect(Math.abs(handOverMs - request.handOverMs)).toBeLessThan(0.3); // of which the link's latency is told apart
    expect(file.parameters.kvBytesPerToken).toBe(4096);
    expect(file.readable.linkGBPerSecond).toBeGreaterThan(1);
    expect(tookMs).toBeLessThan(11_000);
  });

  it('is rougher but right when there is little time', async () => {
    const { profiles, tookMs } = await profileSimulated(1900);
    const truth = syntheticSamples((work) => stepMs(cost, work), 0, 1);
    expect(errorOf(profiles[0]!.file.parameters.step, truth).median).toBeLessThan(0.15);
    expect(tookMs).toBeLessThan(3000);
  });
});
