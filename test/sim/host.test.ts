import { describe, expect, it } from 'vitest';
import { ttftMsOf } from '../../src/bench/load-record.js';
import { type HostCosts, parseHost, spareHost } from '../../src/sim/host.js';
import { SharedCores } from '../../src/sim/shared-cores.js';
import { simulate } from '../../src/sim/simulation.js';
import { VirtualClock } from '../../src/sim/virtual-clock.js';
import { cluster, load, requestAt } from './clusters.js';

/** When `stepMs` of computing on each of `count` streams, begun at 0, has been done; a loop runs for `loopMs`
 *  at 1 ms. */
async function endMsOf(
  coreCount: number,
  count: number,
  stepMs: number,
  loopMs = 0,
  neighbourSlowdown = 0,
): Promise<number> {
  const clock = new VirtualClock();
  const cores = new SharedCores(clock, { coreCount, neighbourSlowdown });
  const loop = cores.addLoop();
  for (let i = 0; i < count; i++) cores.computes(1);
  clock.after(1, () => loop.run(loopMs));
  await clock.drive(new Promise<void>((resolve) => cores.when(stepMs, resolve)));
  return clock.nowMs();
}

describe('shared cores', () => {
  it('make nobody wait while one is free', async () => {
    expect(await endMsOf(Number.POSITIVE_INFINITY, 8, 10, 4)).toBeCloseTo(10, 9);
    expect(await endMsOf(2, 1, 10, 4)).toBeCloseTo(10, 9);
  });

  it('are divided: what a loop takes, all who compute miss', async () => {
    expect(await endMsOf(1, 1, 10, 4)).toBeCloseTo(14, 9);
    expect(await endMsOf(2, 2, 10, 4)).toBeCloseTo(12, 9);
    expect(await endMsOf(2, 3, 10)).toBeCloseTo(15, 9);
    expect(await endMsOf(2, 4, 10, 4)).toBeCloseTo(22, 9);
  });

  it('share caches: neighbours slow each other down', async () => {
    expect(await endMsOf(8, 3, 10, 0, 0.1)).toBeCloseTo(12, 9);
  });

  it('let a step end sooner when another has ended', async () => {
    const clock = new VirtualClock();
    const cores = new SharedCores(clock, { coreCount: 1, neighbourSlowdown: 0 });
    cores.computes(1);
    cores.computes(1);
    cores.when(4, () => cores.computes(-1)); // at 8 ms: both had half a core
    await clock.drive(new Promise<void>((resolve) => cores.when(10, resolve)));
    expect(clock.nowMs()).toBeCloseTo(14, 9);
  });

  it('run the work of one loop in its order', async () => {
    const clock = new VirtualClock();
    const loop = new SharedCores(clock, { coreCount: 1, neighbourSlowdown: 0 }).addLoop();
    expect([loop.run(2), loop.run(3), loop.run(0), loop.run(1)]).toEqual([0, 2, 0, 5]);
    await clock.drive(clock.sleep(4));
    expect(loop.run(1)).toBeCloseTo(2, 9);
  });
});

describe('a host', () => {
  const costs: HostCosts = {
    ...spareHost,
    coreCount: 1,
    frontMs: 1,
    gateway: { requestMs: 3, frameMs: 0, tokenMs: 0 },
  };
  const ttftsOf = async (host?: HostCosts) => {
    const plan = [requestAt(0, 100, 2), requestAt(0, 100, 2, 1)];
    const { records } = await simulate(
      cluster('any:cpu', 'collocated', host === undefined ? {} : { host }),
      plan,
      load,
    );
    return records.map(ttftMsOf);
  };

  it('with cores to spare changes nothing', async () => {
    expect(await ttftsOf(spareHost)).toEqual(await ttftsOf());
  });

  it('keeps a request waiting for the one before, and computing for both', async () => {
    const [first = 0, second = 0] = await ttftsOf(costs);
    // front, message, 100 tokens and the second one's 3 ms of the only core, message
    expect(first).toBeCloseTo(1 + 0.5 + 2 + 3 + 0.25, 1);
    expect(second).toBeGreaterThan(first);
  });

  it('is read from JSON, or refused with the file and what is missing', () => {
    expect(parseHost(JSON.stringify(costs), 'host.json')).toEqual(costs);
    expect(() => parseHost('{"coreCount":2}', 'host.json')).toThrow(
      /host\.json .*neighbourSlowdown, frontMs, gateway/,
    );
    expect(() => parseHost('oops', 'host.json')).toThrow(/host\.json/);
  });
});
