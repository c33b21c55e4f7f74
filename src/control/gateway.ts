/** Supervisor, registry and coordinator in one object: what `serve` starts. */
import { TwostrokeError } from '../base/errors.js';
import type { GatewayApi } from './gateway-api.js';
import type { GatewayOptions } from './gateway-options.js';

export const Gateway = {
  /** Spawns the workers; resolves when their sockets are up (they may still load). Throws InvalidRequestError for a strategy that the
   *  roles forbid. */
  start(_options: GatewayOptions): Promise<GatewayApi> {
    return Promise.reject(new TwostrokeError('unavailable', 'the gateway is being written'));
  },
};
