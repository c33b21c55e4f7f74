/** What a model's name means: a folder with config.json and safetensors, or a GGUF file. Used by cli/ and
 *  library/.
 *
 *    demo                         the model that comes with the package
 *    a path                       wins over a name, if it exists
 *    org/name[@revision][:file]   from the hub into Hugging Face's cache, or what is there already
 *
 *  Invariant: without a network, and offline, what is complete in the cache serves. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { ModelError } from '../base/errors.js';
import { isJsonObject, readJsonObject } from '../model/json-file.js';
import { RepositoryCache } from './cache.js';
import { isCommit, type ModelName, nameText, parseModelName } from './model-name.js';
import { type ModelParts, neededFiles } from './needed-files.js';
import { isHubAway, type PullOptions, pullModel } from './pull.js';
import { offlineSettings } from './settings.js';

/** An absolute path that exists; downloads what is missing. Throws TwostrokeError saying where it looked. */
export async function findModel(nameOrPath: string, options: PullOptions): Promise<string> {
  const { settings, tell, parts } = options;
  const local = localModel(nameOrPath);
  if (local !== null) return local;
  const name = requireName(nameOrPath);
  const cached = cachedModel(name, settings.cacheFolder, parts);
  if (settings.isOffline || (cached !== null && isCommit(name.revision)))
    return cached ?? notCached(name, settings.cacheFolder);
  try {
    return (await pullModel(name, { ...options, tryCount: cached === null ? options.tryCount : 1 })).path;
  } catch (error) {
    if (cached === null || !isHubAway(error)) throw error;
    tell(`${(error as Error).message}; using what is in the cache`);
    return cached;
  }
}

/** As findModel, of what is on this machine. */
export function findLocalModel(nameOrPath: string, cacheFolder = offlineSettings.cacheFolder): string {
  const local = localModel(nameOrPath);
  if (local !== null) return local;
  const name = requireName(nameOrPath);
  return cachedModel(name, cacheFolder, 'all') ?? notCached(name, cacheFolder);
}

/** Null when it is neither "demo" nor there. */
export function localModel(nameOrPath: string): string | null {
  if (nameOrPath === 'demo') return demoFolder();
  if (isFolder(nameOrPath)) return path.resolve(nameOrPath);
  if (!existsSync(nameOrPath)) return null;
  if (nameOrPath.endsWith('.gguf')) return path.resolve(nameOrPath);
  throw new ModelError(`${nameOrPath} is a file; a model is the folder with config.json, or a GGUF file`);
}

/** Null unless all files that the model needs are there. */
export function cachedModel(name: ModelName, cacheFolder: string, parts: ModelParts): string | null {
  const cache = new RepositoryCache(cacheFolder, name.id);
  const commit = cache.commitOf(name);
  const folder = commit === null ? null : cache.snapshot(commit);
  if (folder === null || !isFolder(folder)) return null;
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  const files = names.map((file) => ({ path: file })).filter((file) => isFile(path.join(folder, file.path)));
  try {
    const { entry } = neededFiles(files, name, parts);
    return entry !== null || hasAllShards(folder) || parts !== 'all' ? path.join(folder, entry ?? '.') : null;
  } catch (error) {
    if (error instanceof ModelError) return null;
    throw error;
  }
}

function hasAllShards(folder: string): boolean {
  const index = path.join(folder, 'model.safetensors.index.json');
  if (isFile(path.join(folder, 'model.safetensors')) || !isFile(index))
    return isFile(path.join(folder, 'model.safetensors'));
  const { weight_map: weightMap } = readJsonObject(index);
  const shards = isJsonObject(weightMap) ? [...new Set(Object.values(weightMap))] : [];
  return shards.every(
    (shard) => typeof shard === 'string' && isFile(path.join(folder, path.basename(shard))),
  );
}

function requireName(nameOrPath: string): ModelName {
  const name = parseModelName(nameOrPath);
  if (name !== null) return name;
  throw new ModelError(
    `${nameOrPath}: no such folder. A model is "demo", a folder with config.json, a GGUF file, ` +
      "or org/name[@revision][:file] on Hugging Face's hub",
  );
}

function notCached(name: ModelName, cacheFolder: string): never {
  throw new ModelError(
    `${nameText(name)}: neither a folder here nor complete in the cache (${cacheFolder}), and the network ` +
      `is not asked: ` +
      `get it with "twostroke models pull ${nameText(name)}"`,
  );
}

/** models/demo-6m of this package, above src/hub as above dist/src/hub. */
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

function isFile(name: string): boolean {
  return statSync(name, { throwIfNoEntry: false })?.isFile() ?? false;
}
