import { PeerConnector } from '../../src/transfer/peer.js';
import { connectorContract } from './contract.js';

connectorContract('peer', (device, cache, identity) => new PeerConnector(device, cache, identity));
