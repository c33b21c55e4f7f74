/** `twostroke profile`: starts workers as `serve` does, measures them for a minute at most, fits, shows the
 *  five parameters and the rule they make, and writes a profile file for each kind of worker. */
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { Command } from 'commander';
import { isoDate, systemClock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';
import { createLogger } from '../base/log.js';
import { Gateway } from '../control/gateway.js';
import { ensureLibrary } from '../device/native-library.js';
import { gatewayOptions } from '../library/gateway-options.js';
import { maxTokenCountOf } from '../library/worker-settings.js';
import { readModelConfig } from '../model/config.js';
import { type MeasuredProfile, profileWorkers } from '../profile/profile.js';
import { profileFolders, writeProfile } from '../profile/profile-file.js';
import { profileFileName } from '../profile/profile-key.js';
import { exitCodes } from './fail.js';
import { LoadDisplay } from './load-display.js';
import { modelPath } from './model-option.js';
import { realNumber } from './option-values.js';
import { profileJson, profileText } from './profile-text.js';
import { listenForStop } from './signals.js';
import { measuringText, StatusLine } from './status-line.js';
import { checkFolder, writing } from './system-error.js';
import { addWorkerOptions, type WorkerFlags } from './worker-options.js';

interface ProfileCommandOptions extends WorkerFlags {
  readonly out?: string;
  readonly duration: number;
  readonly json: boolean;
}

export function profileCommand(): Command {
  const command = new Command('profile').description(
    'measure workers: what a step, a hand-over and a request cost on this machine',
  );
  return addWorkerOptions(command)
    .option('--out <path>', 'file, or folder, for what was measured; default: where serve looks for it')
    .option('--duration <seconds>', 'for the measurement', realNumber(1, 600), 40)
    .option('--json', 'one JSON object on the last line instead of text', false)
    .action((options: ProfileCommandOptions) => profile(options));
}

async function profile(options: ProfileCommandOptions): Promise<void> {
  checkFolder('--out', folderOf(options.out));
  const stop = listenForStop();
  const measured = await measure(options, stop.signal).catch((error) => {
    if (!stop.signal.aborted) throw error;
    return null;
  });
  stop.dispose();
  if (measured === null) {
    process.exitCode = exitCodes.interrupted;
    return;
  }
  const files = measured.map((each) => ({ ...each, path: pathFor(each, measured.length, options.out) }));
  for (const { path: file, file: content } of files)
    writing('--out', file, () => writeProfile(file, content));
  process.stdout.write(options.json ? `${JSON.stringify(profileJson(files))}\n` : profileText(files));
}

async function measure(
  options: ProfileCommandOptions,
  signal: AbortSignal,
): Promise<readonly MeasuredProfile[]> {
  const logger = createLogger(options.logLevel, 'twostroke');
  const folder = await modelPath(options.model, options.loadFormat, signal);
  const config = readModelConfig(folder);
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () =>
      reject(new TwostrokeError('cancelled', 'the measurement was stopped')),
    );
  });
  aborted.catch(() => {}); // also when nobody waits for it
  for (const kind of new Set(options.workers.map(({ device }) => device.kind))) {
    await Promise.race([ensureLibrary(kind, (line) => process.stderr.write(`${line}\n`)), aborted]);
  }
  const { settings, ...rest } = gatewayOptions(options, folder, maxTokenCountOf(options, config), logger);
  // steps of every size are measured, not those that pacing would choose
  const gateway = await Gateway.start({
    ...rest,
    settings: { ...settings, pacing: 'off' },
    strategy: 'adaptive',
  });
  const loading = new LoadDisplay(process.stderr);
  const measuring = new StatusLine(process.stderr);
  try {
    gateway.onLoadProgress((workerId, progress) => loading.update(workerId, progress));
    await Promise.race([gateway.ready, aborted]);
    loading.close();
    return await profileWorkers({
      gateway,
      clock: systemClock,
      vocabCount: config.vocabCount,
      budgetMs: 1000 * options.duration,
      measuredAt: isoDate(),
      signal,
      onProgress: (share, what) => measuring.show(measuringText(share, what)),
    });
  } finally {
    loading.close();
    measuring.clear();
    await gateway.stop();
  }
}

/** Into which something will be written; a name of one file may turn out to be a folder's. */
function folderOf(out: string | undefined): string {
  if (out === undefined) return profileFolders()[0];
  return isFolder(out) ? out : path.dirname(path.resolve(out));
}

function isFolder(out: string): boolean {
  return out.endsWith(path.sep) || (existsSync(out) && statSync(out).isDirectory());
}

/** One file may have the name that was asked for; several go into a folder of that name. */
function pathFor({ file }: MeasuredProfile, profileCount: number, out: string | undefined): string {
  const name = profileFileName(file.key);
  if (out === undefined) return path.join(profileFolders()[0], name);
  return profileCount > 1 || isFolder(out) ? path.join(out, name) : out;
}
