/** `twostroke serve`: loads the model's text side, starts the gateway with its workers and the HTTP server in front of them, shows one
 *  screen, and ends in order on a signal: stop accepting, let open requests finish, end the workers. */
import path from 'node:path';
import type { Command } from 'commander';
import { systemClock } from '../base/clock.js';
import { messageOf } from '../base/errors.js';
import { createLogger, type Logger } from '../base/log.js';
import { Gateway } from '../control/gateway.js';
import type { GatewayApi } from '../control/gateway-api.js';
import { ensureLibrary } from '../device/native-library.js';
import { type ModelConfig, readModelConfig } from '../model/config.js';
import { readProfile } from '../profile/profile-file.js';
import type { ClassRule } from '../server/class-rules.js';
import { type HttpServer, startHttpServer } from '../server/http-server.js';
import { createServerMetrics } from '../server/metrics.js';
import { loadServedModel, type ServedModel } from '../server/served-model.js';
import { askFirstQuestion, type FirstAnswer } from './first-answer.js';
import { gatewayOptions, maxTokenCountOf } from './gateway-options.js';
import { learnCosts } from './learn-costs.js';
import { LoadDisplay } from './load-display.js';
import { findModel } from './model-option.js';
import { standardOutput } from './output.js';
import { readClassRules } from './qos-file.js';
import { screenText } from './screen.js';
import { type ServeOptions, serveCommand as serveOptions } from './serve-options.js';
import { listenForStop } from './signals.js';
import { packageVersion } from './version.js';

export function serveCommand(): Command {
  return serveOptions().action((options: ServeOptions) => serve(options));
}

interface Served {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly model: ServedModel;
}

/** Returns when the server has ended in order. */
async function serve(options: ServeOptions): Promise<void> {
  const logger = createLogger(options.logLevel, 'twostroke');
  const classRules = options.qos === undefined ? [] : readClassRules(options.qos, options.slo);
  const stop = listenForStop();
  const served = await openModel(options);
  for (const kind of new Set(options.workers.map(({ device }) => device.kind))) {
    await stop.orStopped(ensureLibrary(kind, (line) => process.stderr.write(`${line}\n`)));
  }
  const given = options.profile === undefined ? null : readProfile(options.profile);

  const common = gatewayOptions(options, served.folder, served.model.maxModelTokenCount, logger);
  const gateway = await Gateway.start({
    ...common,
    settings: { ...common.settings, pacing: options.pacing },
    slo: options.slo,
    onOverload: options.onOverload,
    strategy: options.strategy,
    ...(options.split === undefined ? {} : { split: options.split }),
    onTransferFailure: options.onTransferFailure,
    limits: { requestCountMax: options.maxQueue ?? null },
  });
  const ready = async () => {
    await loaded(gateway);
    await learnCosts({ gateway, given, strategy: options.strategy, config: served.config, signal: stop.signal });
    return 'ready' as const;
  };
  let server: HttpServer | null = null;
  try {
    server = await startServer(options, classRules, served.model, gateway, logger);
    const signal = await Promise.race([ready(), stop.received]);
    if (signal === 'ready') {
      await showReady(options, served, gateway, server);
      await standardOutput.flushed();
      await stop.received;
    }
    if (!options.json) process.stderr.write('stopping: open requests may finish, Ctrl-C again ends at once\n');
  } finally {
    const drainMs = options.drain * 1000;
    await server?.close(drainMs);
    await gateway.stop({ drainMs: 0 });
    await served.model.text?.close();
    stop.dispose();
  }
}

async function openModel(options: ServeOptions): Promise<Served> {
  const folder = findModel(options.model);
  const config = readModelConfig(folder);
  const maxModelTokenCount = maxTokenCountOf(options, config);
  const [name = defaultName(options.model), ...aliases] = options.servedModelName ?? [];
  const model = await loadServedModel({
    folder,
    config,
    names: [name, ...aliases],
    maxModelTokenCount,
    tokenizer: options.skipTokenizerInit ? 'none' : 'load',
    createdSeconds: Math.floor(systemClock.wallMs() / 1000),
    version: packageVersion(),
  });
  return { folder, config, model };
}

/** A path's last part; an id or "demo" as it is. */
function defaultName(model: string): string {
  return path.isAbsolute(model) || model.startsWith('.') ? path.basename(path.resolve(model)) : model;
}

function startServer(
  options: ServeOptions,
  classRules: readonly ClassRule[],
  model: ServedModel,
  gateway: GatewayApi,
  logger: Logger,
): Promise<HttpServer> {
  const metrics = createServerMetrics(gateway, model.names[0]);
  return startHttpServer(
    {
      gateway,
      model,
      metrics,
      clock: systemClock,
      bodyBytesMax: options.maxBody,
      allowForcedLength: options.allowForcedLength,
      logger,
    },
    {
      host: options.host,
      port: options.port,
      apiKeys: options.apiKey ?? [],
      adminKeys: options.adminKey ?? [],
      sharePrefixCache: options.sharePrefixCache,
      corsOrigin: options.corsOrigin ?? null,
      version: packageVersion(),
      strictFields: options.strictFields,
      classRules,
    },
  );
}

async function loaded(gateway: GatewayApi): Promise<void> {
  const display = new LoadDisplay(process.stderr);
  gateway.onLoadProgress((workerId, progress) => display.update(workerId, progress));
  try {
    await gateway.ready;
  } finally {
    display.close();
  }
}

async function showReady(
  options: ServeOptions,
  { config, model }: Served,
  gateway: GatewayApi,
  server: HttpServer,
): Promise<void> {
  const modelName = model.names[0];
  if (options.json) {
    const shown = gateway.workers().map(({ id, effectiveRole, device, threadCount, pid }) => ({
      id,
      role: effectiveRole,
      device,
      threadCount,
      pid,
    }));
    process.stdout.write(`${JSON.stringify({ url: server.url, port: server.port, model: modelName, workers: shown })}\n`);
    return;
  }
  const firstAnswer = await answerOnce(options, model, server.url);
  process.stdout.write(
    screenText({
      version: packageVersion(),
      modelName,
      config,
      maxModelTokenCount: model.maxModelTokenCount,
      strategy: options.strategy,
      workers: gateway.workers(),
      url: server.url,
      needsApiKey: options.apiKey !== undefined || options.adminKey !== undefined,
      hasChat: model.text?.hasChatTemplate === true,
      firstAnswer,
    }),
  );
}

/** For the demo model only: others may not know, or take long. A failure is told and does not stop the server. */
async function answerOnce(options: ServeOptions, model: ServedModel, url: string): Promise<FirstAnswer | null> {
  if (options.model !== 'demo' || options.loadFormat === 'dummy' || model.text?.hasChatTemplate !== true) return null;
  try {
    return await askFirstQuestion(url, model.names[0], options.apiKey?.[0] ?? options.adminKey?.[0] ?? null);
  } catch (error) {
    process.stderr.write(`twostroke: ${messageOf(error)}\n`);
    return null;
  }
}
