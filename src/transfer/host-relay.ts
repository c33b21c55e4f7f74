/** The host-relay connector: device → shared host memory → device, for devices of one host that cannot reach
 *  each other. The source copies frames into staging that the receiver has mapped, and tells it over the same
 *  lanes as tcp where they are; the receiver copies them into its blocks and says what has landed. So all
 *  that tcp promises holds here: back-pressure, order, resumption, and only the receiver writes its memory.
 *  Both copies run on streams of their own, and several slots are on their way at once: a pipeline. */
import type { KvSource } from './connector.js';
import { TcpConnector } from './tcp.js';
import { defaultTcpLimits, type TcpLimits } from './tcp-lane.js';

export class HostRelayConnector extends TcpConnector {
  constructor(source: KvSource, limits: TcpLimits = defaultTcpLimits) {
    super(source, limits, 'shared');
  }
}
