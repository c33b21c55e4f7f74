/** Which models are in Hugging Face's cache, and taking one out. Used by `twostroke models`. Invariant: only
 *  what lies in the repository's own folder is removed, and nothing while a process downloads into it. */
import { lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { TwostrokeError } from '../base/errors.js';
import { RepositoryCache, repositoryId } from './cache.js';
import { type FileLock, tryLock } from './file-lock.js';
import { type ModelName, nameText } from './model-name.js';

export interface CachedModel {
  readonly id: string;
  readonly folder: string;
  readonly snapshots: readonly CachedSnapshot[];
  /** Of all blobs, each counted once, and of what has arrived of others. */
  readonly byteCount: number;
  /** Of what has arrived of files that are not complete. */
  readonly incompleteByteCount: number;
}

interface CachedSnapshot {
  readonly commit: string;
  /** Branches and tags that had this commit when they were last complete here. */
  readonly revisions: readonly string[];
  readonly files: readonly string[];
  readonly byteCount: number;
  /** Of the newest file, since 1970. */
  readonly modifiedMs: number;
}

/** By name. What is no model's folder is left out. */
export function cachedModels(cacheFolder: string): CachedModel[] {
  return entriesOf(cacheFolder)
    .map((entry) => repositoryId(entry))
    .filter((id) => id !== null)
    .sort()
    .map((id) => readModel(cacheFolder, id))
    .filter((model) => model.byteCount > 0);
}

function readModel(cacheFolder: string, id: string): CachedModel {
  const { folder } = new RepositoryCache(cacheFolder, id);
  const refs = new Map(
    filesUnder(path.join(folder, 'refs')).map((name) => [name, textOf(path.join(folder, 'refs', name))]),
  );
  const snapshots = entriesOf(path.join(folder, 'snapshots')).map((commit): CachedSnapshot => {
    const root = path.join(folder, 'snapshots', commit);
    const files = filesUnder(root);
    const statuses = files.map((file) => statSync(path.join(root, file)));
    const revisions = [...refs].filter(([, target]) => target === commit).map(([name]) => name);
    const byteCount = statuses.reduce((sum, { size }) => sum + size, 0);
    return {
      commit,
      revisions,
      files,
      byteCount,
      modifiedMs: Math.max(0, ...statuses.map(({ mtimeMs }) => mtimeMs)),
    };
  });
  const blobs = entriesOf(path.join(folder, 'blobs'));
  const bytesOf = (names: readonly string[]) =>
    names.reduce(
      (sum, name) => sum + (statSync(path.join(folder, 'blobs', name), { throwIfNoEntry: false })?.size ?? 0),
      0,
    );
  const incompleteByteCount = bytesOf(blobs.filter((name) => name.endsWith('.incomplete')));
  return { id, folder, snapshots, byteCount: bytesOf(blobs), incompleteByteCount };
}

/** Removes a model, or with `scope: 'revision'` that revision and what no other one has. The bytes freed.
 *  Throws TwostrokeError. */
export function removeModel(name: ModelName, scope: 'all' | 'revision', cacheFolder: string): number {
  const cache = new RepositoryCache(cacheFolder, name.id);
  const before = readModel(cacheFolder, name.id);
  if (before.byteCount === 0)
    throw new TwostrokeError('not_found', `${name.id} is not in the cache (${cacheFolder})`);
  const locks = lockAll(name.id, cache);
  try {
    const commit = scope === 'all' ? null : cache.commitOf(name);
    if (scope === 'revision' && before.snapshots.every((snapshot) => snapshot.commit !== commit)) {
      throw new TwostrokeError('not_found', `${nameText(name)} is not in the cache (${cacheFolder})`);
    }
    if (commit === null || before.snapshots.length === 1) cache.remove();
    else removeSnapshot(cache, before, commit);
  } finally {
    for (const lock of locks) lock.release();
  }
  return before.byteCount - readModel(cacheFolder, name.id).byteCount;
}

/** Blobs that another snapshot has stay. */
function removeSnapshot(cache: RepositoryCache, { snapshots, folder }: CachedModel, commit: string): void {
  const blobsOf = ({ commit: of, files }: CachedSnapshot) =>
    files.map((file) => blobOf(path.join(cache.snapshot(of), file)));
  const [going, staying] = [true, false].map((isGoing) =>
    snapshots.filter((snapshot) => (snapshot.commit === commit) === isGoing),
  );
  const kept = new Set((staying ?? []).flatMap(blobsOf));
  const blobs = path.join(folder, 'blobs');
  for (const blob of (going ?? []).flatMap(blobsOf)) {
    if (!kept.has(blob) && path.dirname(blob) === blobs) rmSync(blob, { force: true });
  }
  for (const revision of (going ?? []).flatMap(({ revisions }) => revisions))
    rmSync(path.join(folder, 'refs', revision));
  rmSync(cache.snapshot(commit), { recursive: true, force: true });
}

/** What a snapshot's link names; the file itself where it is none. */
function blobOf(file: string): string {
  return lstatSync(file).isSymbolicLink()
    ? path.resolve(realpathSync(path.dirname(file)), readlinkSync(file))
    : file;
}

function lockAll(id: string, cache: RepositoryCache): FileLock[] {
  const locks: FileLock[] = [];
  for (const name of entriesOf(cache.locksFolder)) {
    const lock = tryLock(path.join(cache.locksFolder, name));
    if (lock !== null) locks.push(lock);
    else {
      for (const held of locks) held.release();
      throw new TwostrokeError('unavailable', `${id}: another process downloads it; stop that first`);
    }
  }
  return locks;
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // not there
  }
}

/** Paths of files, also behind links. */
function filesUnder(folder: string): string[] {
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true) return [];
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => statSync(path.join(folder, name), { throwIfNoEntry: false })?.isFile() === true)
    .sort();
}

function textOf(file: string): string {
  return readFileSync(file, 'utf8').trim();
}
