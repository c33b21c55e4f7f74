/** The part of the gateway that HTTP needs: what the files of this folder ask of it, and what their tests
 *  fake. */
import type { GatewayApi } from '../control/gateway-api.js';

export type ServerGateway = Pick<
  GatewayApi,
  | 'submit'
  | 'admit'
  | 'checkRoom'
  | 'choiceCountMax'
  | 'health'
  | 'state'
  | 'workers'
  | 'routing'
  | 'onRequestDone'
>;
