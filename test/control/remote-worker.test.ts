/** A worker's client over a bus that is a script: what it keeps of a request, and what it says of a worker that keeps too much. */
import { expect, it } from 'vitest';
import { requestId, workerId } from '../../src/base/ids.js';
import type { BusConnection } from '../../src/bus/bus.js';
import { defaultGatewayLimits } from '../../src/control/gateway-options.js';
import { RemoteWorker } from '../../src/control/remote-worker.js';
import { Request } from '../../src/control/request.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { KvTarget } from '../../src/transfer/connector.js';
import type { HeldBody } from '../../src/worker/messages.js';
import { VirtualClock } from './virtual-clock.js';

const id = requestId('r');
const nothing: HeldBody = { engine: [], handOvers: [], pushes: [], reservations: [] };

function make(held: HeldBody = nothing) {
  const request = async (kind: string) => (kind === 'integrity' ? held : null);
  const connection = { request, send: () => {} } as unknown as BusConnection;
  const target = { workerId: workerId('w0') } as KvTarget;
  return new RemoteWorker({ target, connection, limits: defaultGatewayLimits, kill: () => {} });
}

const requestOf = () => new Request({ id, promptIds: [1, 2], sampling: greedy }, new VirtualClock(), 1000);
const never = () => new Promise<never>(() => {});

it('a prefill that is released, or whose worker dies, is over for whoever waits for it', async () => {
  const worker = make();
  const prefilling = worker.prefill(requestOf(), never);
  await worker.release(id);
  await expect(prefilling).rejects.toMatchObject({ reason: 'unwanted' });
  const dying = worker.prefill(requestOf(), never);
  worker.lose('killed', 'outside');
  await expect(dying).rejects.toMatchObject({ code: 'unavailable' });
});

it('the check finds what a worker, or its client, keeps of a request that has ended', async () => {
  const worker = make();
  const request = requestOf();
  void worker.prefill(request, never).catch(() => {});
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
