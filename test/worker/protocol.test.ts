/** What a worker does when its gateway is of another version or talks rubbish. The gateway is a script; the
 *  worker is the real one, up to its engine. */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { TwostrokeError } from '../../src/base/errors.js';
import { workerId } from '../../src/base/ids.js';
import { silentLogger } from '../../src/base/log.js';
import type { BusHandlers } from '../../src/bus/bus.js';
import { BusProtocolError } from '../../src/bus/protocol.js';
import { InProcessBus } from '../../src/sim/in-process-bus.js';
import type { HandOverSource } from '../../src/worker/hand-over-source.js';
import type { HandOverTarget } from '../../src/worker/hand-over-target.js';
import { protocolVersion } from '../../src/worker/messages.js';
import { runWorker } from '../../src/worker/worker.js';
import { WorkerService } from '../../src/worker/worker-service.js';
import { kvTarget, requestBodyOf } from '../control/messages.js';
import { settings } from '../control/real-cluster.js';

const helloReply = {
  ...settings,
  protocolVersion,
  role: 'any',
  device: { kind: 'cpu', index: 0, threadCount: 1 },
  deviceShareCount: 1,
  heartbeatEveryMs: 1000,
};

describe('the answer to a hello', () => {
  /** Runs until the worker has its answer and loads, or has refused it. */
  async function greeted(answer: object | null, told: unknown[] = []): Promise<unknown> {
    const bus = new InProcessBus();
    const hellos: unknown[] = [];
    await bus.listen({}, () => ({
      onRequest: async (_kind, body) => {
        hellos.push(body);
        return answer;
      },
      onEvent: (kind, body) => void told.push([kind, body]),
    }));
    const loaded = new TwostrokeError('model_error', 'it would load now');
    await runWorker({
      address: 'here',
      workerId: workerId('w0'),
      pid: 7,
      parentPid: () => 1,
      clock: systemClock,
      logger: silentLogger,
      connect: async (_address, _options, handlers) =>
        bus.connect({ clock: systemClock, delayMs: () => 0 }, handlers),
      load: () => Promise.reject(loaded),
    });
    return hellos[0];
  }

  it('of this version is taken, and the hello says which that is', async () => {
    expect(await greeted(helloReply)).toEqual({ protocolVersion, workerId: 'w0', pid: 7 });
  });

  it.each([
    [
      'of another version',
      { protocolVersion: 1, mode: 'new' },
      /the gateway speaks protocol 1 and this process protocol \d+; stop it all, install one/,
    ],
    [
      'of no version',
      { ...helloReply, protocolVersion: undefined },
      /the gateway speaks no protocol that it names/,
    ],
    ['nothing at all', null, /the gateway speaks no protocol that it names/],
    ['a missing field', { ...helloReply, role: undefined }, /a bad answer to 'hello': body\.role is missing/],
    ['a field of another type', { ...helloReply, depth: 3 }, /body\.depth is a number, not one of 1, 2/],
  ])('%s is refused', async (_what, answer, reason) => {
    const told: unknown[] = [];
    await expect(greeted(answer, told)).rejects.toThrow(reason);
    while (told.length === 0) await systemClock.sleep(1);
    expect(told).toEqual([['fatal', { code: 'internal', message: expect.stringMatching(reason) }]]);
  });
});

describe('a gateway that talks rubbish', () => {
  function make() {
    const refused: BusProtocolError[] = [];
    const calls: string[] = [];
    const spy = (holder: string) =>
      new Proxy({}, { get: (_target, name) => () => void calls.push(`${holder}.${String(name)}`) }) as never;
    const service: BusHandlers = new WorkerService({
      engine: spy('engine'),
      source: spy('source') as HandOverSource,
      target: spy('target') as HandOverTarget,
      received: async () => {},
      logger: silentLogger,
      wake: () => {},
      onStepCost: () => void calls.push('stepCost'),
      refuse: (error) => refused.push(error),
    });
    return { service, refused, calls };
  }
  const body = requestBodyOf('r');

  it.each([
    ['drain', null, "an unknown message 'drain'"],
    ['generate', null, 'body is null, not an object'],
    ['generate', { ...body, promptIds: 'AAA=' }, 'body.promptIds is not a whole number of tokens'],
    [
      'generate',
      { ...body, sampling: { ...body.sampling, choiceCount: 0 } },
      'body.sampling.choiceCount is a number, not a count from 1',
    ],
    ['prefill', { ...body, endedChoices: undefined }, 'body.endedChoices is missing'],
    ['reserve', { request: body }, 'body.growthTokenCount is missing'],
    ['pushTo', { id: 'r', target: kvTarget, reservation: null }, 'body.reservation is null, not an object'],
    ['resume', { handle: {}, outputs: [], endedChoices: [] }, 'body.handle.requestId is missing'],
    ['release', { id: 7 }, 'body.id is a number, not a string'],
    ['integrity', {}, 'body is an object, not null'],
  ])('gets an error for %s %j, and the worker lives', async (kind, rubbish, reason) => {
    const { service, refused, calls } = make();
    await expect(service.onRequest(kind, rubbish)).rejects.toThrow(reason);
    await expect(service.onRequest(kind, rubbish)).rejects.toBeInstanceOf(BusProtocolError);
    expect([refused, calls]).toEqual([[], []]);
    await service.onRequest('release', { id: 'r' });
    expect(calls).toContain('engine.abort');
  });

  it.each([
    ['stopAll', null, "an unknown message 'stopAll'"],
    ['stopChoice', { id: 'r' }, 'body.choiceIndex is missing'],
    ['openPeer', { target: { ...kvTarget, cache: 1 } }, 'body.target.cache is a number, not an object'],
    ['forgetPeer', { workerId: 'w1', incarnation: -1 }, 'body.incarnation is a number, not a count'],
    ['stepCost', { cost: { rowKnots: [null] } }, 'body.cost.rowKnots[0] is null, not an object'],
  ])('is refused for telling %s %j', (kind, rubbish, reason) => {
    const { service, refused, calls } = make();
    service.onEvent(kind, rubbish);
    expect(refused.map(({ message }) => message)).toEqual([expect.stringContaining(reason)]);
    expect(calls).toEqual([]);
  });
});
