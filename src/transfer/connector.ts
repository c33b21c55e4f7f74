/** The contract of everything that moves KV from one worker's cache into another's. Implemented by peer.ts; driven by worker/ on the
 *  prefill side; every member passes test/transfer/contract.ts.
 *
 *    connector ──open(target)──► channel (one per pair of workers) ──begin(request)──► transfer (one per hand-over)
 *
 *  Invariants: bytes are copied only behind the event that computed them; only the blocks named in a piece are touched; when `abort` or
 *  `finish` has resolved, nothing of that transfer touches the target any more. */
import { TwostrokeError } from '../base/errors.js';
import type { BlockId, RequestId, WorkerId } from '../base/ids.js';
import type { CacheExport, EventHandle } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import type { KvHandle } from '../kv/kv-handle.js';

/** What two workers must agree on before a byte moves. */
export interface KvIdentity {
  readonly protocolVersion: number;
  readonly modelName: string;
  readonly dtype: Dtype;
  /** KvLayout.hash */
  readonly layoutHash: string;
}

/** The cache that is written into. Plain data. */
export interface KvTarget {
  readonly workerId: WorkerId;
  /** Grows with every restart of that worker: a new process has a new cache. */
  readonly incarnation: number;
  readonly cache: CacheExport;
  readonly blockCount: number;
  readonly kv: KvIdentity;
}

/** Layers [firstLayer, layerEnd) of some blocks; sourceBlocks[i] goes to targetBlocks[i]. */
export interface KvPiece {
  readonly sourceBlocks: readonly BlockId[];
  readonly targetBlocks: readonly BlockId[];
  readonly firstLayer: number;
  readonly layerEnd: number;
}

export interface KvConnector {
  readonly name: string;
  /** Throws `layout_mismatch` naming what differs, `transfer_error` when the target cannot be reached. */
  open(target: KvTarget): Promise<KvChannel>;
  /** Closes every channel. */
  close(): Promise<void>;
}

export interface KvChannel {
  begin(requestId: RequestId): KvTransfer;
  readonly pushedBytes: number;
  readonly transferCount: number;
  /** Resolves when nothing touches the target any more; transfers still running are aborted. */
  close(): Promise<void>;
}

export interface KvTransfer {
  readonly pushedBytes: number;
  /** Enqueued behind `after`, in order. No pieces, or no blocks, is legal. Does nothing after an abort. */
  push(pieces: readonly KvPiece[], after: EventHandle): void;
  /** Resolves when every pushed piece has landed. Throws `layout_mismatch` for a handle of another layout, `cancelled` after an abort. */
  finish(handle: KvHandle): Promise<void>;
  /** Resolves when nothing of this transfer touches the bytes any more. Idempotent. */
  abort(): Promise<void>;
}

/** Throws `layout_mismatch` naming the first thing that differs. */
export function handshake(source: KvIdentity, target: KvIdentity, targetName: string): void {
  const names = ['protocolVersion', 'modelName', 'dtype', 'layoutHash'] as const;
  const differing = names.find((name) => source[name] !== target[name]);
  if (differing === undefined) return;
  const values = `${source[differing]} here, ${target[differing]} there`;
  throw new TwostrokeError('layout_mismatch', `KV cannot go to ${targetName}: ${differing} differs (${values})`);
}
