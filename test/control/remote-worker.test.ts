/** A worker's client over a bus that is a script: what it keeps of a request, and what it says of a worker
 *  that keeps too much. */
import { expect, it } from 'vitest';
import { requestId, workerId } from '../../src/base/ids.js';
import type { BusConnection } from '../../src/bus/bus.js';
import { CheckedConnection } from '../../src/bus/protocol.js';
import { defaultGatewayLimits } from '../../src/control/gateway-options.js';
import { RemoteWorker } from '../../src/control/remote-worker.js';
import { Request } from '../../src/control/request.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { TokenEvent } from '../../src/engine/token-event.js';
import type { KvTarget } from '../../src/transfer/connector.js';
import { workerAnswerChecks } from '../../src/worker/message-checks.js';
import type { HeldBody, WorkerMessages } from '../../src/worker/messages.js';
import { VirtualClock } from './virtual-clock.js';

const id = requestId('r');
const nothing: HeldBody = { engine: [], handOvers: [], pushes: [], reservations: [] };

function make(held: HeldBody = nothing) {
  const request = async (kind: string) => (kind === 'integrity' ? held : null);
  return over(request).worker;
}

function over(request: (kind: string) => Promise<unknown>) {
  const kills: string[] = [];
  const connection = new CheckedConnection<WorkerMessages>(
    { request, send: () => {} } as unknown as BusConnection,
    workerAnswerChecks,
  );
  const target = { workerId: workerId('w0') } as KvTarget;
  const kill = (reason: string) => void kills.push(reason);
  return { worker: new RemoteWorker({ target, connection, limits: defaultGatewayLimits, kill }), kills };
}

const requestOf = () => new Request({ id, promptIds: [1, 2], sampling: greedy }, new VirtualClock(), 1000);
const never = () => new Promise<never>(() => {});

it('a prefill that is released, or whose worker dies, is over for whoever waits for it', async () => {
  const worker = make();
  const prefilling = worker.prefill(requestOf(), () => {}, never);
  await worker.release(id);
  await expect(prefilling).rejects.toMatchObject({ reason: 'unwanted' });
  const dying = worker.prefill(requestOf(), () => {}, never);
  worker.lose('killed', 'outside');
  await expect(dying).rejects.toMatchObject({ code: 'unavailable' });
});

it('the check finds what a worker, or its client, keeps of a request that has ended', async () => {
  const worker = make();
  const request = requestOf();
  void worker.prefill(request, () => {}, never).catch(() => {});
  await worker.checkIntegrity(new Set([id]));
  await expect(worker.checkIntegrity(new Set())).rejects.toThrow('requests keeps what has ended: r');
  await worker.release(id);
  await worker.checkIntegrity(new Set());
  for (const holder of ['engine', 'handOvers', 'pushes', 'reservations'] as const) {
    const keeping = make({ ...nothing, [holder]: [id] });
    await keeping.checkIntegrity(new Set([id]));
    await expect(keeping.checkIntegrity(new Set())).rejects.toThrow(`${holder} keeps what has ended: r`);
  }
});

it.each([
  [
    'generate',
    (worker: RemoteWorker) => worker.generate(requestOf(), () => {}),
    {},
    'body is an object, not null',
  ],
  [
    'reserve',
    (worker: RemoteWorker) => worker.reserve(requestOf(), 1),
    { blockIds: [1, -1] },
    'body.blockIds[1] is a number, not a count',
  ],
  [
    'integrity',
    (worker: RemoteWorker) => worker.checkIntegrity(new Set()),
    { engine: null },
    'body.engine is null, not a list',
  ],
  ['release', (worker: RemoteWorker) => worker.release(id), 'yes', 'body is a string, not null'],
] as const)(
  'a rubbish answer to %s asks for the worker to be killed, once it is reaped nobody waits',
  async (kind, ask, answer, reason) => {
    const { worker, kills } = over(async () => answer);
    const asking = ask(worker).then(
      () => 'done',
      ({ name, message }: Error) => `${name}: ${message}`,
    );
    while (kills.length === 0) await Promise.resolve();
    expect(kills).toEqual([`a bad answer to '${kind}': ${reason}`]);
    worker.lose('killed', 'work');
    expect(await asking).toBe(kind === 'release' ? 'done' : 'TwostrokeError: worker w0 was lost: killed');
  },
);

it.each<[string, Partial<Extract<TokenEvent, { kind: 'tokens' }>>, string]>([
  ['a choice that it has not', { choiceIndex: 3 }, 'it sent tokens of choice 3 of request r, which has 1'],
  [
    'more tokens than it asked for',
    { tokens: new Array(17).fill({ tokenId: 1 }) },
    'it sent more than the 16 tokens that request r asked for',
  ],
])(
  'tokens of a request for %s ask for the worker to be killed, and are not taken',
  async (_what, wrong, reason) => {
    const { worker, kills } = over(async () => null);
    const request = requestOf();
    await worker.generate(request, (event) => request.emit(event));
    worker.onTokens({
      events: [{ kind: 'tokens', requestId: id, choiceIndex: 0, tokens: [{ tokenId: 1 }], ...wrong }],
    });
    expect(kills).toEqual([reason]);
    expect(request.outputs).toEqual([[]]);
    worker.onTokens({
      events: [{ kind: 'tokens', requestId: id, choiceIndex: 0, tokens: new Array(16).fill({ tokenId: 1 }) }],
    });
    expect([kills.length, request.outputs[0]?.length]).toEqual([1, 16]);
  },
);
