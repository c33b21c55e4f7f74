/** One file of a repository into the cache's blobs. Used by pull.ts.
 *
 *    lock │ read what has arrived │ GET from there … cut … GET from there … │ hash │ fsync, rename │ unlock
 *
 *  Invariants: a blob under its own name has the announced size and hash; never more bytes are written than
 *  were announced; what has arrived is kept by every end of the process and continued by the next, ours or
 *  Python's. */
import { createHash, type Hash } from 'node:crypto';
import { mkdirSync, statSync } from 'node:fs';
import { constants, type FileHandle, open, rename } from 'node:fs/promises';
import path from 'node:path';
import { TwostrokeError } from '../base/errors.js';
import type { RepositoryCache } from './cache.js';
import { type HubAnswer, type HubClient, one, transient } from './client.js';
import { lock } from './file-lock.js';
import type { RemoteFile } from './listing.js';
import { type RetryContext, retried, TransientError } from './retries.js';

const failureCountMax = 6;
/** An advance that makes up for a failure. */
const advanceBytes = 2 ** 20;
const readBytes = 2 ** 20;

interface DownloadContext extends RetryContext {
  readonly client: HubClient;
  readonly cache: RepositoryCache;
  /** Of the repository's files at the commit: `/org/name/resolve/COMMIT`. */
  readonly resolvePath: string;
  /** `org/name`, for messages. */
  readonly what: string;
  /** Bytes that are there now; negative when they have to come again. */
  onBytes(byteCount: number, origin: 'kept' | 'received'): void;
}

/** Resolves when the blob is there. Throws TwostrokeError. */
export async function downloadFile(file: RemoteFile, context: DownloadContext): Promise<void> {
  const { cache, tell, onBytes } = context;
  const blob = cache.blob(file.hash);
  mkdirSync(path.dirname(blob), { recursive: true });
  const held = await lock(cache.lock(file.hash), context, () =>
    tell(`${file.path}: another process downloads it; waiting`),
  );
  try {
    const there = statSync(blob, { throwIfNoEntry: false });
    if (there?.size === file.byteCount) return onBytes(file.byteCount, 'kept');
    const handle = await open(
      cache.incomplete(file.hash),
      constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW,
      0o644,
    );
    try {
      await new Arrival(file, handle, context).complete();
      await handle.sync();
      await intoPlace(cache.incomplete(file.hash), blob, file.byteCount);
    } finally {
      await handle.close();
    }
  } finally {
    held.release();
  }
}

/** What has arrived of one file: bytes on disk, and their hash so far. */
class Arrival {
  readonly #file: RemoteFile;
  readonly #handle: FileHandle;
  readonly #context: DownloadContext;
  readonly #what: string;
  #hash: Hash;
  #byteCount = 0;
  #lastFailureByteCount = 0;

  constructor(file: RemoteFile, handle: FileHandle, context: DownloadContext) {
    this.#file = file;
    this.#handle = handle;
    this.#context = context;
    this.#what = `${context.what}: ${file.path}`;
    this.#hash = hashOf(file);
  }

  /** A wrong hash is tried once more from the beginning: what was kept may be damaged. */
  async complete(): Promise<void> {
    await this.#readKept();
    for (const isLastTry of [false, true]) {
      await this.#receive();
      const digest = this.#hash.digest('hex');
      if (digest === this.#file.hash) return;
      await this.#restart();
      const { hash, hashKind } = this.#file;
      const text = `${this.#what}: the bytes have ${hashKind} ${digest}, announced was ${hash}`;
      if (isLastTry)
        throw new TwostrokeError(
          'model_error',
          `${text}: they were damaged on the way, or are not what they are called`,
        );
      this.#context.tell(`${text}; again from the beginning`);
    }
  }

  async #readKept(): Promise<void> {
    const { size } = await this.#handle.stat();
    if (size > this.#file.byteCount) return this.#handle.truncate(0);
    const buffer = Buffer.allocUnsafe(Math.min(readBytes, size));
    while (this.#byteCount < size) {
      this.#context.signal.throwIfAborted();
      const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, this.#byteCount);
      if (bytesRead === 0) break;
      this.#hash.update(buffer.subarray(0, bytesRead));
      this.#byteCount += bytesRead;
    }
    this.#context.onBytes(this.#byteCount, 'kept');
  }

  async #restart(): Promise<void> {
    await this.#handle.truncate(0);
    this.#context.onBytes(-this.#byteCount, 'kept');
    this.#byteCount = 0;
    this.#lastFailureByteCount = 0;
    this.#hash = hashOf(this.#file);
  }

  #receive(): Promise<void> {
    const hasAdvanced = () => {
      const hasEnough = this.#byteCount - this.#lastFailureByteCount >= advanceBytes;
      if (hasEnough) this.#lastFailureByteCount = this.#byteCount;
      return hasEnough;
    };
    return retried(
      () => this.#receiveOnce(),
      { what: this.#what, failureCountMax, hasAdvanced },
      this.#context,
    );
  }

  async #receiveOnce(): Promise<void> {
    const { byteCount: wholeByteCount, path: name } = this.#file;
    if (this.#byteCount === wholeByteCount) return;
    const { client, resolvePath, signal } = this.#context;
    const range = this.#byteCount === 0 ? {} : { range: `bytes=${this.#byteCount}-` };
    const url = `${resolvePath}/${name.split('/').map(encodeURIComponent).join('/')}`;
    const answer = await client.get(url, { what: this.#what, headers: range, signal });
    try {
      const isWhole = answer.statusCode === 200;
      if (isWhole && this.#byteCount > 0) await this.#restart(); // the server knows no ranges
      if (!isWhole && startOf(answer) !== this.#byteCount)
        throw new TransientError('another range than was asked for', null);
      await this.#write(answer);
    } finally {
      answer.body.destroy();
    }
    if (this.#byteCount < wholeByteCount)
      throw new TransientError(`cut after ${this.#byteCount} of ${wholeByteCount} bytes`, null);
  }

  async #write({ body }: HubAnswer): Promise<void> {
    const { onBytes, signal } = this.#context;
    for await (const piece of transient(signal, body) as AsyncIterable<Buffer>) {
      if (this.#byteCount + piece.length > this.#file.byteCount) {
        throw new TwostrokeError(
          'model_error',
          `${this.#what}: more than the announced ${this.#file.byteCount} bytes come`,
        );
      }
      await writeAll(this.#handle, piece, this.#byteCount);
      this.#hash.update(piece);
      this.#byteCount += piece.length;
      onBytes(piece.length, 'received');
    }
  }
}

/** Where locks do nothing (some network file systems), another process writes the same bytes to the same
 *  places, and may have been first. */
async function intoPlace(incomplete: string, blob: string, byteCount: number): Promise<void> {
  await rename(incomplete, blob).catch((error) => {
    if (statSync(blob, { throwIfNoEntry: false })?.size !== byteCount) throw error;
  });
}

async function writeAll(handle: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** Where the first byte of a partial answer belongs; -1: it does not say. */
function startOf({ headers }: HubAnswer): number {
  const start = /^bytes (\d+)-/.exec(one(headers['content-range']))?.[1];
  return start === undefined ? -1 : Number(start);
}

function hashOf({ hashKind, byteCount }: RemoteFile): Hash {
  return hashKind === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${byteCount}\0`);
}
