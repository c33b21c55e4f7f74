/** What a request is to be served within: told to workers as durations, kept through recoveries, and what
 *  happens when it cannot be kept. */
import { describe, expect, it } from 'vitest';
import type { TokenDeadlines } from '../../src/engine/generation-request.js';
import { type ClusterOptions, FakeCluster, stepMs } from './fake-cluster.js';

interface Told {
  readonly stage: string;
  readonly worker: string;
  readonly atMs: number;
  readonly deadlines: TokenDeadlines | undefined;
}

/** What each message to a worker would carry. */
function listen(cluster: FakeCluster): Told[] {
  const told: Told[] = [];
  cluster.onStage = (_index, stage, worker, request) => {
    if (!['generate', 'prefill', 'reserve', 'resume'].includes(stage)) return;
    const { deadlines } = stage === 'resume' ? request.deadlines : request.toBody();
    told.push({ stage, worker: worker.id, atMs: cluster.clock.nowMs(), deadlines });
  };
  return told;
}

const slo = { ttftMs: 400, tpotMs: 30 };

describe('deadlines', () => {
  it('go along with generate, as what is left of the SLO', async () => {
    const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated' });
    const told = listen(cluster);
    await cluster.clock.drive(cluster.ask('r', 64, 4, 1, { slo }));
    expect(told.map(({ stage }) => stage)).toEqual(['generate']);
    const [{ atMs, deadlines }] = told as [Told];
    expect(deadlines).toEqual({ firstTokenInMs: 400 - atMs, ...slo });
  });

  it('go along with both halves of a hand-over; with the second, since when there is a first token', async () => {
    const cluster = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated' });
    const told = listen(cluster);
    await cluster.clock.drive(cluster.ask('r', 64, 4, 1, { slo }));
    expect(told.map(({ stage }) => stage)).toEqual(['prefill', 'reserve', 'resume']);
    for (const { atMs, deadlines } of told)
      expect(deadlines).toMatchObject({ firstTokenInMs: 400 - atMs, ...slo });
    expect(told.map(({ deadlines }) => deadlines?.sinceFirstTokenMs !== undefined)).toEqual([
      false,
      false,
      true,
    ]);
    await cluster.clock.drive(cluster.settle());
    const firstTokenMs = cluster.records[0]!.firstTokenMs!;
    expect(told[2]!.deadlines!.sinceFirstTokenMs).toBe(told[2]!.atMs - firstTokenMs);
  });

  it('are multiples of what it takes alone where the client says nothing, and mixed where it says half', async () => {
    const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated' });
    const told = listen(cluster);
    await cluster.clock.drive(cluster.ask('r', 64, 4));
    await cluster.clock.drive(cluster.ask('long', 1024, 4));
    await cluster.clock.drive(cluster.ask('half', 64, 4, 1, { slo: { tpotMs: 30 } }));
    const [short, long, half] = told.map(({ deadlines }) => deadlines!);
    expect(long!.ttftMs).toBeGreaterThan(short!.ttftMs);
    expect(half).toMatchObject({ ttftMs: short!.ttftMs, tpotMs: 30 });
    expect(cluster.records[0]?.routes[0]?.inputs).toMatchObject({
      ttftSloMs: short!.ttftMs,
      tpotSloMs: short!.tpotMs,
    });
  });

  it('stay the same through a recovery: the time that was lost is not given back', async () => {
    const cluster = new FakeCluster({ roles: ['any', 'any'], strategy: 'collocated' });
    const told = listen(cluster);
    const asked = cluster.ask('r', 64, 30);
    const [first] = cluster.everyone;
    void cluster.clock.sleep(12 * stepMs).then(() => cluster.kill(first!.id, 'outside'));
    const { outputs, error } = await cluster.clock.drive(asked);
    expect(error).toBeNull();
    expect(outputs[0]!.length).toBe(30);
    expect(told.length).toBe(2);
    const [before, after] = told as [Told, Told];
    expect(after.deadlines).toMatchObject({
      ttftMs: before.deadlines!.ttftMs,
      tpotMs: before.deadlines!.tpotMs,
    });
    const dueMs = ({ atMs, deadlines }: Told) => atMs + deadlines!.firstTokenInMs;
    expect(dueMs(after)).toBeCloseTo(dueMs(before), 6);
    expect(after.atMs - after.deadlines!.sinceFirstTokenMs!).toBeCloseTo(
      cluster.records[0]!.firstTokenMs!,
      6,
    );
  });
});

describe('a first token that cannot be in time', () => {
  const hopeless = { slo: { ttftMs: 0.01 } };
  const clusterOf = (more: Partial<ClusterOptions> = {}) =>
    new FakeCluster({ roles: ['any', 'any'], strategy: 'collocated', ...more });

  it('shed: one whose SLO even an idle worker misses is no overload: it is served, as a late one', async () => {
    const cluster = clusterOf({ onOverload: 'shed' });
    const told = listen(cluster);
    const { error, outputs } = await cluster.clock.drive(cluster.ask('r', 64, 4, 1, hopeless));
    expect([error, outputs[0]!.length]).toEqual([null, 4]);
    expect(told[0]!.deadlines!.firstTokenInMs + told[0]!.atMs).toBe(0);
  });

  it('late: is served, due when it came, so that the engine puts it behind those who can be in time', async () => {
    const cluster = clusterOf();
    const told = listen(cluster);
    const { error, outputs } = await cluster.clock.drive(cluster.ask('r', 64, 4, 1, hopeless));
    expect([error, outputs[0]!.length]).toEqual([null, 4]);
    expect(told[0]!.deadlines!.firstTokenInMs + told[0]!.atMs).toBe(0);
  });

  it('of one that was in time when it came and has lost a worker is served whatever the policy', async () => {
    const cluster = clusterOf({ onOverload: 'shed' });
    const asked = cluster.ask('r', 64, 30, 1, { slo: { ttftMs: 300, tpotMs: 30 } });
    void cluster.clock.sleep(12 * stepMs).then(() => cluster.kill(cluster.everyone[0]!.id, 'outside'));
    const { error, outputs } = await cluster.clock.drive(asked);
    expect([error, outputs[0]!.length]).toEqual([null, 30]);
  });

  it('is not counted by those that can be in time: they are served before it', async () => {
    const waitBehind = async (ttftMs: number) => {
      const cluster = clusterOf({ roles: ['any'] });
      const before = Array.from({ length: 6 }, (_, i) =>
        cluster.ask(`before${i}`, 2000, 2, 1, { slo: { ttftMs } }),
      );
      const own = cluster.clock.sleep(1).then(() => cluster.ask('own', 64, 2, 1, { slo: { ttftMs: 1e6 } }));
      await cluster.clock.drive(Promise.all([...before, own]));
      await cluster.clock.drive(cluster.settle());
      return cluster.records.find(({ id }) => id === 'own')!.routes[0]!.estimates.waitMs!;
    };
    expect(await waitBehind(0.01)).toBeLessThan(0.5 * (await waitBehind(9e5)));
  });
});
