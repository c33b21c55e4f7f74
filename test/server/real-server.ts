/** The HTTP server in front of a real gateway and real worker processes with the demo model. Needs the
 *  built JavaScript. */
import { systemClock } from '../../src/base/clock.js';
import { silentLogger } from '../../src/base/log.js';
import type { Gateway } from '../../src/control/gateway.js';
import { startHttpServer } from '../../src/server/http-server.js';
import { createServerMetrics } from '../../src/server/metrics.js';
import type { ServedModel } from '../../src/server/served-model.js';
import { type RealOptions, startGateway } from '../control/real-cluster.js';
import { demoModel } from './demo-server.js';

export interface RealServer {
  readonly gateway: Gateway;
  readonly url: string;
  post(route: string, body: unknown): Promise<Response>;
  close(): Promise<void>;
}

export async function startRealServer(
  workers: string,
  options: RealOptions & { model?: Partial<ServedModel> } = {},
): Promise<RealServer> {
  const { model: changes, ...real } = options;
  const { gateway } = await startGateway(workers, real);
  const model = { ...demoModel, maxModelTokenCount: 4096, ...changes };
  const context = {
    ...{ gateway, model, clock: systemClock, logger: silentLogger, bodyBytesMax: 1 << 20 },
    metrics: createServerMetrics(gateway, model.names[0]),
  };
  const server = await startHttpServer(context, {
    ...{ host: '127.0.0.1', port: 0, apiKeys: [], adminKeys: [], sharePrefixCache: false, corsOrigin: null },
    ...{ version: '0.0.0-test', strictFields: false },
  });
  const url = `http://127.0.0.1:${server.port}`;
  return {
    gateway,
    url,
    post: (route, body) =>
      fetch(`${url}${route}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      }),
    close: async () => {
      await server.close(1000);
      await gateway.stop();
    },
  };
}
