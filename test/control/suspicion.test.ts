/** Deaths that a request did not cause do not end it; those that it causes do, and only it. On virtual time,
 *  with fake workers. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import type { Blame } from '../../src/control/suspicion.js';
import { Suspicion } from '../../src/control/suspicion.js';
import { WorkerLostError } from '../../src/control/worker-client.js';
import { FakeCluster, idealOutput } from './fake-cluster.js';

type Asked = Awaited<ReturnType<FakeCluster['ask']>>;
function expectIdeal({ outputs, promptIds, error }: Asked, maxTokenCount: number): void {
  expect(error).toBeNull();
  for (const [i, output] of outputs.entries())
    expect(output).toEqual(idealOutput(promptIds, i, maxTokenCount));
}

describe('deaths from outside', () => {
  it('however many, end no request that gets on: its worker is killed again and again', async () => {
    const cluster = new FakeCluster({ roles: ['any'], strategy: 'collocated' });
    let stepCount = 0;
    cluster.onStage = (_index, stage, worker) => {
      if (stage === 'step' && ++stepCount % 10 === 0) cluster.kill(worker.id, 'outside');
    };
    expectIdeal(await cluster.clock.drive(cluster.ask('r', 100, 100)), 100);
    expect(cluster.records[0]?.lossCount).toBeGreaterThan(8);
  });

  it('nor those that wait: the only decode worker is killed faster than anybody gets there', async () => {
    const cluster = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated' });
    cluster.onStage = (_index, stage, worker) => {
      if (stage === 'reserved') cluster.kill(worker.id, 'outside');
    };
    const all = await cluster.clock.drive(
      Promise.all(Array.from({ length: 12 }, (_, i) => cluster.ask(`r${i}`, 60 + i, 20))),
    );
    for (const asked of all) expectIdeal(asked, 20);
    expect(Math.max(...cluster.records.map(({ lossCount }) => lossCount))).toBeGreaterThan(0);
  });

  it('while decode is down its streams go on where prompts are computed', async () => {
    const cluster = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated' });
    cluster.restart = 'stay_dead';
    let stepCount = 0;
    cluster.onStage = (_index, stage, worker) => {
      if (stage === 'step' && ++stepCount === 5) cluster.kill(worker.id, 'outside');
    };
    expectIdeal(await cluster.clock.drive(cluster.ask('r', 100, 30)), 30);
    expect(cluster.records[0]?.routes.map(({ workers }) => workers)).toEqual([['w0', 'w1'], ['w0']]);
  });
});

describe.each([
  ['one worker', ['any'] as const],
  ['three workers', ['any', 'any', 'any'] as const],
])('a request that kills whoever computes it, on %s', (_name, roles) => {
  it.each([
    ['before its first token', 0],
    ['after one token of each attempt', 1],
    ['after some tokens of each attempt', 4],
  ])('%s: it fails after four deaths, and nobody else does', async (_when, tokenCount) => {
    const cluster = new FakeCluster({ roles, strategy: 'collocated' });
    const steps = new Map<unknown, number>();
    let deathCount = 0;
    cluster.onStage = (_index, stage, worker, request) => {
      if (request.id !== 'poison' || stage !== 'step') return;
      const count = steps.get(worker) ?? 0;
      steps.set(worker, count + 1);
      if (count < tokenCount) return;
      deathCount++;
      cluster.kill(worker.id);
    };
    const innocent = Array.from({ length: 12 }, (_, i) => cluster.ask(`r${i}`, 60 + i, 60));
    const poison = cluster.ask('poison', 50, 60);
    const [bad, ...good] = await cluster.clock.drive(Promise.all([poison, ...innocent]));
    await cluster.clock.drive(cluster.settle());
    for (const asked of good) expectIdeal(asked, 60);
    expect(bad?.error).toMatchObject({ code: 'unavailable' });
    expect(bad?.error?.message).toMatch(/on 4 workers in a row when they died/);
    expect(deathCount).toBe(4);
  });

  it('several of them: each fails, nobody else does, and no place in the line is kept', async () => {
    const cluster = new FakeCluster({ roles, strategy: 'collocated' });
    cluster.onStage = (_index, stage, worker, request) => {
      if (request.id.startsWith('poison') && stage === 'step') cluster.kill(worker.id);
    };
    const innocent = Array.from({ length: 12 }, (_, i) => cluster.ask(`r${i}`, 60 + i, 40));
    const poisons = Array.from({ length: 3 }, (_, i) => cluster.ask(`poison${i}`, 50 + i, 40));
    const cancelled = cluster.ask('leaves', 50, 400, 1, { deadlineMs: 1000 });
    const [good, bad] = await cluster.clock.drive(
      Promise.all([Promise.all(innocent), Promise.all(poisons), cancelled]),
    );
    await cluster.clock.drive(cluster.settle());
    for (const asked of good) expectIdeal(asked, 40);
    for (const asked of bad) expect(asked.error).toMatchObject({ code: 'unavailable' });
    expectIdeal(await cluster.clock.drive(cluster.ask('after', 30, 10)), 10);
  });
});

describe('suspicion', () => {
  const w0 = workerId('w0');
  const die = (suspicion: Suspicion, blame: Blame, worker = w0) =>
    suspicion.lost(new WorkerLostError(worker, 'died', blame));

  it('falls on who was there, and on who got nothing when the death came from outside', () => {
    const suspicion = new Suspicion();
    suspicion.placedOn(w0);
    die(suspicion, 'work', workerId('w1')); // another worker
    die(suspicion, 'outside'); // still in line
    expect(suspicion.strikeCount).toBe(0);
    suspicion.placedOn(w0);
    suspicion.started();
    die(suspicion, 'outside');
    expect(suspicion.strikeCount).toBe(1);
    suspicion.placedOn(w0);
    suspicion.tokens(1);
    expect(suspicion.strikeCount).toBe(0);
    die(suspicion, 'outside');
    expect(suspicion.strikeCount).toBe(0);
  });

  it('ends when an attempt outlives those that ended in a death', () => {
    const suspicion = new Suspicion();
    let acquittalCount = 0;
    suspicion.onAcquitted = () => acquittalCount++;
    for (let death = 1; death <= 3; death++) {
      suspicion.placedOn(w0);
      suspicion.tokens(5);
      die(suspicion, 'work');
      expect(suspicion.strikeCount).toBe(death);
    }
    suspicion.placedOn(w0);
    suspicion.tokens(5);
    expect([suspicion.isSuspect, acquittalCount]).toEqual([true, 0]);
    suspicion.tokens(1);
    expect([suspicion.isSuspect, acquittalCount]).toEqual([false, 1]);
  });
});
