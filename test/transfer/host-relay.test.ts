import { HostRelayConnector } from '../../src/transfer/host-relay.js';
import { connectorContract } from './contract.js';
import { member, quickLimits } from './tcp-member.js';

connectorContract(member('host-relay', (source) => new HostRelayConnector(source, quickLimits)));
