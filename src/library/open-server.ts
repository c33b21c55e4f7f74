/** Gateway, workers and HTTP server in front of them, as one thing that is opened, becomes ready and is
 *  closed. Used by start-server.ts and `twostroke serve`. Invariant: when open fails, or after close(), no
 *  worker process and no socket is left. */
import path from 'node:path';
import { systemClock } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import { Gateway } from '../control/gateway.js';
import { ensureLibrary } from '../device/native-library.js';
import { readProfile } from '../profile/profile-file.js';
import type { ProfileFile } from '../router/cost-parameters.js';
import type { Split } from '../router/route.js';
import type { SloSpec } from '../router/slo-spec.js';
import type { ClassRule } from '../server/class-rules.js';
import { type HttpServer, startHttpServer } from '../server/http-server.js';
import { createServerMetrics } from '../server/metrics.js';
import type { ServedModel } from '../server/served-model.js';
import { gatewayOptions, type WorkerOptions } from './gateway-options.js';
import { type LearnListeners, learnCosts } from './learn-costs.js';
import { type ModelText, readModelText } from './model-text.js';
import type { CheckedServerOptions } from './option-schemas.js';
import { packageVersion } from './package-folder.js';
import { readClassRules } from './qos-file.js';

/** CheckedServerOptions with what is text there as values. */
export interface OpenServerOptions extends Omit<CheckedServerOptions, 'workers' | 'split' | 'slo'> {
  /** As findLocalModel gives it; `model` is what it was called. */
  readonly folder: string;
  readonly workers: WorkerOptions['workers'];
  readonly split?: Split | undefined;
  readonly slo: SloSpec;
}

export interface OpenServer extends ModelText {
  readonly http: HttpServer;
  readonly gateway: Gateway;
  /** All workers have loaded and what they cost is known. Requests are answered from the first worker on. */
  readonly ready: Promise<void>;
  /** Stops accepting, lets open requests finish for `drainMs`, ends the workers. */
  close(drainMs: number): Promise<void>;
}

export interface ServerListeners extends LearnListeners {
  readonly onLoadProgress?: Parameters<Gateway['onLoadProgress']>[0];
}

/** Resolves when it listens; the workers may still load. */
export async function openServer(
  options: OpenServerOptions,
  logger: Logger,
  listeners: ServerListeners = {},
): Promise<OpenServer> {
  const classRules = options.qos === undefined ? [] : readClassRules(options.qos, options.slo);
  const given = options.profile === undefined ? null : readProfile(options.profile);
  const text = await readModelText(options.folder, {
    names: namesOf(options),
    maxModelLen: options.maxModelLen,
    tokenizer: options.skipTokenizerInit ? 'none' : 'load',
    toolParser: options.toolCallParser === 'auto' ? undefined : options.toolCallParser,
    reasoningParser: options.reasoningParser === 'auto' ? undefined : options.reasoningParser,
  });
  try {
    for (const kind of new Set(options.workers.map(({ device }) => device.kind))) {
      await ensureLibrary(kind, (line) => listeners.tell?.(line));
    }
    const gateway = await startGateway(options, text, logger);
    if (listeners.onLoadProgress !== undefined) gateway.onLoadProgress(listeners.onLoadProgress);
    const http = await listen(options, classRules, text.served, gateway, logger).catch(async (error) => {
      await gateway.stop();
      throw error;
    });
    return opened({ options, text, gateway, http, given, listeners });
  } catch (error) {
    await text.served.text?.close();
    throw error;
  }
}

interface OpenParts {
  readonly options: OpenServerOptions;
  readonly text: ModelText;
  readonly gateway: Gateway;
  readonly http: HttpServer;
  /** Costs that were asked for. */
  readonly given: ProfileFile | null;
  readonly listeners: ServerListeners;
}

function opened({ options: { strategy }, text, gateway, http, given, listeners }: OpenParts): OpenServer {
  const closing = new AbortController();
  const learn = { gateway, given, strategy, config: text.config, signal: closing.signal, listeners };
  const ready = gateway.ready.then(() => learnCosts(learn));
  ready.catch(() => undefined); // whoever waits for it gets the rejection
  const close = async (drainMs: number) => {
    closing.abort();
    await http.close(drainMs);
    await gateway.stop({ drainMs: 0 });
    await text.served.text?.close();
  };
  return { ...text, http, gateway, ready, close };
}

/** A path's last part; an id or "demo" as it is. */
function namesOf({ model, servedModelName }: OpenServerOptions): ServedModel['names'] {
  const isPath = path.isAbsolute(model) || model.startsWith('.');
  const [name = isPath ? path.basename(path.resolve(model)) : model, ...aliases] = servedModelName ?? [];
  return [name, ...aliases];
}

function startGateway(
  options: OpenServerOptions,
  { folder, served }: ModelText,
  logger: Logger,
): Promise<Gateway> {
  const common = gatewayOptions(options, folder, served.maxModelTokenCount, logger);
  return Gateway.start({
    ...common,
    settings: { ...common.settings, pacing: options.pacing },
    slo: options.slo,
    onOverload: options.onOverload,
    strategy: options.strategy,
    ...(options.split === undefined ? {} : { split: options.split }),
    onTransferFailure: options.onTransferFailure,
    limits: { requestCountMax: options.maxQueue ?? null },
  });
}

function listen(
  options: OpenServerOptions,
  classRules: readonly ClassRule[],
  model: ServedModel,
  gateway: Gateway,
  logger: Logger,
): Promise<HttpServer> {
  const {
    maxBody,
    allowForcedLength,
    host,
    port,
    apiKey,
    adminKey,
    sharePrefixCache,
    corsOrigin,
    strictFields,
  } = options;
  const metrics = createServerMetrics(gateway, model.names[0]);
  return startHttpServer(
    { gateway, model, metrics, clock: systemClock, bodyBytesMax: maxBody, allowForcedLength, logger },
    {
      host,
      port,
      apiKeys: apiKey ?? [],
      adminKeys: adminKey ?? [],
      sharePrefixCache,
      corsOrigin: corsOrigin ?? null,
      version: packageVersion(),
      strictFields,
      classRules,
    },
  );
}
