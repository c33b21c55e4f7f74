/** What a repository holds at one commit, as the hub tells it. The hub and whoever wrote the repository are
 *  strangers: every name, size and hash is checked here, so that the rest of this folder may build paths and
 *  buffers from them. Used by pull.ts and the commands. */
import { TwostrokeError } from '../base/errors.js';
import {
  describeJson,
  isJsonObject,
  type JsonObject,
  type JsonValue,
  shortened,
} from '../model/json-file.js';
import { isCommit, isSafePath } from './model-name.js';

export interface RemoteFile {
  readonly path: string;
  readonly byteCount: number;
  /** Of the bytes: sha256 of a large file, of a small one the sha1 that git gives it. Names the blob in the
   *  cache. */
  readonly hash: string;
  readonly hashKind: 'sha256' | 'git-sha1';
}

export interface Listing {
  readonly commit: string;
  /** Those with usable names. */
  readonly files: readonly RemoteFile[];
  /** As the model card says; null: it does not. */
  readonly licence: string | null;
}

/** Larger than any file a hub takes. */
const byteCountMax = 2 ** 44;

/** `answer`: of `/api/models/ID/revision/REVISION?blobs=true`. Throws TwostrokeError `model_error`. */
export function readListing(answer: JsonObject, where: string): Listing {
  const { sha, siblings, cardData } = answer;
  if (typeof sha !== 'string' || !isCommit(sha)) throw wrong(where, '"sha" must be a commit', sha);
  if (!Array.isArray(siblings)) throw wrong(where, '"siblings" must be a list', siblings);
  const licence =
    isJsonObject(cardData) && typeof cardData.license === 'string' ? printable(cardData.license) : null;
  const files = siblings
    .map((entry: JsonValue) => readFile(entry, where))
    .filter((file) => isSafePath(file.path));
  return { commit: sha, files, licence };
}

function readFile(entry: JsonValue, where: string): RemoteFile {
  if (!isJsonObject(entry)) throw wrong(where, 'a file must be an object', entry);
  const { rfilename, blobId, lfs } = entry;
  if (typeof rfilename !== 'string') throw wrong(where, '"rfilename" must be text', rfilename);
  const large = isJsonObject(lfs) ? lfs : null;
  const hash = large === null ? blobId : large.sha256;
  const byteCount = large === null ? entry.size : (large.size ?? entry.size);
  const hashKind = large === null ? 'git-sha1' : 'sha256';
  if (typeof hash !== 'string' || !new RegExp(`^[0-9a-f]{${large === null ? 40 : 64}}$`).test(hash)) {
    throw wrong(where, `file ${describeJson(rfilename)} needs a hash (${hashKind})`, hash);
  }
  if (!Number.isSafeInteger(byteCount) || Number(byteCount) < 0 || Number(byteCount) > byteCountMax) {
    throw wrong(where, `file ${describeJson(rfilename)} needs a size`, byteCount);
  }
  return { path: rfilename, byteCount: Number(byteCount), hash, hashKind };
}

function wrong(where: string, what: string, got: JsonValue | undefined): TwostrokeError {
  return new TwostrokeError('model_error', `${where}: ${what}, got ${describeJson(got)}`);
}

/** What a stranger says, on a terminal. */
export function printable(text: string): string {
  return shortened(text.replace(/[^\x20-\x7e]/g, '?'), 200);
}
