/** Which folder a model's name means. Used by cli/ and library/; nothing is ever downloaded.
 *
 *    demo         the model that comes with the package
 *    a path       a folder with config.json
 *    org/name     a model in the Hugging Face cache, as Python's huggingface_hub lays it out:
 *                 <cache>/models--org--name/{refs/main, snapshots/<commit>/…} */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { ModelError } from '../base/errors.js';

interface ModelFolderOptions {
  /** Hugging Face's cache (HF_HUB_CACHE); default ~/.cache/huggingface/hub. */
  readonly hubCacheFolder?: string;
}

/** An absolute path of a folder that exists. @throws ModelError saying where it looked. */
export function resolveModelFolder(nameOrPath: string, options: ModelFolderOptions = {}): string {
  if (nameOrPath === 'demo') return demoFolder();
  if (isFolder(nameOrPath)) return path.resolve(nameOrPath);
  if (existsSync(nameOrPath))
    throw new ModelError(`${nameOrPath} is a file; a model is the folder with config.json`);
  const cache = options.hubCacheFolder ?? path.join(homedir(), '.cache', 'huggingface', 'hub');
  if (/^[\w.-]+\/[\w.-]+$/.test(nameOrPath) && !nameOrPath.startsWith('.'))
    return cachedFolder(nameOrPath, cache);
  throw new ModelError(
    `${nameOrPath}: no such folder. A model is "demo", a folder, or a Hugging Face id that is in the cache`,
  );
}

function cachedFolder(id: string, cache: string): string {
  const repository = path.join(cache, `models--${id.replace('/', '--')}`);
  const snapshots = path.join(repository, 'snapshots');
  const reference = path.join(repository, 'refs', 'main');
  const commits = existsSync(reference)
    ? [readFileSync(reference, 'utf8').trim()]
    : isFolder(snapshots)
      ? readdirSync(snapshots)
      : [];
  const found = commits
    .map((commit) => path.join(snapshots, commit))
    .find((folder) => existsSync(path.join(folder, 'config.json')));
  if (found !== undefined) return found;
  throw new ModelError(
    `${id}: neither a folder nor in the Hugging Face cache (${cache}). Download it first: hf download ${id}, or give a folder`,
  );
}

/** models/demo-6m of this package, above src/model as above dist/src/model. */
function demoFolder(): string {
  for (let folder = import.meta.dirname; folder !== path.dirname(folder); folder = path.dirname(folder)) {
    const demo = path.join(folder, 'models', 'demo-6m');
    if (existsSync(path.join(demo, 'config.json'))) return demo;
  }
  throw new ModelError(
    'the demo model is missing: models/demo-6m should lie in the package; install it again',
  );
}

function isFolder(name: string): boolean {
  return statSync(name, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
