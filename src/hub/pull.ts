/** A model by its name, out of the hub into the cache. Used by find-model.ts and `twostroke models`.
 *
 *    listing of the commit │ what is needed and not there │ room on the disk? │ files, several at once │ ref
 *
 *  Invariant: a revision's ref never leaves a commit whose files are all there for one where they are not. */
import { mkdirSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import path from 'node:path';
import type { Clock } from '../base/clock.js';
import { ModelError, TwostrokeError } from '../base/errors.js';
import { RepositoryCache } from './cache.js';
import { HubClient } from './client.js';
import { downloadFile } from './file-download.js';
import { type Listing, type RemoteFile, readListing } from './listing.js';
import { type ModelName, nameText } from './model-name.js';
import { type ModelParts, neededFiles } from './needed-files.js';
import { retried } from './retries.js';
import type { HubSettings } from './settings.js';

const fileCountAtOnce = 8;
const stallMsDefault = 30_000;
/** Left on the disk. */
const roomBytes = 2 ** 26;

export interface PullProgress {
  /** Of the files that this model needs. */
  readonly totalBytes: number;
  /** On the disk, received now or before. */
  readonly doneBytes: number;
  /** Received now: what the rate is counted from. */
  readonly receivedBytes: number;
}

export interface PullOptions {
  readonly settings: HubSettings;
  readonly parts: ModelParts;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  onProgress(progress: PullProgress): void;
  /** One line for people: what is tried again, and why. */
  tell(line: string): void;
  /** Tries to get the listing; more than one waits for a hub that is away. */
  readonly tryCount: number;
  /** Without a byte, a connection counts as broken. */
  readonly stallMs?: number;
}

interface PulledModel {
  /** The snapshot's folder, or the first GGUF file. */
  readonly path: string;
  readonly listing: Listing;
  readonly files: readonly RemoteFile[];
}

/** Throws TwostrokeError; TransientError's reason is in it. What has arrived is kept. */
export async function pullModel(name: ModelName, options: PullOptions): Promise<PulledModel> {
  return withClient(options, async (client) => {
    const listing = await askListing(name, client, options);
    const { files, entry } = neededFiles(listing.files, name, options.parts);
    const cache = new RepositoryCache(options.settings.cacheFolder, name.id);
    await fetchMissing(files, { name, listing, cache, client, options });
    if (options.parts === 'all' || cache.commitOf(name) === null) cache.keepCommit(name, listing.commit);
    return { path: path.join(cache.snapshot(listing.commit), entry ?? '.'), listing, files };
  });
}

async function withClient<T>(options: PullOptions, use: (client: HubClient) => Promise<T>): Promise<T> {
  const client = new HubClient(options.settings, options.stallMs ?? stallMsDefault);
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

function askListing(
  name: ModelName,
  client: HubClient,
  { tryCount, ...context }: PullOptions,
): Promise<Listing> {
  const what = nameText(name);
  const url = `/api/models/${name.id}/revision/${encodeURIComponent(name.revision)}?blobs=true`;
  const ask = async () =>
    readListing(await client.json(url, { what, signal: context.signal }), `${what}: the hub's answer`);
  return retried(ask, { what, failureCountMax: tryCount }, context);
}

interface Fetching {
  readonly name: ModelName;
  readonly listing: Listing;
  readonly cache: RepositoryCache;
  readonly client: HubClient;
  readonly options: PullOptions;
}

async function fetchMissing(files: readonly RemoteFile[], fetching: Fetching): Promise<void> {
  const { name, listing, cache, client, options } = fetching;
  const { commit } = listing;
  const missing = files.filter(({ path: file, byteCount }) => !cache.has(commit, file, byteCount));
  if (missing.length === 0) return;
  const totalBytes = sumOf(files);
  const count = { done: totalBytes - sumOf(missing), received: 0 };
  const failed = new AbortController();
  const signal = AbortSignal.any([options.signal, failed.signal]);
  const context = {
    client,
    cache,
    clock: options.clock,
    signal,
    tell: options.tell,
    what: nameText(name),
    resolvePath: `/${name.id}/resolve/${commit}`,
    onBytes: (byteCount: number, origin: 'kept' | 'received') => {
      count.done += byteCount;
      if (origin === 'received') count.received += byteCount;
      options.onProgress({ totalBytes, doneBytes: count.done, receivedBytes: count.received });
    },
  };
  await requireRoom(missing, cache, nameText(name));
  // the small ones first: what is wrong shows early
  const queue = [...missing].sort((a, b) => a.byteCount - b.byteCount)[Symbol.iterator]();
  const lane = async () => {
    for (const file of queue) {
      signal.throwIfAborted();
      await downloadFile(file, context);
      cache.link(commit, file.path, file.hash);
    }
  };
  await allOrAbort(Array.from({ length: fileCountAtOnce }, lane), failed);
}

/** The first failure ends the others; all have ended when it is thrown. */
async function allOrAbort(lanes: readonly Promise<void>[], failed: AbortController): Promise<void> {
  let first: { readonly error: unknown } | null = null;
  const watched = lanes.map((lane) =>
    lane.catch((error) => {
      first ??= { error };
      failed.abort(error);
    }),
  );
  await Promise.all(watched);
  if (first !== null) throw (first as { readonly error: unknown }).error;
}

async function requireRoom(
  missing: readonly RemoteFile[],
  cache: RepositoryCache,
  what: string,
): Promise<void> {
  mkdirSync(cache.folder, { recursive: true });
  const neededBytes = missing.reduce(
    (sum, { hash, byteCount }) => sum + byteCount - cache.arrivedBytes(hash),
    0,
  );
  const { bavail, bsize } = await statfs(cache.folder);
  const freeBytes = bavail * bsize;
  if (neededBytes + roomBytes <= freeBytes) return;
  throw new ModelError(
    `${what}: ${gib(neededBytes)} have to come, ${cache.folder} has ${gib(freeBytes)} free: ` +
      'make room, or set HF_HUB_CACHE to another folder',
  );
}

function sumOf(files: readonly RemoteFile[]): number {
  return files.reduce((sum, { byteCount }) => sum + byteCount, 0);
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}

/** The hub could not be asked: what is in the cache may do. */
export function isHubAway(error: unknown): boolean {
  return error instanceof TwostrokeError && error.code === 'unavailable';
}
