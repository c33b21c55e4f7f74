/** The whole measurement against workers whose costs are known: gateway, workers, engines and hand-overs are
 *  the real ones, on virtual time. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/base/log.js';
import { profileText } from '../../src/cli/profile-text.js';
import { Gateway } from '../../src/control/gateway.js';
import { parseWorkerSpecs } from '../../src/control/worker-spec.js';
import { errorOf } from '../../src/profile/fit-step.js';
import { type MeasuredProfile, profileWorkers } from '../../src/profile/profile.js';
import { readProfile, writeProfile } from '../../src/profile/profile-file.js';
import { type StepCost, stepMs } from '../../src/router/step-cost.js';
import { guessedParameters } from '../../src/router/worker-costs.js';
import { Host, spareHost } from '../../src/sim/host.js';
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
  request,
  kvBytesPerToken: 4096,
};

interface Measured {
  readonly profiles: readonly MeasuredProfile[];
  readonly tookMs: number;
}

/** `budgetMs` of virtual time. */
async function profileSimulated(
  budgetMs: number,
  workers = 'any:cpu*2',
  link = times.link,
): Promise<Measured> {
  const clock = new VirtualClock();
  const processes = new SimulatedWorkers({
    clock,
    host: new Host(clock, spareHost),
    logger: silentLogger,
    timesOf: () => ({ ...times, link }),
    vocabCount: settings.vocabCount,
  });
  const run = async () => {
    const gateway = await Gateway.start({
      workers: parseWorkerSpecs(workers),
      strategy: 'adaptive',
      clock,
      logger: silentLogger,
      workerEntry: '',
      processes,
      settings: {
        ...settings,
        modelFolder: '',
        loadFormat: 'dummy',
        dtype: 'auto',
        kvDtype: 'auto',
        quantize: 'none',
        gpuMemoryShare: 1,
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
    // of which the link's latency is told apart
    expect(Math.abs(handOverMs - request.handOverMs)).toBeLessThan(0.3);
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

  it('goes on beyond its time until there are enough steps for a fit', async () => {
    const { profiles, tookMs } = await profileSimulated(1);
    expect(Object.keys(profiles[0]!.file.readable).length).toBeGreaterThan(0);
    expect(tookMs).toBeLessThan(5000);
  });

  it('asks every pair of kinds for a hand-over, however little time there is', async () => {
    const kinds = [1, 2, 3, 4].map((threadCount) => `any:cpu?threads=${threadCount}`);
    const slow = { ...times.link, drawLatency: () => 100 };
    const { profiles } = await profileSimulated(
      1900,
      `prefill:cpu?threads=7,${kinds},decode:cpu?threads=8`,
      slow,
    );
    expect(profiles.map(({ workers }) => workers)).toEqual(
      ['w0', 'w1', 'w2', 'w3', 'w4', 'w5'].map((id) => [id]),
    );
    // each to all that decode but itself
    expect(profiles.map(({ file }) => file.linkSamples.length)).toEqual([5, 4, 4, 4, 4, 0]);
    for (const { file } of profiles) {
      const { links, request: costs } = file.parameters;
      expect(Math.abs(costs.handOverMs - request.handOverMs)).toBeLessThan(0.5); // the decode worker's too
      expect(links.map(({ connector }) => connector)).toEqual(['peer']);
    }
    expect(profileText(profiles.map((each) => ({ ...each, path: 'x' })))).not.toContain('not measured');
  });

  it('of one worker claims no link, and takes no hand-over to be free', async () => {
    const { profiles } = await profileSimulated(1900, 'any:cpu');
    const { file } = profiles[0]!;
    expect([file.parameters.links, file.linkSamples, file.readable.linkGBPerSecond]).toEqual([[], [], null]);
    expect(file.parameters.request.handOverMs).toBe(guessedParameters.request.handOverMs);
    const text = profileText(profiles.map((each) => ({ ...each, path: 'x' })));
    expect(text).toMatch(/link, fastest connector +not measured +there is no second worker/);
    expect(text).toContain('rule     none: there is no second worker');
    expect(text).not.toContain('hand-over');
    const written = path.join(mkdtempSync(path.join(os.tmpdir(), 'twostroke-profile-')), 'one.json');
    writeProfile(written, file);
    expect(readProfile(written)).toEqual(file);
    rmSync(path.dirname(written), { recursive: true });
  });
});
