/** Messages of the tcp connector, over one socket (a lane). Used by tcp-lane.ts and tcp-receiver.ts.
 *
 *    head, 16 bytes little-endian: [kind u32][metaBytes u32][payloadBytes u32][sequence u32], then meta
 *    (JSON), then the payload
 *
 *    source → receiver   hello (who, which lane), frame (bytes of some blocks), bye
 *    receiver → source   accepted or refused (answers hello), landed (everything up to `sequence` is in the cache)
 *    puller → owner      pull (what, and where to push it), on a connection of its own that lasts as long as it is wanted
 *    owner → puller      pulled or refused
 *
 *  The two ends have proven before who they are, see handshake.ts.
 *  Invariant: a head that names an unknown kind, or more bytes than the limits, ends the connection before
 *  anything is allocated for it. */
import { TwostrokeError } from '../base/errors.js';
import type { BlockId, RequestId, WorkerId } from '../base/ids.js';
import type { CacheExport } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import type { KvPiece, KvTarget } from './connector.js';

export const headBytes = 16;
/** Most payload of one frame: a staging slot. */
export const slotBytes = 512 * 1024;
const metaBytesMax = 1 << 20;
const kinds = ['hello', 'accepted', 'refused', 'frame', 'landed', 'bye', 'pull', 'pulled'] as const;
type MessageKind = (typeof kinds)[number];

export interface HelloMeta {
  readonly protocolVersion: number;
  readonly layoutHash: string;
  /** Whom the source means to reach. */
  readonly workerId: WorkerId;
  /** Names the channel: its lanes go on where they were after a reconnect. */
  readonly session: string;
  readonly laneIndex: number;
  /** Host-relay: the source's staging, which the receiver maps; frames then say where in it they are, and
   *  carry no payload. */
  readonly staging: CacheExport | null;
  /** What the source knows to have landed. */
  readonly landedThrough: number;
}

export interface PullMeta {
  readonly protocolVersion: number;
  /** Of the owner's cache, and who it is. */
  readonly layoutHash: string;
  readonly workerId: WorkerId;
  readonly requestId: RequestId;
  readonly epoch: number;
  readonly connector: string;
  readonly pieces: readonly KvPiece[];
  /** The puller. */
  readonly target: KvTarget;
}

export interface PulledMeta {
  /** Why it came to nothing. */
  readonly message?: string;
}

export interface AcceptedMeta {
  /** Sequence of the last frame that has arrived whole; those after it are to be sent again. */
  readonly receivedThrough: number;
}

export interface RefusedMeta {
  readonly message: string;
}

/** The payload is `bytes` from `offset` of each of `blocks`, in this order. No blocks: a probe, which is
 *  dropped. */
export interface FrameMeta {
  readonly requestId: RequestId;
  readonly epoch: number;
  readonly blocks: readonly BlockId[];
  readonly offset: number;
  readonly bytes: number;
  /** In the source's staging; absent: the payload follows. */
  readonly stagingOffset?: number;
  /** It is not bytes of a block: it is to be converted, see kv/wire-layout.ts. */
  readonly packed?: Packed;
}

export interface Packed {
  readonly dtype: Dtype;
  readonly firstLayer: number;
  readonly layerCount: number;
  readonly tokenCount: number;
  readonly firstHead: number;
  readonly headCount: number;
}

export interface LandedMeta {
  /** Frames that were not written, because nothing (or something else) is reserved for their request. */
  readonly refused?: readonly number[];
}

export interface MessageHead {
  readonly kind: MessageKind;
  readonly metaBytes: number;
  readonly payloadBytes: number;
  readonly sequence: number;
}

/** Head and meta; the payload is written behind them. */
export function encodeMessage(kind: MessageKind, meta: object, sequence = 0, payloadBytes = 0): Buffer {
  const text = JSON.stringify(meta);
  const metaBytes = Buffer.byteLength(text);
  const bytes = Buffer.allocUnsafe(headBytes + metaBytes);
  bytes.writeUInt32LE(kinds.indexOf(kind), 0);
  bytes.writeUInt32LE(metaBytes, 4);
  bytes.writeUInt32LE(payloadBytes, 8);
  bytes.writeUInt32LE(sequence, 12);
  bytes.write(text, headBytes);
  return bytes;
}

/** Throws `transfer_error` when these are not the first bytes of a message. */
export function decodeHead(bytes: Buffer): MessageHead {
  const kind = kinds[bytes.readUInt32LE(0)];
  const [metaBytes, payloadBytes, sequence] = [
    bytes.readUInt32LE(4),
    bytes.readUInt32LE(8),
    bytes.readUInt32LE(12),
  ];
  if (
    kind === undefined ||
    metaBytes > metaBytesMax ||
    payloadBytes > slotBytes ||
    (kind !== 'frame' && payloadBytes > 0)
  ) {
    throw new TwostrokeError('transfer_error', 'not a message of the KV protocol');
  }
  return { kind, metaBytes, payloadBytes, sequence };
}
