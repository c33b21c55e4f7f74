/** The tcp connector as a member of the family, for tests: its target side listens on this host. */
import { systemClock } from '../../src/base/clock.js';
import { workerId } from '../../src/base/ids.js';
import { silentLogger } from '../../src/base/log.js';
import type { KvChannel, KvConnector, KvSource, KvTarget } from '../../src/transfer/connector.js';
import { PullServer } from '../../src/transfer/pull-server.js';
import { TcpConnector } from '../../src/transfer/tcp.js';
import type { TcpLimits } from '../../src/transfer/tcp-lane.js';
import { KvReceiver, type ReceiverOptions } from '../../src/transfer/tcp-receiver.js';
import { identityOf, type Member, type Side } from './side.js';

export const quickLimits: TcpLimits = { helloMs: 1000, reconnectMs: 500, stallMs: 500 };

export function listenOn(
  side: Side,
  workerName: string,
  more: Partial<ReceiverOptions> = {},
): Promise<KvReceiver> {
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

/** `mayRead`: whether pulls are served. */
export function member(
  name: string,
  make: (source: KvSource) => KvConnector,
  mayRead: () => boolean = () => true,
): Member {
  return {
    name,
    make,
    async listen(side, workerName) {
      const connector = make(side.source());
      const channels = new Map<string, Promise<KvChannel>>();
      const channelTo = (target: KvTarget) => {
        const known = channels.get(target.workerId) ?? connector.open(target);
        channels.set(target.workerId, known);
        return known;
      };
      const server = new PullServer({ device: side.device, channelTo, mayRead });
      const receiver = await listenOn(side, workerName, { serve: (pull) => server.serve(pull) });
      const close = async () => {
        await connector.close();
        await receiver.close();
        server.close();
      };
      return { address: receiver.address, close };
    },
    async land(side) {
      const receiver = await listenOn(side, 'w0', { accepts: () => false });
      const target = { ...side.target('w0'), receiver: receiver.address };
      return { landing: { target, admit: (write) => receiver.admit(write) }, close: () => receiver.close() };
    },
    gone: (target) => ({ ...target, receiver: target.receiver && { ...target.receiver, port: 1 } }),
  };
}

export const tcpMember = member('tcp', (source) => new TcpConnector(source, quickLimits));
