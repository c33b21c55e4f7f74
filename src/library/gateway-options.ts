/** From checked options to a gateway's, for everything that starts one: a server, `twostroke profile`. */
import os from 'node:os';
import { systemClock } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import type { GatewayOptions } from '../control/gateway-options.js';
import type { WorkerSpec } from '../control/worker-spec.js';
import type { CheckedEngineOptions, CheckedServerOptions } from './option-schemas.js';
import { workerEntry } from './package-folder.js';
import { workerSettings } from './worker-settings.js';

/** Which workers there are, how they run, and how KV goes between them. */
export interface WorkerOptions
  extends CheckedEngineOptions,
    Pick<CheckedServerOptions, 'connector' | 'kvHost' | 'kvTransferDtype' | 'kvChecksum'> {
  readonly workers: readonly WorkerSpec[];
}

export function gatewayOptions(
  options: WorkerOptions,
  modelFolder: string,
  maxModelTokenCount: number,
  logger: Logger,
): Omit<GatewayOptions, 'strategy'> {
  return {
    workers: options.workers,
    settings: {
      ...workerSettings(options, modelFolder, maxModelTokenCount),
      connector: options.connector,
      kvHost: options.kvHost,
      kvTransferDtype: options.kvTransferDtype,
      kvChecksum: options.kvChecksum ? 'on' : 'off',
    },
    threads: options.threads ?? os.availableParallelism(),
    workerEntry: workerEntry(),
    logger,
    clock: systemClock,
  };
}
