/** The package's entry `twostroke/server`: what `twostroke serve` starts, in a program of one's own.
 *
 *    await using server = await startServer({ model: 'demo', workers: 'prefill:cpu,decode:cpu', port: 0 });
 *    await fetch(`${server.url}/v1/models`);
 *
 *  Nothing is read from the environment and no signal is listened to: both are the program's. Invariant:
 *  whatever is thrown is a TwostrokeError, and after that, or after close(), no worker process is left. */
import { asTwostrokeError } from '../base/errors.js';
import { createLogger } from '../base/log.js';
import { parseWorkerSpecs } from '../control/worker-spec.js';
import { findLocalModel } from '../hub/find-model.js';
import type { Split } from '../router/route.js';
import { parseSloSpec } from '../router/slo-spec.js';
import { openServer } from './open-server.js';
import { checkedServerOptions } from './option-schemas.js';
import type { ServerOptions } from './options.js';

export { type ErrorCode, TwostrokeError } from '../base/errors.js';
export type { EngineOptions, ServerOptions } from './options.js';

export interface Server extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  /** Refuses new requests, lets open ones finish for `drain` seconds, ends the workers. May be called
   *  again. */
  close(): Promise<void>;
}

/** Resolves when the workers have loaded. Rejects with what is wrong with the options, the model, the port or
 *  a worker. */
export async function startServer(options: ServerOptions): Promise<Server> {
  try {
    return await start(options);
  } catch (error) {
    throw asTwostrokeError(error);
  }
}

async function start(options: ServerOptions): Promise<Server> {
  const checked = checkedServerOptions(options);
  const logger = createLogger(checked.logLevel, 'twostroke');
  const workers = parseWorkerSpecs(checked.workers);
  const folder = findLocalModel(checked.model);
  const slo = parseSloSpec(checked.slo, 'slo');
  const parsed = { ...checked, folder, workers, slo, split: splitOf(checked.split) };
  const server = await openServer(parsed, logger, { tell: (line) => logger.warn(line) });
  await server.ready.catch(async (error) => {
    await server.close(0);
    throw error;
  });
  let closing: Promise<void> | null = null;
  const close = () => {
    closing ??= server.close(1000 * checked.drain);
    return closing;
  };
  return { url: server.http.url, port: server.http.port, close, [Symbol.asyncDispose]: close };
}

function splitOf(text: string | undefined): Split | undefined {
  if (text === undefined) return undefined;
  const [prefillCount = 0, decodeCount = 0] = text.split(':').map(Number);
  return { prefillCount, decodeCount };
}
