/** The peer connector: the other worker's cache is mapped by its handle (memfd on the CPU, CUDA IPC on GPUs of one host) and written
 *  directly, one native call per piece, on a stream of its own, so that copies run while later layers compute. Used by worker/.
 *  Invariant: block indices are checked against both caches before a pointer is made of them. */
import { assert } from '../base/assert.js';
import { messageOf, TwostrokeError } from '../base/errors.js';
import type { BlockId, RequestId } from '../base/ids.js';
import type { CacheHandle, Device, EventHandle, Stream } from '../device/device.js';
import type { Pointer } from '../device/tensor.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { KvHandle } from '../kv/kv-handle.js';
import {
  handshake,
  type KvChannel,
  type KvConnector,
  type KvIdentity,
  type KvPiece,
  type KvTarget,
  type KvTransfer,
} from './connector.js';

export class PeerConnector implements KvConnector {
  readonly name = 'peer';
  readonly #device: Device;
  readonly #cache: KvCache;
  readonly #identity: KvIdentity;
  readonly #channels = new Set<PeerChannel>();

  constructor(device: Device, cache: KvCache, identity: KvIdentity) {
    this.#device = device;
    this.#cache = cache;
    this.#identity = identity;
  }

  async open(target: KvTarget): Promise<KvChannel> {
    handshake(this.#identity, target.kv, target.workerId);
    const neededBytes = target.blockCount * this.#cache.layout.blockBytes;
    if (target.cache.bytes < neededBytes) {
      const sizes = `${target.cache.bytes} bytes for ${target.blockCount} blocks, ${neededBytes} needed`;
      throw new TwostrokeError('layout_mismatch', `KV cannot go to ${target.workerId}: its cache has ${sizes}`);
    }
    const channel = new PeerChannel(this.#device, this.#cache, target, importCache(this.#device, target), (closed) =>
      this.#channels.delete(closed),
    );
    this.#channels.add(channel);
    return channel;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#channels].map((channel) => channel.close()));
  }
}

function importCache(device: Device, target: KvTarget): CacheHandle {
  try {
    return device.importCache(target.cache);
  } catch (error) {
    throw new TwostrokeError('transfer_error', `the cache of ${target.workerId} cannot be mapped: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

class PeerChannel implements KvChannel {
  readonly #device: Device;
  readonly #cache: KvCache;
  readonly #target: KvTarget;
  readonly #handle: CacheHandle;
  readonly #pointer: Pointer;
  readonly #stream: Stream;
  readonly #onClosed: (channel: PeerChannel) => void;
  readonly #transfers = new Set<PeerTransfer>();
  #waiting: Promise<void> = Promise.resolve();
  #closing: Promise<void> | null = null;
  pushedBytes = 0;
  transferCount = 0;

  constructor(device: Device, cache: KvCache, target: KvTarget, handle: CacheHandle, onClosed: (channel: PeerChannel) => void) {
    this.#device = device;
    this.#cache = cache;
    this.#target = target;
    this.#handle = handle;
    this.#pointer = device.cachePointer(handle);
    this.#stream = device.createStream();
    this.#onClosed = onClosed;
  }

  begin(requestId: RequestId): KvTransfer {
    assert(this.#closing === null, `begin on a closed channel to ${this.#target.workerId}`);
    const transfer = new PeerTransfer(this, requestId, this.#target.kv.layoutHash, () => this.#transfers.delete(transfer));
    this.#transfers.add(transfer);
    this.transferCount++;
    return transfer;
  }

  /** Returns the bytes that were enqueued. */
  copy(pieces: readonly KvPiece[], after: EventHandle): number {
    const { layout } = this.#cache;
    let bytes = 0;
    this.#stream.waitFor(after);
    for (const piece of pieces) {
      const pairs = this.#pairs(piece);
      if (pairs.length === 0) continue;
      const slice = layout.layerSlice(piece.firstLayer, piece.layerEnd);
      const place = (base: Pointer) => ({ base, blockBytes: layout.blockBytes });
      this.#stream.copySlices(place(this.#pointer), place(this.#cache.pointer), pairs, [slice]);
      bytes += pairs.length * slice.bytes;
    }
    this.pushedBytes += bytes;
    return bytes;
  }

  /** Everything enqueued up to now has run. Waits one after another: a channel occupies one waiting thread at most. */
  settled(): Promise<void> {
    const event = this.#device.createEvent();
    this.#stream.record(event);
    const wait = this.#waiting.then(async () => {
      try {
        if (!this.#device.isReached(event)) await this.#device.waitEvent(event);
      } finally {
        this.#device.destroyEvent(event);
      }
    });
    this.#waiting = wait.catch(() => {});
    return wait;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#transfers].map((transfer) => transfer.abort()));
    await this.#waiting;
    await this.#stream.wait().catch(() => {}); // a failed copy has ended too
    this.#stream.close();
    this.#device.closeCache(this.#handle);
    this.#onClosed(this);
  }

  #pairs(piece: KvPiece): { target: BlockId; source: BlockId }[] {
    const { sourceBlocks, targetBlocks, firstLayer, layerEnd } = piece;
    assert(sourceBlocks.length === targetBlocks.length, 'a piece pairs its blocks');
    assert(
      firstLayer >= 0 && firstLayer < layerEnd && layerEnd <= this.#cache.layout.shape.layerCount,
      `layers ${firstLayer}..${layerEnd}`,
    );
    return sourceBlocks.map((source, i) => {
      const target = targetBlocks[i];
      assert(source >= 0 && source < this.#cache.blockCount, `source block ${source} of ${this.#cache.blockCount}`);
      assert(
        target !== undefined && target >= 0 && target < this.#target.blockCount,
        `target block ${target} of ${this.#target.blockCount}`,
      );
      return { target, source };
    });
  }
}

class PeerTransfer implements KvTransfer {
  readonly #channel: PeerChannel;
  readonly #requestId: RequestId;
  readonly #layoutHash: string;
  readonly #onEnd: () => void;
  #aborting: Promise<void> | null = null;
  pushedBytes = 0;

  constructor(channel: PeerChannel, requestId: RequestId, layoutHash: string, onEnd: () => void) {
    this.#channel = channel;
    this.#requestId = requestId;
    this.#layoutHash = layoutHash;
    this.#onEnd = onEnd;
  }

  push(pieces: readonly KvPiece[], after: EventHandle): void {
    if (this.#aborting === null) this.pushedBytes += this.#channel.copy(pieces, after);
  }

  async finish(handle: KvHandle): Promise<void> {
    assert(handle.requestId === this.#requestId, `handle of ${handle.requestId} in the transfer of ${this.#requestId}`);
    if (handle.layoutHash !== this.#layoutHash) {
      const hashes = `${handle.layoutHash}, the target's ${this.#layoutHash}`;
      throw new TwostrokeError('layout_mismatch', `request ${handle.requestId}: the handle's layout is ${hashes}`);
    }
    await this.#channel.settled();
    if (this.#aborting !== null) throw new TwostrokeError('cancelled', `the transfer of ${this.#requestId} was aborted`);
    this.#onEnd();
  }

  abort(): Promise<void> {
    // a copy that failed has ended too: its error is finish's to tell
    this.#aborting ??= this.#channel
      .settled()
      .catch(() => {})
      .finally(this.#onEnd);
    return this.#aborting;
  }
}
