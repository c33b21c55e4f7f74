/** Real worker processes that are aborted, killed, frozen or cannot start: streams go on with the same
 *  tokens, blocks come back, errors are typed, no process is left behind. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import type { Gateway } from '../../src/control/gateway.js';
import {
  collect,
  demoFolder,
  expectNothingOwned,
  goldens,
  inputOf,
  isFull,
  startGateway,
  workerEntry,
} from './real-cluster.js';

const bySize = (low: number, high: number) =>
  goldens.cases.filter(({ prompt_ids }) => prompt_ids.length >= low && prompt_ids.length <= high);
const story = goldens.cases.find(({ name }) => name === 'chat_story_long')!;

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

async function until(condition: () => boolean, what: string, deadlineMs = 15_000): Promise<void> {
  const endMs = systemClock.nowMs() + deadlineMs;
  while (!condition()) {
    if (systemClock.nowMs() > endMs) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await systemClock.sleep(10);
  }
}

describe.each([
  ['collocated', 'any:cpu?threads=1', 'collocated'],
  ['disaggregated', 'prefill:cpu?threads=1,decode:cpu?threads=1', 'disaggregated'],
  ['disaggregated on any', 'any:cpu*2?threads=1', 'disaggregated'],
] as const)('abort, %s', (_name, workers, strategy) => {
  let gateway: Gateway;
  beforeAll(async () => {
    ({ gateway } = await startGateway(workers, { strategy, settings: { prefillChunkTokenCount: 64 } }));
  });
  afterAll(() => gateway.stop());

  it('in every phase leaves zero blocks owned', async () => {
    const cases = bySize(1, 1700);
    for (let seed = 1; seed <= (isFull ? 40 : 4); seed++) {
      const prng = new Prng(seed);
      await Promise.all(
        Array.from({ length: 12 }, async () => {
          const golden = prng.pick(cases);
          const choiceCount = prng.integer(1, 3);
          const stream = gateway.submit(inputOf(golden, { choiceCount, temperature: prng.pick([0, 1]) }));
          const ending = prng.pick(['at once', 'at some time', 'after tokens', 'by leaving']);
          const endMs = prng.exponential(60);
          const tokenCountMax = prng.pick([1, 2, 5, 20]);
          if (ending === 'at once') stream.cancel();
          if (ending === 'at some time') void systemClock.sleep(endMs).then(() => stream.cancel());
          let tokenCount = 0;
          for await (const event of stream) {
            if (event.kind === 'tokens') tokenCount += event.tokens.length;
            if (tokenCount < tokenCountMax) continue;
            if (ending === 'after tokens') stream.cancel();
            if (ending === 'by leaving') break;
          }
          if (ending === 'at once') expect(tokenCount).toBe(0);
        }),
      );
      await expectNothingOwned(gateway);
    }
    expect((await collect(gateway, inputOf(story))).outputs[0]).toEqual(story.continuation_ids);
  });

  it('a stopped choice ends silently, the others go on, and nothing stays', async () => {
    const stream = gateway.submit(inputOf(story, { choiceCount: 3, maxTokenCount: 30, temperature: 0 }));
    const outputs: number[][] = [[], [], []];
    for await (const event of stream) {
      if (event.kind !== 'tokens') continue;
      outputs[event.choiceIndex]!.push(...event.tokens.map(({ tokenId }) => tokenId));
      if (event.choiceIndex === 0 && outputs[0]!.length === 1) stream.stopChoice(0);
      if (event.choiceIndex === 1 && outputs[1]!.length === 5) stream.stopChoice(1);
    }
    expect(outputs).toEqual([
      story.continuation_ids.slice(0, 1),
      story.continuation_ids.slice(0, 5),
      story.continuation_ids.slice(0, 30),
    ]);
    await expectNothingOwned(gateway);
  });
});

describe('a worker that dies', () => {
  let gateway: Gateway | undefined;
  afterEach(async () => {
    await gateway?.stop();
    gateway = undefined;
  });

  /** Runs the stories; does `harm` to a worker once `afterCount` tokens have come in all. */
  async function withHarm(
    workers: string,
    victim: string,
    afterCount: number,
    harm: (pid: number) => void,
    limits = {},
  ) {
    const started = await startGateway(workers, {
      strategy: 'disaggregated',
      limits,
      settings: { prefillChunkTokenCount: 16 },
    });
    gateway = started.gateway;
    const pid = gateway.workers().find(({ id }) => id === victim)!.pid!;
    let tokenCount = 0;
    const onTokens = (count: number) => {
      if (tokenCount < afterCount && tokenCount + count >= afterCount) harm(pid);
      tokenCount += count;
    };
    const cases = [story, ...bySize(1, 300).slice(0, 9)];
    if (afterCount === 0) void systemClock.sleep(15).then(() => harm(pid));
    const answers = await Promise.all(
      cases.map((golden) => collect(started.gateway, inputOf(golden), onTokens)),
    );
    for (const [i, { name, continuation_ids }] of cases.entries())
      expect(answers[i]!.outputs[0], name).toEqual(continuation_ids);
    await until(() => gateway!.workers().every(({ state }) => state === 'ready'), 'the worker is back');
    expect(gateway.workers().find(({ id }) => id === victim)).toMatchObject({ restartCount: 1 });
    expect(gateway.state).toBe('ready');
    await expectNothingOwned(gateway);
    const after = await collect(gateway, inputOf(story));
    expect(after.outputs[0]).toEqual(story.continuation_ids);
    expect(started.records.at(-1)?.routes[0]?.path ?? 'disaggregated').toBe('disaggregated');
    return started.records;
  }

  const kill = (pid: number) => void process.kill(pid, 'SIGKILL');
  it.each([
    ['w0', 0],
    ['w0', 3],
    ['w1', 0],
    ['w1', 12],
    ['w1', 60],
  ])('kill -9 of %s after %d tokens: the same tokens, one stream', async (victim, afterCount) => {
    const records = await withHarm('prefill:cpu?threads=1,decode:cpu?threads=1', victim, afterCount, kill);
    if (afterCount >= 12) expect(records.some(({ lossCount }) => lossCount === 1)).toBe(true);
  });

  it('the only worker: requests wait for its restart', async () => {
    const started = await startGateway('any:cpu?threads=1', { strategy: 'collocated' });
    gateway = started.gateway;
    const pid = gateway.workers()[0]!.pid!;
    let count = 0;
    const answer = await collect(gateway, inputOf(story), (more) => {
      count += more;
      if (count === 20) kill(pid);
    });
    expect(answer.outputs[0]).toEqual(story.continuation_ids);
    await expectNothingOwned(gateway);
    expect(started.records[0]).toMatchObject({ lossCount: 1, outcome: 'finished' });
    expect(isAlive(pid)).toBe(false);
  });

  /** Nothing but the look at its process may notice. */
  const silenceAllowed = { heartbeatMs: 3_600_000, replyDeadlineMs: 3_600_000, releaseDeadlineMs: 3_600_000 };
  it.each(['w0', 'w1'])('frozen %s: seen, killed, replaced, the same tokens', async (victim) => {
    let frozenPid = 0;
    const freeze = (pid: number) => {
      frozenPid = pid;
      process.kill(pid, 'SIGSTOP');
    };
    await withHarm('prefill:cpu?threads=1,decode:cpu?threads=1', victim, 5, freeze, silenceAllowed);
    expect(isAlive(frozenPid)).toBe(false);
  });

  it('on a busy machine nobody is taken for frozen: workers with hardly any core, beside others that take all', async () => {
    const started = await startGateway('prefill:cpu?threads=1,decode:cpu?threads=1', {
      strategy: 'disaggregated',
    });
    gateway = started.gateway;
    const pids = gateway.workers().map(({ pid }) => pid!);
    for (const pid of pids)
      for (const task of readdirSync(`/proc/${pid}/task`)) os.setPriority(Number(task), 19);
    const spin = ['-e', 'const end = Date.now() + 60_000; while (Date.now() < end);'];
    const spinners = Array.from({ length: 2 * os.availableParallelism() }, () =>
      spawn(process.execPath, spin),
    );
    const answers = Promise.all(Array.from({ length: 3 }, () => collect(started.gateway, inputOf(story))));
    await systemClock.sleep(5_000);
    for (const spinner of spinners) spinner.kill('SIGKILL');
    for (const { outputs } of await answers) expect(outputs[0]).toEqual(story.continuation_ids);
    expect(gateway.workers().map(({ pid }) => pid)).toEqual(pids);
    expect(started.records.every(({ lossCount }) => lossCount === 0)).toBe(true);
  }, 60_000);

  it('with a deadline and nobody back in time: a typed error', async () => {
    ({ gateway } = await startGateway('any:cpu?threads=1', { strategy: 'collocated' }));
    kill(gateway.workers()[0]!.pid!);
    await until(() => gateway!.health().status === 'no_workers', 'no workers');
    // a process takes longer to start
    const waiting = collect(gateway, { ...inputOf(story), deadlineMs: 10 });
    await expect(waiting).rejects.toMatchObject({ code: 'deadline_exceeded' });
    expect(gateway.state).toBe('degraded');
  });
});

it('chaos: workers killed and frozen at random under load, clients that leave: every stream that stays is right', async () => {
  const durationMs = isFull ? 60_000 : 6_000;
  const { gateway, records } = await startGateway(
    'any:cpu*2?threads=1,prefill:cpu?threads=1,decode:cpu?threads=1',
    {
      strategy: 'disaggregated',
      settings: {
        prefillChunkTokenCount: 32,
        blockCount: 200,
        maxModelTokenCount: 600,
        sequenceCountMax: 16,
      },
      limits: { heartbeatMs: 1000, lossCountMax: 1000, holdMs: 200, restartDelayMsMax: 300 },
    },
  );
  const cases = bySize(1, 300);
  const endMs = systemClock.nowMs() + durationMs;
  let harmCount = 0;
  const harm = async () => {
    const prng = new Prng(99);
    while (systemClock.nowMs() < endMs - 1000) {
      await systemClock.sleep(prng.exponential(700));
      const live = gateway.workers().filter(({ state }) => state === 'ready');
      if (live.length < 2) continue;
      const victim = prng.pick(live);
      process.kill(victim.pid!, prng.uniform() < 0.7 ? 'SIGKILL' : 'SIGSTOP');
      harmCount++;
    }
  };
  const client = async (seed: number) => {
    const prng = new Prng(seed);
    while (systemClock.nowMs() < endMs) {
      const golden = prng.pick(cases);
      const stream = gateway.submit(inputOf(golden));
      const leaveAfter = prng.uniform() < 0.25 ? prng.integer(0, 20) : Number.POSITIVE_INFINITY;
      const output: number[] = [];
      for await (const event of stream) {
        if (event.kind === 'tokens') output.push(...event.tokens.map(({ tokenId }) => tokenId));
        if (output.length >= leaveAfter) break;
      }
      expect(output, golden.name).toEqual(golden.continuation_ids.slice(0, output.length));
      if (leaveAfter === Number.POSITIVE_INFINITY) expect(output.length).toBe(golden.continuation_ids.length);
    }
  };
  await Promise.all([harm(), ...Array.from({ length: 24 }, (_, i) => client(i + 1))]);
  expect(harmCount).toBeGreaterThan(3);
  expect(records.filter(({ lossCount }) => lossCount > 0).length).toBeGreaterThan(3);
  await until(() => gateway.workers().every(({ state }) => state === 'ready'), 'all are back');
  await expectNothingOwned(gateway);
  await gateway.stop();
}, 120_000);

describe('start and end', () => {
  it('a model that cannot be loaded rejects ready with the file’s name', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-test-'));
    writeFileSync(path.join(folder, 'config.json'), '{ not json');
    const starting = startGateway('any:cpu', { settings: { modelFolder: folder } });
    await expect(starting).rejects.toMatchObject({ code: 'model_error' });
    await expect(starting).rejects.toThrow(/config\.json/);
    rmSync(folder, { recursive: true });
  });

  it('a worker that cannot even start is given up after a few attempts', async () => {
    const limits = { startCountMax: 3, restartDelayMsMin: 1, restartDelayMsMax: 1 };
    const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-test-'));
    const entry = path.join(folder, 'broken.mjs');
    writeFileSync(entry, 'process.exit(7);');
    await expect(startGateway('any:cpu', { limits, workerEntry: entry })).rejects.toThrow(
      /worker w0: it exited with code 7/,
    );
    rmSync(folder, { recursive: true });
  });

  it('too little KV memory for one context is said in numbers', async () => {
    const starting = startGateway('any:cpu', { settings: { blockCount: 10 } });
    await expect(starting).rejects.toThrow(/4096 tokens needs 256 KV blocks.*there are 10/);
  });

  it('a strategy that the roles forbid is refused naming both', async () => {
    await expect(startGateway('prefill:cpu,decode:cpu', { strategy: 'collocated' })).rejects.toThrow(
      /collocated.*prefill, decode/,
    );
  });

  it('a prompt over the context is refused, and costs nothing', async () => {
    const { gateway } = await startGateway('prefill:cpu?threads=1,decode:cpu?threads=1', {
      settings: { maxModelTokenCount: 256 },
    });
    const long = goldens.cases.find(({ prompt_ids }) => prompt_ids.length > 256)!;
    await expect(collect(gateway, inputOf(long))).rejects.toMatchObject({ code: 'context_length_exceeded' });
    await expectNothingOwned(gateway);
    await gateway.stop();
  });

  it('stop drains what runs, refuses what comes, and leaves no process', async () => {
    const { gateway } = await startGateway('prefill:cpu?threads=1,decode:cpu?threads=1');
    const pids = gateway.workers().map(({ pid }) => pid!);
    expect(gateway.health()).toMatchObject({ status: 'ok' });
    const running = collect(gateway, inputOf(story));
    await systemClock.sleep(30);
    const stopping = gateway.stop({ drainMs: 20_000 });
    expect(gateway.state).toBe('stopping');
    expect(() => gateway.submit(inputOf(story))).toThrow(/stopping/);
    expect((await running).outputs[0]).toEqual(story.continuation_ids);
    await stopping;
    expect(pids.filter(isAlive)).toEqual([]);
  });

  it('what still runs when it stops fails, instead of ending as if it were whole', async () => {
    const { gateway, records } = await startGateway('any:cpu?threads=1', { strategy: 'collocated' });
    const running = collect(gateway, inputOf(story), () => void gateway.stop());
    await expect(running).rejects.toMatchObject({ code: 'unavailable', message: 'the server is stopping' });
    await gateway.stop();
    expect(records).toMatchObject([{ outcome: 'failed' }]);
  });

  it('workers do not outlive a gateway that is killed', async () => {
    const script = `
      import { Gateway } from '${path.dirname(workerEntry)}/../control/gateway.js';
      import { parseWorkerSpecs } from '${path.dirname(workerEntry)}/../control/worker-spec.js';
      import { systemClock } from '${path.dirname(workerEntry)}/../base/clock.js';
      import { silentLogger } from '${path.dirname(workerEntry)}/../base/log.js';
      const settings = { modelFolder: '${demoFolder}', loadFormat: 'auto', dtype: 'auto', kvDtype: 'auto', quantize: 'none',
        blockTokenCount: 16, gpuMemoryShare: 0.9, tokenBudget: 64, prefillChunkTokenCount: 64, sequenceCountMax: 4, maxModelTokenCount: 256,
        prefixCaching: 'on', depth: 1 };
      const gateway = await Gateway.start({ workers: parseWorkerSpecs('any:cpu*2'), strategy: 'adaptive', settings,
        workerEntry: '${workerEntry}', logger: silentLogger, clock: systemClock });
      await gateway.ready;
      console.log(gateway.workers().map(({ pid }) => pid).join());
    `;
    const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-test-'));
    const env = { ...process.env, TMPDIR: folder };
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env,
    });
    const line = await new Promise<string>((resolve) =>
      child.stdout.once('data', (bytes) => resolve(String(bytes))),
    );
    const pids = line.trim().split(',').map(Number);
    expect(pids.map(isAlive)).toEqual([true, true]);
    expect(readdirSync(folder)).toHaveLength(1);
    child.kill('SIGKILL');
    await until(() => !pids.some(isAlive), 'the workers end');
    expect(readdirSync(folder), 'its socket is gone').toEqual([]);
    rmSync(folder, { recursive: true });
  });
});
