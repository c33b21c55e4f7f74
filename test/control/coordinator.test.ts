/** The coordinator against workers that die, refuse and dawdle at every moment there is: each request ends,
 *  with exactly its tokens or with a typed error; nothing is released under a writer; nothing is held
 *  afterwards. */
import { describe, expect, it } from 'vitest';
import { TwostrokeError } from '../../src/base/errors.js';
import { requestId, workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { RequestInput } from '../../src/control/gateway-api.js';
import { HandOverError } from '../../src/control/worker-client.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { RoutePlace, Strategy } from '../../src/router/route.js';
import type { WorkerRole } from '../../src/router/snapshot.js';
import { FakeCluster, idealOutput } from './fake-cluster.js';

const setups: readonly [string, readonly WorkerRole[], Strategy][] = [
  ['collocated on one', ['any'], 'collocated'],
  ['collocated on two', ['any', 'any'], 'collocated'],
  ['disaggregated', ['prefill', 'decode'], 'disaggregated'],
  ['disaggregated, two of each', ['prefill', 'prefill', 'decode', 'decode'], 'disaggregated'],
  ['disaggregated on any', ['any', 'any'], 'disaggregated'],
];

type Asked = Awaited<ReturnType<FakeCluster['ask']>>;
function expectIdeal({ outputs, promptIds, error }: Asked, maxTokenCount: number): void {
  expect(error).toBeNull();
  for (const [i, output] of outputs.entries())
    expect(output).toEqual(idealOutput(promptIds, i, maxTokenCount));
}

describe.each(setups)('%s', (_name, roles, strategy) => {
  const run = async (interfere: ((cluster: FakeCluster) => void) | null, choiceCount = 1) => {
    const cluster = new FakeCluster({ roles, strategy });
    interfere?.(cluster);
    const asked = await cluster.clock.drive(cluster.ask('r', 100, 8, choiceCount));
    await cluster.clock.drive(cluster.settle());
    return { cluster, asked };
  };

  it.each([1, 3])('gives the ideal tokens for %d choices and says how', async (choiceCount) => {
    const { cluster, asked } = await run(null, choiceCount);
    expectIdeal(asked, 8);
    const [record] = cluster.records;
    expect(record).toMatchObject({ outcome: 'finished', outputTokenCount: 8 * choiceCount, lossCount: 0 });
    expect(record?.routes).toHaveLength(1);
    expect(record?.routes[0]?.path).toBe(strategy);
    if (strategy === 'disaggregated') expect(record?.resumedMs).toBeGreaterThan(record!.firstTokenMs!);
  });

  it.each(['restart', 'stay_dead'] as const)(
    'any one worker dies at any moment (%s): same tokens, nothing lost',
    async (restart) => {
      const stageCount = (await run(null)).cluster.stageCount;
      expect(stageCount).toBeGreaterThan(8);
      for (let victim = 0; victim < roles.length; victim++) {
        for (let moment = 0; moment < stageCount; moment++) {
          if (restart === 'stay_dead' && roles.length === 1) continue;
          const { cluster, asked } = await run((each) => {
            each.restart = restart;
            each.onStage = (index) => {
              if (index === moment) each.kill(each.everyone[victim]!.id);
            };
          });
          expectIdeal(asked, 8);
          expect(cluster.leaks(), `w${victim} killed at ${moment}`).toEqual([]);
        }
      }
    },
  );

  it('two deaths at any two moments: same tokens', async () => {
    const stageCount = (await run(null)).cluster.stageCount;
    for (let first = 0; first < stageCount; first++) {
      for (let second = first + 1; second < stageCount + 6; second += 2) {
        const { asked } = await run((cluster) => {
          cluster.onStage = (index, _stage, worker) => {
            if (index === first || index === second) cluster.kill(worker.id);
          };
        });
        expectIdeal(asked, 8);
      }
    }
  });

  it('cancelled at any moment: ends at once, nothing is held', async () => {
    const stageCount = (await run(null)).cluster.stageCount;
    for (let moment = 0; moment < stageCount; moment++) {
      const { cluster, asked } = await run((each) => {
        each.onStage = (index, _stage, _worker, request) => {
          if (index === moment) request.cancel();
        };
      }, 2);
      expect(asked.error).toBeNull();
      expect(cluster.records[0]?.outcome, `at ${moment}`).toBe('cancelled');
      for (const [i, output] of asked.outputs.entries()) {
        expect(output).toEqual(idealOutput(asked.promptIds, i, 8).slice(0, output.length));
      }
    }
  });

  it('a client that leaves the iteration cancels everywhere', async () => {
    const cluster = new FakeCluster({ roles, strategy });
    const stream = cluster.coordinator.submit({
      id: requestId('r'),
      promptIds: [1, 2, 3],
      sampling: { ...greedy, maxTokenCount: 50 },
    });
    const leave = async () => {
      for await (const event of stream) if (event.kind === 'tokens') return event;
      return null;
    };
    expect(await cluster.clock.drive(leave())).not.toBeNull();
    await cluster.clock.drive(cluster.settle());
    expect(cluster.records[0]).toMatchObject({ outcome: 'cancelled' });
  });

  it('clients that leave the line for memory leave nothing behind on the worker', async () => {
    const cluster = new FakeCluster({ roles, strategy, blockCount: 10 });
    const served = Array.from({ length: 2 }, (_, i) => cluster.ask(`r${i}`, 100, 40));
    const streams = Array.from({ length: 4 }, (_, i) =>
      cluster.coordinator.submit({
        id: requestId(`leaves${i}`),
        promptIds: Array(100).fill(i),
        sampling: { ...greedy, maxTokenCount: 40 },
      }),
    );
    cluster.clock.after(50, () => {
      for (const stream of streams) stream.cancel();
    });
    await cluster.clock.drive(Promise.all(served));
    await cluster.clock.drive(cluster.settle());
    const left = cluster.records.filter(({ outcome }) => outcome === 'cancelled');
    expect(
      left.some(
        ({ prefillStartedMs, outputTokenCount }) => prefillStartedMs === undefined && outputTokenCount === 0,
      ),
    ).toBe(true);
    expect(cluster.leaks()).toEqual([]);
  });

  it('a deadline ends it with a typed error at any moment', async () => {
    const { cluster: whole } = await run(null);
    const totalMs = whole.records[0]!.doneMs;
    for (let deadlineMs = 1; deadlineMs < totalMs; deadlineMs += 3) {
      const cluster = new FakeCluster({ roles, strategy });
      const asked = await cluster.clock.drive(cluster.ask('r', 100, 8, 1, { deadlineMs }));
      await cluster.clock.drive(cluster.settle());
      expect(asked.error?.code).toBe('deadline_exceeded');
      expect(cluster.records[0]).toMatchObject({ outcome: 'failed', errorCode: 'deadline_exceeded' });
    }
  });

  it('an error of the worker is the request’s error, unless it is the worker’s own end', async () => {
    const { asked } = await run((cluster) => {
      cluster.onStage = (_index, _stage, _worker, request) => {
        request.emit({
          kind: 'failed',
          requestId: request.id,
          error: { code: 'invalid_request', message: 'no', param: 'prompt' },
        });
      };
    });
    expect(asked.error).toMatchObject({ code: 'invalid_request', param: 'prompt' });
  });

  it('gives up on a request that takes every worker with it', async () => {
    const { cluster, asked } = await run((each) => {
      each.onStage = (_index, stage, worker) => {
        if (stage === 'step' || stage === 'prefilling') each.kill(worker.id);
      };
    });
    expect(asked.error?.code).toBe('unavailable');
    expect(cluster.records[0]?.lossCount).toBe(4);
  });

  it('many at once, with seeded deaths, cancels and memory pressure: every one ends right', async () => {
    for (let seed = 1; seed <= (process.env.TWOSTROKE_TEST === 'full' ? 60 : 6); seed++) {
      const prng = new Prng(seed);
      const cluster = new FakeCluster({
        roles,
        strategy,
        blockCount: 40,
        limits: { lossCountMax: 1000, holdMs: 30, leaseMs: 200 },
      });
      const cancelled = new Set<string>();
      cluster.onStage = (_index, _stage, worker, request) => {
        if (prng.uniform() < 0.004) cluster.kill(worker.id);
        if (prng.uniform() < 0.006) {
          const victim = prng.pick([request, ...cluster.seen]); // it may be waiting in line
          if (!victim.isSettled) cancelled.add(victim.id);
          victim.cancel();
        }
      };
      const jobs = Array.from({ length: 24 }, async (_, i) => {
        await cluster.clock.sleep(prng.integer(0, 100));
        return {
          id: `r${i}`,
          asked: await cluster.ask(`r${i}`, prng.integer(1, 300), 6, prng.integer(1, 2)),
        };
      });
      for (const { id, asked } of await cluster.clock.drive(Promise.all(jobs))) {
        if (!cancelled.has(id)) expectIdeal(asked, 6);
      }
      await cluster.clock.drive(cluster.settle());
      expect(cluster.records).toHaveLength(24);
    }
  });
});

describe('hand-overs that come to nothing', () => {
  it('a failed transfer: the request goes on by recomputing, same tokens', async () => {
    const cluster = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated' });
    cluster.failTransfer = () => true;
    cluster.transferError = () => new HandOverError('transfer', 'transfer_error', 'the cable is cut');
    expectIdeal(await cluster.clock.drive(cluster.ask('r', 100, 8, 2)), 8);
    await cluster.clock.drive(cluster.settle());
    const [record] = cluster.records;
    expect(record?.routes.map(({ path, workers }) => [path, ...workers])).toEqual([
      ['disaggregated', 'w0', 'w1'],
      ['collocated', 'w1'],
    ]);
    expect(record?.handOverFailures).toEqual(['transfer']);
  });

  it.each(['request', 'gateway'] as const)(
    'a failed transfer with the policy to fail, of the %s: a typed error, nothing stays',
    async (whose) => {
      const fail = whose === 'gateway' ? ({ onTransferFailure: 'fail' } as const) : {};
      const cluster = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated', ...fail });
      cluster.failTransfer = () => true;
      cluster.transferError = () => new HandOverError('transfer', 'transfer_error', 'the cable is cut');
      const input = whose === 'request' ? ({ onTransferFailure: 'fail' } as const) : {};
      const asked = await cluster.clock.drive(cluster.ask('r', 100, 8, 2, input));
      expect(asked.error).toMatchObject({ code: 'transfer_error' });
      expect(asked.error?.message).toMatch(/hand-over of request r failed: the cable is cut/);
      await cluster.clock.drive(cluster.settle());
      expect(cluster.records[0]).toMatchObject({ outcome: 'failed', handOverFailures: ['transfer'] });
    },
  );

  it('bytes that never land: given up after their deadline, the request goes on by recomputing', async () => {
    const limits = { landDeadlineMs: 3000 };
    const cluster = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated', limits });
    cluster.hangs = (name) => name === 'landing';
    expectIdeal(await cluster.clock.drive(cluster.ask('r', 100, 8)), 8);
    await cluster.clock.drive(cluster.settle());
    expect(cluster.records[0]?.routes.map(({ path }) => path)).toEqual(['disaggregated', 'collocated']);
    expect(cluster.records[0]?.handOverFailures).toEqual(['overdue']);
    expect(cluster.records[0]?.doneMs).toBeGreaterThan(3000);
    expect(cluster.records[0]?.doneMs).toBeLessThan(4000);
  });

  it('a reservation made before a prefill that never starts goes back after its lease', async () => {
    const limits = { leaseMs: 2000, holdMs: 1e6 };
    const cluster = new FakeCluster({
      roles: ['prefill', 'decode'],
      strategy: 'disaggregated',
      blockCount: 10,
      claimedBlockCount: 1000,
      limits,
    });
    cluster.hangs = (name, request) => name === 'prefill' && request.id === 'late';
    const first = cluster.ask('first', 100, 40);
    const late = cluster.clock.sleep(60).then(() => cluster.ask('late', 100, 8));
    expectIdeal(await cluster.clock.drive(late), 8);
    expectIdeal(await cluster.clock.drive(first), 40);
    await cluster.clock.drive(cluster.settle());
    const record = cluster.records.find(({ id }) => id === 'late');
    expect(record?.routes.map(({ path }) => path)).toEqual(['disaggregated', 'collocated']);
    expect(record?.handOverFailures).toEqual(['lease_expired']);
    expect(record?.reservationWaitMs).toBeGreaterThan(50);
    expect(record!.doneMs - record!.arrivalMs).toBeLessThan(3000);
  });

  it('an unexpected error fails the request, typed, and frees everything', async () => {
    const cluster = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated' });
    cluster.failTransfer = () => true;
    cluster.transferError = () => new RangeError('a bug');
    const { error } = await cluster.clock.drive(cluster.ask('r', 100, 8));
    expect(error).toBeInstanceOf(TwostrokeError);
    expect(error?.code).toBe('internal');
    await cluster.clock.drive(cluster.settle());
  });

  it('no room at decode: waits in line, first come, first served', async () => {
    const cluster = new FakeCluster({
      roles: ['prefill', 'decode'],
      strategy: 'disaggregated',
      blockCount: 10,
      limits: { holdMs: 1e6 },
    });
    const order: string[] = [];
    const ask = async (id: string) => {
      expectIdeal(await cluster.ask(id, 100, 8), 8);
      order.push(id);
    };
    const all = Promise.all([ask('a'), ask('bb'), ask('ccc'), ask('dddd')]);
    await cluster.clock.drive(all);
    await cluster.clock.drive(cluster.settle());
    expect(order).toEqual(['a', 'bb', 'ccc', 'dddd']);
    expect(cluster.records.every(({ routes }) => routes.length === 1)).toBe(true);
    expect(cluster.records[3]!.reservationWaitMs).toBeGreaterThan(0);
  });

  it('who needs little room does not overtake who needs much', async () => {
    const cluster = new FakeCluster({
      roles: ['prefill', 'decode'],
      strategy: 'disaggregated',
      blockCount: 10,
      limits: { holdMs: 1e6 },
    });
    const first = cluster.ask('first', 60, 30);
    const large = cluster.clock.sleep(40).then(() => cluster.ask('large', 100, 4));
    const small = cluster.clock.sleep(50).then(() => cluster.ask('small', 10, 4));
    await cluster.clock.drive(Promise.all([first, large, small]));
    await cluster.clock.drive(cluster.settle());
    const resumedMs = (id: string) => cluster.records.find((record) => record.id === id)!.resumedMs!;
    expect(resumedMs('small')).toBeGreaterThanOrEqual(resumedMs('large'));
  });

  it('a finished prefill does not hold its blocks for ever', async () => {
    const cluster = new FakeCluster({
      roles: ['prefill', 'decode'],
      strategy: 'disaggregated',
      blockCount: 10,
      claimedBlockCount: 1000,
      limits: { holdMs: 20 },
    });
    const long = cluster.ask('long', 100, 40);
    const started = cluster.clock.sleep(8).then(() => cluster.ask('short', 100, 4));
    expectIdeal(await cluster.clock.drive(started), 4);
    expectIdeal(await cluster.clock.drive(long), 40);
    await cluster.clock.drive(cluster.settle());
    const record = cluster.records.find(({ id }) => id === 'short');
    expect(record?.routes.map(({ path }) => path)).toEqual(['disaggregated', 'collocated']);
  });
});

describe('memory to decode in', () => {
  it('is foreseen: who would not fit to its end waits, in order, and computes nothing meanwhile', async () => {
    for (const strategy of ['collocated', 'disaggregated'] as const) {
      const roles = strategy === 'collocated' ? (['any'] as const) : (['prefill', 'decode'] as const);
      const cluster = new FakeCluster({ roles, strategy, blockCount: 24 });
      let heldMax = 0;
      cluster.onStage = () => {
        for (const { held } of cluster.everyone) heldMax = Math.max(heldMax, held.size);
      };
      const ids = ['a', 'bb', 'ccc', 'dddd', 'eeeee'];
      const done: string[] = [];
      const ask = async (id: string) => {
        expectIdeal(await cluster.ask(id, 160, 8), 8);
        done.push(id);
      };
      await cluster.clock.drive(Promise.all(ids.map(ask)));
      await cluster.clock.drive(cluster.settle());
      expect(done).toEqual(ids);
      expect(heldMax).toBe(2); // 160 tokens each and some growth, of 384
    }
  });

  it('does not keep anybody whose worker has died in line', async () => {
    const cluster = new FakeCluster({ roles: ['any', 'any'], strategy: 'collocated', blockCount: 12 });
    const all = Promise.all(['a', 'bb', 'ccc', 'dddd'].map((id) => cluster.ask(id, 100, 30)));
    void cluster.clock.sleep(40).then(() => cluster.kill(cluster.everyone[0]!.id));
    for (const asked of await cluster.clock.drive(all)) expectIdeal(asked, 30);
    await cluster.clock.drive(cluster.settle());
  });
});

describe('admission', () => {
  it('refuses what is too much, says when to come back, and takes the next one after an end', async () => {
    const cluster = new FakeCluster({
      roles: ['any'],
      strategy: 'collocated',
      limits: { requestCountMax: 2 },
    });
    const both = Promise.all([cluster.ask('a', 10, 4), cluster.ask('b', 10, 4)]);
    const input = { id: requestId('c'), promptIds: [1], sampling: greedy };
    expect(() => cluster.coordinator.submit(input)).toThrow(/2 requests/);
    try {
      cluster.coordinator.submit(input);
    } catch (error) {
      expect(error).toMatchObject({ code: 'overloaded' });
      expect((error as { retryAfterMs: number }).retryAfterMs).toBeGreaterThanOrEqual(1000);
    }
    await cluster.clock.drive(both);
    expectIdeal(await cluster.clock.drive(cluster.ask('c', 10, 4)), 4);
  });

  it('who cannot be taken in keeps no place', async () => {
    const cluster = new FakeCluster({
      roles: ['any'],
      strategy: 'collocated',
      limits: { requestCountMax: 1 },
    });
    const promptIds = new Proxy([1, 2, 3], {
      get: (ids, key) => {
        if (key === '0') throw new RangeError('a bug');
        return Reflect.get(ids, key) as unknown;
      },
    });
    expect(() => cluster.coordinator.submit({ id: requestId('a'), promptIds, sampling: greedy })).toThrow(
      'a bug',
    );
    expect(cluster.coordinator.requestCount).toBe(0);
    expectIdeal(await cluster.clock.drive(cluster.ask('b', 10, 4)), 4);
  });

  it('refuses an id that is in use', async () => {
    const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated' });
    const first = cluster.ask('a', 10, 4);
    expect(() =>
      cluster.coordinator.submit({ id: requestId('a'), promptIds: [1], sampling: greedy }),
    ).toThrow(/in use/);
    await cluster.clock.drive(first);
  });

  it('waits for a worker within the deadline while none lives', async () => {
    const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated' });
    cluster.kill(cluster.everyone[0]!.id);
    expectIdeal(await cluster.clock.drive(cluster.ask('a', 10, 4)), 4);
    cluster.restart = 'stay_dead';
    cluster.kill(cluster.everyone[1]!.id);
    const { error } = await cluster.clock.drive(cluster.ask('b', 10, 4, 1, { deadlineMs: 5000 }));
    await cluster.clock.yield();
    expect(cluster.changed.waiterCount).toBe(0); // nobody is kept who has given up
    expect(error?.code).toBe('deadline_exceeded');
    expect(cluster.clock.nowMs()).toBeGreaterThan(5000);
  });
});

it('tokens of a stopped choice that nobody has read yet do not come', async () => {
  const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated' });
  const sampling = { ...greedy, maxTokenCount: 6, choiceCount: 2 };
  const stream = cluster.coordinator.submit({ id: requestId('r'), promptIds: [5, 6], sampling });
  await cluster.clock.drive(cluster.settle()); // everything is queued
  const counts = [0, 0];
  for await (const event of stream) {
    if (event.kind !== 'tokens') continue;
    counts[event.choiceIndex]! += event.tokens.length;
    if (event.choiceIndex === 1) stream.stopChoice(1);
  }
  expect(counts).toEqual([6, 1]);
});

it('a stop string ends one choice silently; the others go on', async () => {
  const cluster = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated' });
  const sampling = { ...greedy, maxTokenCount: 10, choiceCount: 2 };
  const stream = cluster.coordinator.submit({ id: requestId('r'), promptIds: [5, 6], sampling });
  const counts = [0, 0];
  const read = async () => {
    for await (const event of stream) {
      if (event.kind !== 'tokens') continue;
      counts[event.choiceIndex]! += event.tokens.length;
      if (counts[0] === 3) stream.stopChoice(0);
    }
  };
  await cluster.clock.drive(read());
  expect(counts).toEqual([3, 10]);
  expect(cluster.records).toEqual([]);
  await cluster.clock.yield();
  await cluster.clock.drive(cluster.settle());
  expect(cluster.records[0]).toMatchObject({ outcome: 'finished', finishReasons: ['stop_string', 'length'] });
});

describe('a measurement', () => {
  const places: readonly RoutePlace[] = [
    { path: 'collocated', worker: workerId('w1') },
    { path: 'disaggregated', prefillWorker: workerId('w1'), decodeWorker: workerId('w0') },
  ];

  it.each(places)('takes the route it is told ($path), whatever the strategy', async (measuredRoute) => {
    const cluster = new FakeCluster({ roles: ['any', 'any'], strategy: 'collocated' });
    expectIdeal(await cluster.clock.drive(cluster.ask('r', 100, 8, 1, { measuredRoute })), 8);
    await cluster.clock.drive(cluster.settle());
    const [record] = cluster.records;
    expect([record?.isMeasurement, record?.routes[0]?.path]).toEqual([true, measuredRoute.path]);
    expect(record?.routes[0]?.workers[0]).toBe('w1');
  });

  it('goes on elsewhere when its worker dies', async () => {
    const cluster = new FakeCluster({ roles: ['any', 'any'], strategy: 'collocated' });
    cluster.restart = 'stay_dead';
    cluster.onStage = (index) => {
      if (index === 1) cluster.kill(workerId('w1'));
    };
    expectIdeal(await cluster.clock.drive(cluster.ask('r', 100, 8, 1, { measuredRoute: places[0]! })), 8);
  });

  it('teaches nothing about lengths', async () => {
    const expectedAfter = async (more: Partial<RequestInput>) => {
      const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated' });
      for (let i = 0; i < 20; i++) await cluster.clock.drive(cluster.ask(`r${i}`, 100, 300, 1, more));
      await cluster.clock.drive(cluster.ask('last', 100, 300));
      await cluster.clock.drive(cluster.settle());
      return cluster.records.at(-1)?.routes[0]?.estimates.expectedTokenCount;
    };
    const unlearned = await expectedAfter({ measuredRoute: { path: 'collocated', worker: workerId('w0') } });
    expect(unlearned).toBeGreaterThan(1);
    expect(unlearned).not.toBe(await expectedAfter({}));
  });
});
