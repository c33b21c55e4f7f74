import { PeerConnector } from '../../src/transfer/peer.js';
import { connectorContract } from './contract.js';

connectorContract({
  name: 'peer',
  make: (source) => new PeerConnector(source),
  gone: (target) => ({ ...target, cache: { ...target.cache, processId: 2 ** 22 - 1 } }),
});
