/** Hand-overs between real processes over each connector: the reference's tokens, whatever is killed and
 *  when; nothing stays reserved. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import type { Gateway } from '../../src/control/gateway.js';
import {
  collect,
  expectNothingOwned,
  goldens,
  inputOf,
  isFull,
  type RealOptions,
  startGateway,
} from './real-cluster.js';

let gateway: Gateway | null = null;
afterEach(async () => {
  await gateway?.stop();
  gateway = null;
});

const upTo = (promptTokenCount: number) =>
  goldens.cases.filter(({ prompt_ids }) => prompt_ids.length <= promptTokenCount);

async function start(workers: string, options: RealOptions) {
  const started = await startGateway(workers, { strategy: 'disaggregated', ...options });
  gateway = started.gateway;
  return started;
}

/** Workers tell of their links, and of the waits of what lands, now and then: the last transfer a little later. */
async function linksOf(from: Gateway, transferCountMin = 0) {
  for (;;) {
    const workers = from.workers();
    const links = workers.flatMap(({ connectors }) => connectors);
    const sentCount = links.reduce((sum, { transferCount }) => sum + transferCount, 0);
    const landedCount = workers.reduce((sum, { stepBoundaryWaits }) => sum + stepBoundaryWaits.count, 0);
    if (links.length > 0 && Math.min(sentCount, landedCount) >= transferCountMin) return links;
    await systemClock.sleep(20);
  }
}

describe.each(['tcp', 'host-relay', 'peer', 'auto'] as const)('hand-overs by %s', (connector) => {
  it('give the tokens of the reference, and show what was measured', async () => {
    const { gateway, records } = await start('prefill:cpu?threads=1,decode:cpu?threads=1', {
      settings: { connector, prefillChunkTokenCount: 64, kvChecksum: connector === 'auto' ? 'off' : 'on' },
    });
    const cases = upTo(1200);
    const answers = await Promise.all(cases.map((golden) => collect(gateway, inputOf(golden))));
    for (const [i, { name, continuation_ids }] of cases.entries())
      expect(answers[i]!.outputs[0], name).toEqual(continuation_ids);
    expect(new Set(records.flatMap(({ routes }) => routes.map(({ path }) => path)))).toEqual(
      new Set(['disaggregated']),
    );
    await expectNothingOwned(gateway);
    const [link] = await linksOf(gateway, cases.length);
    const names = connector === 'auto' ? ['peer', 'host-relay', 'tcp'] : [connector];
    expect(link!.trials.map(({ name }) => name)).toEqual(names);
    expect(names).toContain(link!.name);
    for (const { speed } of link!.trials) expect(speed!.bytesPerSecond).toBeGreaterThan(1e6);
    expect(link).toMatchObject({ peer: 'w1', transferCount: cases.length, retryCount: 0, failureCount: 0 });
    expect(link!.landedBytes).toBe(records.reduce((sum, { transferBytes }) => sum + transferBytes, 0));
    expect(gateway.workers().map(({ quarantinedBlockCount }) => quarantinedBlockCount)).toEqual([0, 0]);
    expect(gateway.workers().map(({ stepBoundaryWaits }) => stepBoundaryWaits.count)).toEqual([
      0,
      cases.length,
    ]);
    expect(JSON.stringify(gateway.workers()), 'the token is nobody’s business').not.toMatch(/token":"kv-/);
  });
});

describe('a smaller dtype on the way', () => {
  it('moves about a quarter of the float32 bytes; int8 gives the reference’s tokens on short prompts', async () => {
    const { gateway, records } = await start('prefill:cpu?threads=1,decode:cpu?threads=1', {
      settings: { kvTransferDtype: 'int8' },
    });
    const cases = upTo(100);
    const answers = await Promise.all(cases.map((golden) => collect(gateway, inputOf(golden))));
    for (const [i, { name, continuation_ids }] of cases.entries())
      expect(answers[i]!.outputs[0], name).toEqual(continuation_ids);
    const [link] = await linksOf(gateway);
    expect(link!.trials.map(({ name }) => name)).toEqual(['host-relay', 'tcp']);
    const blockCount = cases.reduce((sum, { prompt_ids }) => sum + Math.ceil(prompt_ids.length / 16), 0);
    const { blockBytes } = gateway.workers()[0]!.ready!;
    const sentBytes = records.reduce((sum, { transferBytes }) => sum + transferBytes, 0);
    // less: what decode had cached
    expect(sentBytes).toBeLessThanOrEqual(blockCount * blockBytes * ((64 + 4) / (64 * 4)));
    expect(sentBytes).toBeGreaterThan(0);
    await expectNothingOwned(gateway);
  });

  it.each([
    [{ connector: 'peer', kvTransferDtype: 'fp8' }, /peer writes KV as it is.*choose host-relay or tcp/],
    [{ kvChecksum: 'on', kvTransferDtype: 'int8' }, /--kv-checksum compares bytes, and int8 changes them/],
  ] as const)('refuses %o', async (settings, message) => {
    await expect(start('prefill:cpu?threads=1,decode:cpu?threads=1', { settings })).rejects.toThrow(message);
  });
});

/** Kills `count` times at seeded moments, half of them while something decodes; the others while prompts are
 *  computed and handed over. */
async function killAtMoments(connector: 'tcp' | 'host-relay' | 'peer', count: number): Promise<void> {
  const { gateway, records } = await start('prefill:cpu?threads=1,decode:cpu?threads=1', {
    settings: { connector, prefillChunkTokenCount: 16, blockCount: 400, maxModelTokenCount: 600 },
    limits: { lossCountMax: 1000, restartDelayMsMin: 10, restartDelayMsMax: 50 },
  });
  const cases = upTo(300);
  const moments = { midDecode: 0, all: 0 };
  const restarts = () => gateway.workers().reduce((sum, worker) => sum + worker.restartCount, 0);
  for (let seed = 1; seed <= count; seed++) {
    const prng = new Prng(seed);
    const wantsDecode = seed % 2 === 0;
    const afterTokenCount = wantsDecode ? prng.integer(8, 60) : 0;
    const seen = { tokenCount: 0, isDone: false };
    const chosen = Array.from({ length: 6 }, () => prng.pick(cases));
    const kill = () => {
      const victim = gateway
        .workers()
        .find(({ id }) => id === (wantsDecode || prng.uniform() < 0.5 ? 'w1' : 'w0'));
      if (seen.isDone || victim?.state !== 'ready' || victim.pid === null) return;
      seen.isDone = true;
      moments.all++;
      if (wantsDecode) moments.midDecode++; // six first tokens, and more after them, are out
      process.kill(victim.pid, 'SIGKILL');
    };
    // six prompts take some 50 ms at least
    if (!wantsDecode) void systemClock.sleep(prng.uniform() * 40).then(kill);
    const answers = await Promise.all(
      chosen.map((golden) =>
        collect(gateway, inputOf(golden), (tokenCount) => {
          seen.tokenCount += tokenCount;
          if (wantsDecode && seen.tokenCount >= afterTokenCount) kill();
        }),
      ),
    );
    for (const [i, { name, continuation_ids }] of chosen.entries()) {
      expect(answers[i]!.outputs[0], `${name}, kill ${seed}`).toEqual(continuation_ids);
    }
    seen.isDone = true;
    const backByMs = systemClock.nowMs() + 15_000;
    while (restarts() < moments.all || gateway.workers().some(({ state }) => state !== 'ready')) {
      const states = gateway
        .workers()
        .map(({ id, state, restartCount }) => `${id} is ${state}, restarted ${restartCount} times`);
      if (systemClock.nowMs() > backByMs)
        throw new Error(`kill ${seed}: ${states.join('; ')} after ${moments.all} kills`);
      await systemClock.sleep(10);
    }
    await expectNothingOwned(gateway);
    expect(restarts(), `nobody died but who was killed, kill ${seed}`).toBe(moments.all);
    if (seed % 50 === 0)
      process.stderr.write(`${connector}: ${seed} of ${count}, ${moments.midDecode} kills mid-decode\n`);
  }
  expect(moments.midDecode).toBeGreaterThanOrEqual(Math.floor(count / 4));
  expect(moments.all).toBeGreaterThan(count / 2);
  expect(records.filter(({ lossCount }) => lossCount > 0).length).toBeGreaterThan(count / 4);
}

describe('kill -9 at seeded moments: every stream ends as if nothing had happened, no block leaks', () => {
  it.each(['tcp', 'host-relay', 'peer'] as const)(
    '%s',
    (connector) => killAtMoments(connector, isFull ? 200 : 5),
    isFull ? 300_000 : 60_000,
  );
});
