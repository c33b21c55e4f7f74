import { HostRelayConnector } from '../../src/transfer/host-relay.js';
import { connectorContract } from './contract.js';
import { quickLimits, tcpMember } from './tcp-member.js';

connectorContract({ ...tcpMember, name: 'host-relay', make: (source) => new HostRelayConnector(source, quickLimits) });
