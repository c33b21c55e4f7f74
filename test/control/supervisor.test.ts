/** Slots and health without models: scripted processes that say hello, go silent, stall, lie or die. Real
 *  sockets, small limits. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { type WorkerId, workerId } from '../../src/base/ids.js';
import { silentLogger } from '../../src/base/log.js';
import { Prng } from '../../src/base/prng.js';
import type { BusConnection } from '../../src/bus/bus.js';
import { connectUnix } from '../../src/bus/unix-socket.js';
import { defaultGatewayLimits, type GatewayLimits } from '../../src/control/gateway-options.js';
import { healthOf } from '../../src/control/health.js';
import { PrefixAffinity, strideKeys } from '../../src/control/prefix-affinity.js';
import type { ProcessLook } from '../../src/control/process-look.js';
import { Supervisor } from '../../src/control/supervisor.js';
import type { ProcessEnd, SpawnOptions, WorkerProcess } from '../../src/control/worker-process.js';
import { parseWorkerSpecs } from '../../src/control/worker-spec.js';
import { protocolVersion, type SnapshotBody, type WorkerConfig } from '../../src/worker/messages.js';
import { helloOf, readyBody, snapshotOf } from './messages.js';
import { settings } from './real-cluster.js';

const bus = { clock: systemClock, logger: silentLogger };
/** A process that is a script over a connection; "killed" means that its exit is told. */
class Puppet implements WorkerProcess {
  readonly exited: Promise<ProcessEnd>;
  readonly pid: number;
  readonly options: SpawnOptions;
  isKilled = false;
  state: ProcessLook['state'] = 'busy';
  connection: BusConnection | null = null;
  config: WorkerConfig | null = null;
  exit: (reason: string, signal?: NodeJS.Signals) => void = () => {};
  readonly heard: string[] = [];
  /** In its hello, instead of the truth. */
  said: object = {};

  constructor(pid: number, options: SpawnOptions) {
    this.pid = pid;
    this.options = options;
    this.exited = new Promise((resolve) => {
      this.exit = (reason, signal) => resolve({ reason, signal: signal ?? null });
    });
  }

  look(): ProcessLook {
    return { state: this.state, cpuTicks: 1 };
  }

  kill(): void {
    this.isKilled = true;
    this.connection?.close('killed');
    this.exit('it was killed by SIGKILL', 'SIGKILL');
  }

  async hello(pid = this.pid): Promise<void> {
    const onEvent = (kind: string) => void this.heard.push(kind);
    this.connection = await connectUnix(this.options.address, bus, { onRequest: async () => null, onEvent });
    const hello = { ...helloOf(this.options.workerId, pid), ...this.said };
    this.config = (await this.connection.request('hello', hello, 1000)) as WorkerConfig;
  }

  async start(): Promise<void> {
    await this.hello();
    this.connection?.send('ready', readyBody);
  }
}

const supervisors: Supervisor[] = [];
afterEach(async () => {
  for (const supervisor of supervisors.splice(0)) await supervisor.stop();
});

async function make(workers: string, limits: Partial<GatewayLimits> = {}, threads = 8) {
  const puppets: Puppet[] = [];
  const lost: WorkerId[] = [];
  const supervisor = await Supervisor.start({
    workers: parseWorkerSpecs(workers),
    strategy: 'adaptive',
    settings,
    threads,
    workerEntry: 'nowhere.js',
    spawn: (options) => {
      const puppet = new Puppet(1000 + puppets.length, options);
      puppets.push(puppet);
      return puppet;
    },
    limits: { ...defaultGatewayLimits, restartDelayMsMin: 5, restartDelayMsMax: 20, ...limits },
    ...bus,
    onLoadProgress: () => {},
    onChange: () => {},
    onLost: (id) => lost.push(id),
  });
  supervisors.push(supervisor);
  return { supervisor, puppets, lost };
}

async function until(condition: () => boolean): Promise<void> {
  const endMs = systemClock.nowMs() + 5000;
  while (!condition()) {
    if (systemClock.nowMs() > endMs) throw new Error('not within 5 s');
    await systemClock.sleep(2);
  }
}

describe('slots', () => {
  it('tell each worker its role, device and share of the cores', async () => {
    const { puppets, supervisor } = await make(
      'prefill:cpu*2?threads=3,decode:cpu,any:cuda:1?quantize=fp8&blocks=77',
    );
    await Promise.all(puppets.map((puppet) => puppet.start()));
    await until(() => supervisor.slots.every((slot) => slot.isLive));
    expect(
      puppets.map(({ config }) => [
        config?.role,
        config?.device.kind,
        config?.device.threadCount,
        config?.deviceShareCount,
      ]),
    ).toEqual([
      ['prefill', 'cpu', 3, 3],
      ['prefill', 'cpu', 3, 3],
      ['decode', 'cpu', 2, 3],
      ['any', 'cuda', 0, 1],
    ]);
    expect(puppets[3]?.config).toMatchObject({ quantize: 'fp8', blockCount: 77, device: { index: 1 } });
    expect(supervisor.workers()[0]).toMatchObject({ id: 'w0', isLive: true, blockCount: 10 });
    expect(supervisor.availableBlockCount(workerId('w0'))).toBe(10);
    puppets[0]?.connection?.send('snapshot', snapshotOf(1, true));
    await until(() => supervisor.availableBlockCount(workerId('w0')) === 7);
  });

  it('let the workers of one GPU load one after another, also after a death', async () => {
    const { puppets, supervisor } = await make('any:cuda:0*2,any:cuda:1');
    const started = () => puppets.map(({ options }) => options.workerId);
    await until(() => puppets.length === 2);
    expect(started()).toEqual(['w0', 'w2']);
    await puppets[0]?.start();
    await until(() => puppets.length === 3);
    await puppets[2]?.start();
    expect(puppets.map(({ config }) => config?.deviceLoadedCount)).toEqual([0, undefined, 1]);
    await until(() => supervisor.slots[1]?.isLive === true);
    puppets[0]?.kill();
    await until(() => puppets.length === 4);
    await puppets[3]?.start();
    expect([started().at(-1), puppets[3]?.config?.deviceLoadedCount]).toEqual(['w0', 1]);
  });

  it('a stranger with the wrong pid is hung up on, the right one still gets in', async () => {
    const { puppets, supervisor } = await make('any:cpu');
    const stranger = new Puppet(4711, puppets[0]!.options);
    await stranger.hello().catch(() => {});
    await until(() => stranger.connection?.isClosed === true);
    expect(supervisor.slots[0]?.state).toBe('starting');
    await puppets[0]?.start();
    await until(() => supervisor.slots[0]?.isLive === true);
    const second = new Puppet(puppets[0]!.pid, puppets[0]!.options);
    await second.hello().catch(() => {});
    await until(() => second.connection?.isClosed === true);
    expect(supervisor.slots[0]?.isLive).toBe(true);
  });

  it('opens ways from those that prefill to those that decode, and closes them when one dies', async () => {
    const { puppets, supervisor, lost } = await make('prefill:cpu,decode:cpu');
    await Promise.all(puppets.map((puppet) => puppet.start()));
    await until(() => puppets[0]!.heard.length > 0);
    expect([puppets[0]?.heard, puppets[1]?.heard]).toEqual([['openPeer'], []]);
    puppets[1]!.kill();
    await until(() => puppets[0]!.heard.includes('forgetPeer'));
    expect(lost).toContain('w1');
    await until(() => puppets.length === 3);
    await puppets[2]?.start();
    await until(() => supervisor.slots[1]?.isLive === true && puppets[0]!.heard.length === 3);
    expect(puppets[0]?.heard).toEqual(['openPeer', 'forgetPeer', 'openPeer']);
    expect(supervisor.slots[1]).toMatchObject({ incarnation: 2, restartCount: 1 });
  });

  it('silence kills, and so does work without a step; steps and rest do not', async () => {
    const { puppets, supervisor } = await make('any:cpu', { heartbeatMs: 80, stalledKillMs: 200 });
    await puppets[0]!.start();
    await until(() => puppets.length === 2); // it said nothing more
    expect(puppets[0]?.isKilled).toBe(true);
    await puppets[1]!.start();
    const say = (body: SnapshotBody) => puppets[1]?.connection?.send('snapshot', body);
    for (let i = 0; i < 30; i++) {
      say(snapshotOf(i, true));
      await systemClock.sleep(10);
    }
    for (let i = 0; i < 30; i++) {
      say(snapshotOf(30, false));
      await systemClock.sleep(10);
    }
    expect(puppets[1]?.isKilled).toBe(false);
    while (!puppets[1]?.isKilled && supervisor.slots[0]!.stalledMs < 2000) {
      say(snapshotOf(30, true));
      await systemClock.sleep(10);
    }
    expect(puppets[1]?.isKilled).toBe(true);
  });

  it('one that was ready is started again at once, however often; one that dies at its start is waited for', async () => {
    const hour = 3_600_000;
    const { puppets } = await make('any:cpu*2', { restartDelayMsMin: hour, restartDelayMsMax: hour });
    const started = (id: string) => puppets.filter(({ options }) => options.workerId === id);
    started('w0')[0]!.exit('it exited with code 1');
    for (let death = 0; death < 8; death++) {
      await until(() => started('w1').length === death + 1);
      const puppet = started('w1')[death]!;
      await puppet.start();
      await puppet.connection?.request('ping', null, 1000).catch(() => {}); // 'ready' has been heard
      puppet.kill();
    }
    await until(() => started('w1').length === 9);
    expect(started('w0')).toHaveLength(1);
  });

  it.each([
    ['kill -9', (puppet: Puppet) => puppet.kill(), 'outside'],
    ['a crash', (puppet: Puppet) => puppet.exit('it was killed by SIGSEGV', 'SIGSEGV'), 'work'],
    ['an error of its engine', (puppet: Puppet) => puppet.exit('it exited with code 1'), 'work'],
    ['no step for too long', () => {}, 'work'],
    ['a stop by a signal', (puppet: Puppet) => Object.assign(puppet, { state: 'stopped' }), 'outside'],
    ['a standstill', (puppet: Puppet) => Object.assign(puppet, { state: 'waiting' }), 'work'],
  ] as const)('%s: who is to blame is said', async (_what, end, blame) => {
    const { puppets, supervisor } = await make('any:cpu', { stalledKillMs: 500, frozenMs: 40 });
    await puppets[0]!.start();
    await until(() => supervisor.slots[0]?.isLive === true);
    puppets[0]!.connection?.send('snapshot', snapshotOf(1, true));
    const losing = supervisor.slots[0]!.client!.orLost(new Promise<never>(() => {}));
    end(puppets[0]!);
    await expect(losing).rejects.toMatchObject({ worker: 'w0', blame });
  });

  it('a dropped connection is a dead worker: killed and reaped before it is said', async () => {
    const { puppets, supervisor, lost } = await make('any:cpu');
    await puppets[0]!.start();
    await until(() => supervisor.slots[0]?.isLive === true);
    const client = supervisor.slots[0]!.client!;
    const losing = client.orLost(new Promise<never>(() => {}));
    losing.catch(() => {});
    const { exit } = puppets[0]!;
    puppets[0]!.exit = () => {}; // killed, but not reaped yet
    puppets[0]!.connection!.close('cut');
    await until(() => puppets[0]!.isKilled);
    await systemClock.sleep(20);
    expect(lost).toEqual([]);
    exit('it was killed by SIGKILL', 'SIGKILL');
    await expect(losing).rejects.toMatchObject({ code: 'unavailable' });
    expect(lost).toEqual(['w0']);
  });

  it('an error that another start will not cure ends the attempts; after it has been ready it does not', async () => {
    const { puppets, supervisor } = await make('any:cpu,any:cpu');
    const fatal = { code: 'model_error', message: 'config.json: not JSON' };
    await puppets[0]!.hello();
    puppets[0]!.connection!.send('fatal', fatal);
    await systemClock.sleep(10);
    puppets[0]!.exit('it exited with code 1');
    await until(() => supervisor.slots[0]?.state === 'failed');
    await puppets[1]!.start();
    await until(() => supervisor.slots[1]?.isLive === true);
    puppets[1]!.connection!.send('fatal', fatal);
    await systemClock.sleep(10);
    puppets[1]!.exit('it exited with code 1');
    await until(() => puppets.length === 3);
    expect(puppets[2]?.options.workerId).toBe('w1');
  });
});

describe('a worker that talks rubbish', () => {
  const tokens = (event: object) => ({
    events: [{ kind: 'tokens', requestId: 'r', choiceIndex: 0, tokens: [], ...event }],
  });

  it.each([
    ['an unknown kind', 'gossip', {}, "an unknown message 'gossip'"],
    ['a kind that every object has', 'constructor', {}, "an unknown message 'constructor'"],
    ['a kind without end', 'x'.repeat(100_000), {}, `an unknown message '${'x'.repeat(40)}'`],
    ['no body', 'tokens', null, "a bad 'tokens' message: body is null, not an object"],
    ['no list', 'tokens', { events: {} }, 'body.events is an object, not a list'],
    ['an event of no kind', 'tokens', { events: [{}] }, 'body.events[0].kind is not known'],
    [
      'an event of a kind that every object has',
      'tokens',
      tokens({ kind: 'constructor' }),
      'body.events[0].kind is not known',
    ],
    ['a missing field', 'tokens', tokens({ requestId: undefined }), 'body.events[0].requestId is missing'],
    [
      'no token',
      'tokens',
      tokens({ tokens: [{ tokenId: 1 }, null] }),
      'body.events[0].tokens[1] is null, not an object',
    ],
    [
      'a choice that is none',
      'tokens',
      tokens({ choiceIndex: -1 }),
      'body.events[0].choiceIndex is a number, not a count',
    ],
    [
      'an end of no kind',
      'tokens',
      tokens({ finishReason: 'tired' }),
      'finishReason is a string, not one of stop, length',
    ],
    [
      'a snapshot without an engine',
      'snapshot',
      { ...snapshotOf(1, true), engine: null },
      'body.engine is null, not an object',
    ],
    [
      'steps without end',
      'snapshot',
      { ...snapshotOf(1, true), steps: new Array(321).fill(1) },
      'a list of 321, not of at most 320',
    ],
    [
      'blocks of no size',
      'ready',
      { ...readyBody, blockTokenCount: 0 },
      'body.blockTokenCount is a number, not a count from 1',
    ],
    ['an error of no kind', 'fatal', { code: 'bad luck', message: 'x' }, 'body.code is a string, not one of'],
    ['a landing of nothing', 'landed', { pushedBytes: 1 }, 'body.handle is missing'],
  ])('%s: it is killed, and the reason says what', async (_what, kind, body, reason) => {
    const { puppets, supervisor, lost } = await make('any:cpu');
    await puppets[0]!.start();
    await until(() => supervisor.slots[0]?.isLive === true);
    const losing = supervisor.slots[0]!.client!.orLost(new Promise<never>(() => {}));
    puppets[0]!.connection!.send(kind, body);
    await expect(losing).rejects.toMatchObject({
      worker: 'w0',
      blame: 'work',
      message: expect.stringContaining(reason),
    });
    expect(lost).toEqual(['w0']);
    await until(() => puppets.length === 2);
    await puppets[1]!.start();
    await until(() => supervisor.slots[0]?.isLive === true); // the gateway goes on
  });

  it.each([
    [
      'a hello without a version',
      { protocolVersion: undefined },
      "a bad 'hello' message: body.protocolVersion is missing",
    ],
    [
      'a hello with a pid that is a text',
      { pid: '7' },
      "a bad 'hello' message: body.pid is a string, not an integer",
    ],
  ])('%s is refused, and a right one still gets in', async (_what, said, reason) => {
    const { puppets, supervisor } = await make('any:cpu');
    puppets[0]!.said = said;
    await expect(puppets[0]!.hello()).rejects.toThrow(reason);
    expect(supervisor.slots[0]?.state).toBe('starting');
    puppets[0]!.said = {};
    await puppets[0]!.start();
    await until(() => supervisor.slots[0]?.isLive === true);
    await expect(puppets[0]!.connection!.request('gossip', null, 1000)).rejects.toThrow(
      "an unknown message 'gossip'",
    );
    await expect(
      puppets[0]!.connection!.request('hello', helloOf('w0', puppets[0]!.pid), 1000),
    ).rejects.toThrow('worker w0 has said hello before');
    expect(supervisor.slots[0]?.isLive).toBe(true);
  });

  it('another version is killed, not started again, and both sides are told what to do', async () => {
    const { puppets, supervisor } = await make('any:cpu');
    const other = protocolVersion + 1;
    puppets[0]!.said = { protocolVersion: other };
    const reason = `worker w0 speaks protocol ${other} and this process protocol ${protocolVersion}; stop it all, install one version`;
    puppets[0]!.kill = () => (puppets[0]!.isKilled = true); // told before it is dead
    await expect(puppets[0]!.hello()).rejects.toThrow(reason);
    expect(puppets[0]!.isKilled).toBe(true);
    puppets[0]!.exit('it was killed by SIGKILL', 'SIGKILL');
    await until(() => supervisor.slots[0]?.state === 'failed');
    expect(supervisor.slots[0]?.error?.message).toContain(reason);
    expect(puppets).toHaveLength(1);
  });
});

describe('health', () => {
  const slot = (id: string, state: 'ready' | 'loading' | 'dead' | 'failed', stalledMs = 0) => ({
    id: workerId(id),
    state,
    isLive: state === 'ready',
    stalledMs,
    error: { code: 'model_error' as const, message: 'broken' },
  });
  it.each([
    ['loading', [slot('a', 'ready'), slot('b', 'loading')], 'loading', 'loading', /loading: b/],
    ['all there', [slot('a', 'ready'), slot('b', 'ready')], 'ready', 'ok', /2 workers/],
    ['one gone', [slot('a', 'ready'), slot('b', 'dead')], 'ready', 'ok', /a live; not live: b/],
    ['none', [slot('a', 'dead'), slot('b', 'loading')], 'ready', 'no_workers', /restarting: b/],
    ['stalled', [slot('a', 'ready'), slot('b', 'ready', 40_000)], 'ready', 'stalled', /40 s on b/],
    ['hopeless', [slot('a', 'failed')], 'loading', 'no_workers', /broken/],
  ] as const)('%s', (_name, slots, phase, status, detail) => {
    const health = healthOf(slots, phase, 30_000);
    expect(health.status).toBe(status);
    expect(health.detail).toMatch(detail);
  });
});

describe('prefix affinity', () => {
  const [a, b] = [workerId('a'), workerId('b')];
  const prompt = (seed: number, count: number) => {
    const prng = new Prng(seed);
    return Array.from({ length: count }, () => prng.integer(0, 4000));
  };

  it('knows who saw a beginning, and how much of it', () => {
    const affinity = new PrefixAffinity();
    const long = prompt(1, 300);
    affinity.record(strideKeys(long), a);
    affinity.record(strideKeys(long.slice(0, 130)), b);
    expect(affinity.lookup(strideKeys([...long, 1, 2, 3]))).toEqual(
      new Map([
        [a, 256],
        [b, 128],
      ]),
    );
    expect(affinity.lookup(strideKeys([...long.slice(0, 100), ...prompt(2, 200)]))).toEqual(
      new Map([
        [a, 64],
        [b, 64],
      ]),
    );
    expect(affinity.lookup(strideKeys(prompt(3, 300)))).toEqual(new Map());
    expect(affinity.lookup(strideKeys(long, 'another tenant'))).toEqual(new Map());
    affinity.forget(a);
    expect(affinity.lookup(strideKeys(long))).toEqual(new Map([[b, 128]]));
  });

  it('is bounded: the oldest go first', () => {
    const affinity = new PrefixAffinity();
    const first = prompt(0, 64 * 4);
    affinity.record(strideKeys(first), a);
    for (let i = 1; i <= 400; i++) affinity.record(strideKeys(prompt(i, 64 * 64)), b);
    expect(affinity.lookup(strideKeys(first))).toEqual(new Map());
    expect(affinity.lookup(strideKeys(prompt(400, 64 * 64)))).toEqual(new Map([[b, 64 * 64]]));
  });
});
