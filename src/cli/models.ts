/** `twostroke models`: what is in Hugging Face's cache, what a model is and needs, getting one and removing
 *  one. */
import { Command } from 'commander';
import { systemClock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';
import { type CachedModel, cachedModels, removeModel } from '../hub/cached-models.js';
import { type ModelName, parseModelName } from '../hub/model-name.js';
import { pullModel } from '../hub/pull.js';
import { hubSettings } from './hub-environment.js';
import { withDisplay } from './model-option.js';
import { showModel } from './models-show.js';
import { shortBytes, table } from './quantities.js';
import { listenForStop } from './signals.js';

interface JsonOption {
  readonly json: boolean;
}

const jsonFlag = ['--json', 'one JSON object on the last line instead of text', false] as const;
const nameText = 'org/name[@revision][:file]';

export function modelsCommand(): Command {
  return new Command('models')
    .description("models of Hugging Face's hub on this machine")
    .addCommand(
      new Command('list')
        .description('what is in the cache')
        .option(...jsonFlag)
        .action(list),
    )
    .addCommand(
      new Command('show')
        .description('what a model is, what of it fits this machine, and how fast memory lets it be')
        .argument('<model>', 'a folder, "demo" or org/name[@revision]')
        .option(...jsonFlag)
        .action(showModel),
    )
    .addCommand(
      new Command('pull')
        .description('download a model, or what is missing of it')
        .argument('<name>', nameText)
        .option(...jsonFlag)
        .action(pull),
    )
    .addCommand(
      new Command('remove')
        .description('remove a model from the cache; with @revision, what only that revision has')
        .argument('<name>', 'org/name[@revision]')
        .option(...jsonFlag)
        .action(remove),
    );
}

function list({ json }: JsonOption): void {
  const { cacheFolder } = hubSettings();
  const models = cachedModels(cacheFolder);
  process.stdout.write(json ? `${JSON.stringify({ cacheFolder, models })}\n` : listText(cacheFolder, models));
}

function listText(cacheFolder: string, models: readonly CachedModel[]): string {
  if (models.length === 0) return `no models in ${cacheFolder}; "twostroke models pull org/name" gets one\n`;
  const rows = models.flatMap(({ id, snapshots, incompleteByteCount }) => [
    ...snapshots.map(({ commit, revisions, byteCount, files, modifiedMs }) => [
      ...[id, revisions.join(', ') || '-', commit.slice(0, 8), shortBytes(byteCount), String(files.length)],
      day(modifiedMs),
    ]),
    ...(incompleteByteCount > 0 ? [[id, 'incomplete', '-', shortBytes(incompleteByteCount), '-', '-']] : []),
  ]);
  return `${table([['MODEL', 'REVISION', 'COMMIT', 'BYTES', 'FILES', 'MODIFIED'], ...rows]).join('\n')}\n`;
}

function day(ms: number): string {
  return new Intl.DateTimeFormat('sv-SE', { dateStyle: 'short', timeStyle: 'short' }).format(ms);
}

async function pull(text: string, { json }: JsonOption): Promise<void> {
  const name = requireName(text);
  const stop = listenForStop();
  const startMs = systemClock.nowMs();
  const pulled = await stop.orStopped(
    withDisplay(text, stop.signal, (options) => {
      if (options.settings.isOffline)
        throw new TwostrokeError('invalid_request', 'HF_HUB_OFFLINE is set: nothing can be downloaded');
      return pullModel(name, options);
    }),
  );
  stop.dispose();
  const byteCount = pulled.files.reduce((sum, file) => sum + file.byteCount, 0);
  const { path, listing } = pulled;
  const seconds = (systemClock.nowMs() - startMs) / 1000;
  const summary = {
    model: text,
    path,
    commit: listing.commit,
    fileCount: pulled.files.length,
    byteCount,
    seconds,
  };
  process.stdout.write(json ? `${JSON.stringify(summary)}\n` : `${path}\n`);
}

function remove(text: string, { json }: JsonOption): void {
  const name = requireName(text);
  if (name.file !== null)
    throw new TwostrokeError('invalid_request', `${text}: a model or a revision is removed, not one file`);
  const freedBytes = removeModel(name, text.includes('@') ? 'revision' : 'all', hubSettings().cacheFolder);
  process.stdout.write(
    json ? `${JSON.stringify({ model: text, freedBytes })}\n` : `${text}: ${shortBytes(freedBytes)} freed\n`,
  );
}

function requireName(text: string): ModelName {
  const name = parseModelName(text);
  if (name === null) throw new TwostrokeError('invalid_request', `${text}: expected ${nameText}`);
  return name;
}
