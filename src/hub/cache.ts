/** Hugging Face's cache folder, laid out as Python's huggingface_hub does. Used by pull.ts, cached-models.ts
 *  and find-model.ts.
 *
 *    <cache>/.locks/models--org--name/<hash>.lock       flock(2) while the blob is being written
 *    <cache>/models--org--name/
 *       blobs/<hash>                the bytes, once; <hash>.incomplete while they arrive
 *       refs/<revision>             the commit that a branch or tag had when it was last complete
 *       snapshots/<commit>/<file>   a relative link to a blob
 *
 *  Invariant: blobs, links and refs are renamed into place, so that a reader sees all or nothing. */
import {
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { isCommit, type ModelName } from './model-name.js';

export class RepositoryCache {
  readonly folder: string;
  readonly #locks: string;

  constructor(cacheFolder: string, id: string) {
    this.folder = path.join(cacheFolder, repositoryFolderName(id));
    this.#locks = path.join(cacheFolder, '.locks', repositoryFolderName(id));
  }

  blob(hash: string): string {
    return path.join(this.folder, 'blobs', hash);
  }

  /** What has arrived of a blob. */
  incomplete(hash: string): string {
    return `${this.blob(hash)}.incomplete`;
  }

  arrivedBytes(hash: string): number {
    const file = existsSync(this.blob(hash)) ? this.blob(hash) : this.incomplete(hash);
    return statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  }

  lock(hash: string): string {
    return path.join(this.#locks, `${hash}.lock`);
  }

  get locksFolder(): string {
    return this.#locks;
  }

  snapshot(commit: string): string {
    return path.join(this.folder, 'snapshots', commit);
  }

  /** The commit that a revision had when it was last complete here; null: it never was. */
  commitOf({ revision }: ModelName): string | null {
    if (isCommit(revision)) return revision;
    const file = path.join(this.folder, 'refs', revision);
    if (!isFile(file)) return null;
    const commit = readFileSync(file, 'utf8').trim();
    return isCommit(commit) ? commit : null;
  }

  keepCommit({ revision }: ModelName, commit: string): void {
    if (isCommit(revision) || this.commitOf({ id: '', revision, file: null }) === commit) return;
    intoPlace(path.join(this.folder, 'refs', revision), (own) => writeFileSync(own, commit));
  }

  /** Whether a snapshot's file is there with this many bytes. */
  has(commit: string, file: string, byteCount: number): boolean {
    const status = statSync(path.join(this.snapshot(commit), file), { throwIfNoEntry: false });
    return status?.isFile() === true && status.size === byteCount;
  }

  /** Names a blob as a file of a snapshot. */
  link(commit: string, file: string, hash: string): void {
    const name = path.join(this.snapshot(commit), file);
    intoPlace(name, (own) => symlinkSync(path.relative(path.dirname(name), this.blob(hash)), own));
  }

  /** The `.lock` files stay: another process may be about to lock one. */
  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function repositoryFolderName(id: string): string {
  return `models--${id.replace('/', '--')}`;
}

/** The opposite; null for a folder that holds something else. */
export function repositoryId(folderName: string): string | null {
  const [, org, name] = /^models--(.+?)--(.+)$/.exec(folderName) ?? [];
  return org === undefined || name === undefined ? null : `${org}/${name}`;
}

/** `make` writes what gets the name `file`. */
function intoPlace(file: string, make: (own: string) => void): void {
  mkdirSync(path.dirname(file), { recursive: true });
  const own = `${file}.${process.pid}`;
  rmSync(own, { force: true });
  make(own);
  renameSync(own, file);
}

function isFile(file: string): boolean {
  return existsSync(file) && statSync(file).isFile();
}
