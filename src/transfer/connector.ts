/** The contract of everything that moves KV from one worker's cache into another's. Implemented by peer.ts
 *  and tcp.ts; driven by worker/ on the prefill side; every member passes test/transfer/contract.ts.
 *
 *    connector ──open(target)──► channel (one per pair of workers) ──begin(request)──► transfer (one per hand-over)
 *
 *  Invariants: bytes are copied only behind the event that computed them; only the blocks named in a piece
 *  are touched; when `abort` or `finish` has resolved, nothing of that transfer touches the target any
 *  more. */
import type { Clock } from '../base/clock.js';
import type { BlockId, RequestId, WorkerId } from '../base/ids.js';
import type { CacheExport, Device, EventHandle } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { KvHandle } from '../kv/kv-handle.js';
import type { KvShape } from '../kv/kv-layout.js';

/** What two workers must agree on before a byte moves. */
export interface KvIdentity {
  readonly protocolVersion: number;
  readonly modelName: string;
  readonly dtype: Dtype;
  /** KvLayout.hash */
  readonly layoutHash: string;
  /** Smaller on the way than in the caches: lossy, so both sides must have been asked for it. Absent: auto,
   *  as it is. */
  readonly transferDtype?: TransferDtype;
  /** Absent: only bytes of the same layout are taken or given. */
  readonly geometry?: KvGeometry;
}

export const transferDtypes = ['auto', 'fp8', 'int8'] as const;
export type TransferDtype = (typeof transferDtypes)[number];

export interface KvGeometry {
  readonly shape: KvShape;
  /** Of the model: the heads of a tensor-parallel rank are some of its heads. */
  readonly firstHead: number;
}

/** The cache that is written into. Plain data. */
export interface KvTarget {
  readonly workerId: WorkerId;
  /** Grows with every restart of that worker: a new process has a new cache. */
  readonly incarnation: number;
  readonly cache: CacheExport;
  readonly blockCount: number;
  readonly kv: KvIdentity;
  /** Where its KvReceiver listens; null: it can be written by its memory alone. */
  readonly receiver: ReceiverAddress | null;
}

/** Whoever knows the token may write into blocks that are reserved for a request it names. It goes from the
 *  receiver through the gateway to those who push there, over the bus, and never over a KV connection
 *  (handshake.ts). */
export interface ReceiverAddress {
  readonly host: string;
  readonly port: number;
  readonly token: string;
}

/** What a channel was measured to do, before its first hand-over. */
export interface LinkSpeed {
  readonly bytesPerSecond: number;
  /** Of the smallest transfer there is. */
  readonly latencyMs: number;
}

/** Layers [firstLayer, layerEnd) of some blocks; sourceBlocks[i] goes to targetBlocks[i]. Where block sizes
 *  differ, both lists hold the same tokens from a first one that starts a block on either side; those beyond
 *  the shorter list are not moved. */
export interface KvPiece {
  readonly sourceBlocks: readonly BlockId[];
  readonly targetBlocks: readonly BlockId[];
  readonly firstLayer: number;
  readonly layerEnd: number;
}

/** This side: whose blocks are pushed, and who pulls. */
export interface KvSource {
  readonly device: Device;
  readonly cache: KvCache;
  readonly identity: KvIdentity;
  readonly clock: Clock;
  /** What tcp and host-relay pull through: the owner pushes, and only this side's receiver writes its memory.
   *  Absent: they cannot pull. */
  readonly landing?: KvLanding;
}

/** A receiver, as those who pull see it. */
export interface KvLanding {
  /** This side as a target for the owner of what is pulled. */
  readonly target: KvTarget;
  /** Lets frames of that request and epoch into these blocks until `end`, which resolves when nothing of them
   *  is written any more. */
  admit(write: {
    readonly requestId: RequestId;
    readonly epoch: number;
    readonly blocks: readonly BlockId[];
  }): {
    end(): Promise<void>;
  };
}

/** Only BestConnector minds them. */
export interface OpenOptions {
  /** Names of connectors that have failed: another way is wanted. */
  readonly avoid?: readonly string[];
  /** The target's process has been reaped: what is being opened and measured comes to nothing at once. */
  readonly gone?: AbortSignal;
}

export interface KvConnector {
  readonly name: string;
  /** Throws `layout_mismatch` naming what differs, `transfer_error` when the target cannot be reached. */
  open(target: KvTarget, options?: OpenOptions): Promise<KvChannel>;
  /** Closes every channel. */
  close(): Promise<void>;
}

export interface KvChannel {
  /** The connector's name. */
  readonly name: string;
  /** `epoch`: of the reservation that is pushed into. */
  begin(requestId: RequestId, epoch: number): KvTransfer;
  readonly pushedBytes: number;
  readonly transferCount: number;
  /** Nothing gets through any more: open another one. */
  readonly isBroken: boolean;
  /** Time for `bytes` to get there, in milliseconds. Touches nothing of the target. */
  probe(bytes: number): Promise<number>;
  /** Resolves when nothing touches the target any more; transfers still running are aborted. `gone`: the
   *  target's process has been reaped, so nothing is waited for that only it could answer. */
  close(target?: 'gone'): Promise<void>;
}

export interface KvTransfer {
  readonly pushedBytes: number;
  /** Enqueued behind `after`, in order. No pieces, or no blocks, is legal. Does nothing after an abort. */
  push(pieces: readonly KvPiece[], after: EventHandle): void;
  /** The other way: sourceBlocks of the other's cache to targetBlocks of ours. The bytes are there, and their
   *  owner keeps them until this has ended. `finish` and `abort` mean these too. No pieces, or no blocks, is
   *  legal. Does nothing after an abort. */
  pull(pieces: readonly KvPiece[]): void;
  /** Resolves when every piece has landed. Throws `layout_mismatch` for a handle of another layout,
   *  `cancelled` after an abort, `transfer_error` when the way or the other side failed. */
  finish(handle: KvHandle): Promise<void>;
  /** Resolves when nothing of this transfer touches the bytes any more. Idempotent. */
  abort(): Promise<void>;
}
