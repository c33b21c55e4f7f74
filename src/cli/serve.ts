/** `twostroke serve`: opens the server with what the command line says, shows one screen when it is ready,
 *  and ends in order on a signal: stop accepting, let open requests finish, end the workers. */
import type { Command } from 'commander';
import { messageOf } from '../base/errors.js';
import { createLogger } from '../base/log.js';
import { type OpenServer, openServer, type ServerListeners } from '../library/open-server.js';
import { packageVersion } from '../library/package-folder.js';
import { askFirstQuestion, type FirstAnswer } from './first-answer.js';
import { LoadDisplay } from './load-display.js';
import { modelPath } from './model-option.js';
import { standardOutput } from './output.js';
import { screenText } from './screen.js';
import { type ServeOptions, serveCommand as serveOptions } from './serve-options.js';
import { listenForStop } from './signals.js';
import { measuringText, StatusLine } from './status-line.js';

export function serveCommand(): Command {
  return serveOptions().action((options: ServeOptions) => serve(options));
}

/** Returns when the server has ended in order. */
async function serve(options: ServeOptions): Promise<void> {
  const logger = createLogger(options.logLevel, 'twostroke');
  const stop = listenForStop();
  const display = new StartDisplay();
  const folder = await stop.orStopped(modelPath(options.model, options.loadFormat, stop.signal));
  const opening = openServer({ ...options, folder }, logger, display.listeners);
  const server = await stop.orStopped(opening);
  try {
    const ready = server.ready.then(() => 'ready' as const).finally(() => display.close());
    const signal = await Promise.race([ready, stop.received]);
    if (signal === 'ready') {
      await showReady(options, server);
      await standardOutput.flushed();
      await stop.received;
    }
    if (!options.json)
      process.stderr.write('stopping: open requests may finish, Ctrl-C again ends at once\n');
  } finally {
    await server.close(1000 * options.drain);
    stop.dispose();
  }
}

/** How far loading is, then measuring, on one line. */
class StartDisplay {
  readonly #loading = new LoadDisplay(process.stderr);
  readonly #measuring = new StatusLine(process.stderr);

  readonly listeners: ServerListeners = {
    onLoadProgress: (workerId, progress) => this.#loading.update(workerId, progress),
    onMeasuring: (share, what) => {
      this.#loading.close();
      this.#measuring.show(measuringText(share, what));
    },
    tell: (line) => void process.stderr.write(`twostroke: ${line}\n`),
  };

  close(): void {
    this.#loading.close();
    this.#measuring.clear();
  }
}

async function showReady(options: ServeOptions, server: OpenServer): Promise<void> {
  const { config, served: model, gateway, http } = server;
  const modelName = model.names[0];
  if (options.json) {
    const shown = gateway.workers().map(({ id, effectiveRole, device, threadCount, pid }) => ({
      id,
      role: effectiveRole,
      device,
      threadCount,
      pid,
    }));
    process.stdout.write(
      `${JSON.stringify({ url: http.url, port: http.port, model: modelName, workers: shown })}\n`,
    );
    return;
  }
  const firstAnswer = await answerOnce(options, server);
  process.stdout.write(
    screenText({
      version: packageVersion(),
      modelName,
      config,
      maxModelTokenCount: model.maxModelTokenCount,
      strategy: options.strategy,
      workers: gateway.workers(),
      url: http.url,
      needsApiKey: options.apiKey !== undefined || options.adminKey !== undefined,
      hasChat: model.text?.hasChatTemplate === true,
      firstAnswer,
    }),
  );
}

/** For the demo model only: others may not know, or take long. A failure is reported and does not stop the
 *  server. */
async function answerOnce(options: ServeOptions, { served, http }: OpenServer): Promise<FirstAnswer | null> {
  if (options.model !== 'demo' || options.loadFormat === 'dummy' || served.text?.hasChatTemplate !== true)
    return null;
  try {
    return await askFirstQuestion(
      http.url,
      served.names[0],
      options.apiKey?.[0] ?? options.adminKey?.[0] ?? null,
    );
  } catch (error) {
    process.stderr.write(`twostroke: ${messageOf(error)}\n`);
    return null;
  }
}
