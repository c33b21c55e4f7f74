/** The tcp connector as a member of the family, for tests: its target side listens on this host. */
import { systemClock } from '../../src/base/clock.js';
import { workerId } from '../../src/base/ids.js';
import { silentLogger } from '../../src/base/log.js';
import { TcpConnector } from '../../src/transfer/tcp.js';
import type { TcpLimits } from '../../src/transfer/tcp-lane.js';
import { KvReceiver, type ReceiverOptions } from '../../src/transfer/tcp-receiver.js';
import { identityOf, type Member, type Side } from './contract.js';

export const quickLimits: TcpLimits = { helloMs: 1000, reconnectMs: 500, stallMs: 500 };

export function listenOn(side: Side, workerName: string, more: Partial<ReceiverOptions> = {}): Promise<KvReceiver> {
  return KvReceiver.listen({
    device: side.device,
    cache: side.cache,
    identity: identityOf(side.cache.layout),
    workerId: workerId(workerName),
    host: '127.0.0.1',
    clock: systemClock,
    logger: silentLogger,
    accepts: () => true,
    ...more,
  });
}

export const tcpMember: Member = {
  name: 'tcp',
  make: (source) => new TcpConnector(source, quickLimits),
  async listen(side, workerName) {
    const receiver = await listenOn(side, workerName);
    return { address: receiver.address, close: () => receiver.close() };
  },
  gone: (target) => ({ ...target, receiver: target.receiver && { ...target.receiver, port: 1 } }),
};
