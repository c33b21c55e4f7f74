/** The peer connector: the other worker's cache is mapped by its handle (memfd on the CPU, CUDA IPC on GPUs
 *  of one host) and written directly, one native call per piece, on a stream of its own, so that copies run
 *  while later layers compute. Used by worker/.
 *  Invariant: block indices are checked against both caches before a pointer is made of them. */
import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import { messageOf, TwostrokeError } from '../base/errors.js';
import type { RequestId } from '../base/ids.js';
import type { CacheHandle, Device, EventHandle, Stream } from '../device/device.js';
import { offsetPointer, type Pointer } from '../device/tensor.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { KvHandle } from '../kv/kv-handle.js';
import { checkHandle, checkPiece, checkTarget, pairsOf } from './checks.js';
import type { KvChannel, KvConnector, KvPiece, KvSource, KvTarget, KvTransfer } from './connector.js';
import { type Conversion, rangeOf, tokenCountOf } from './conversion.js';

const probeScratchBytes = 2 ** 20;
/** Before a thread is sent to wait on a GPU the event is asked again and again, between turns of the event
 *  loop: 300 MB take 0.8 ms over NVLink, and a thread's way there and back up to 0.2 ms more. On the CPU that
 *  time would be taken from the copies themselves. */
const askedMsMax = { cpu: 0, cuda: 1 } as const;

export class PeerConnector implements KvConnector {
  readonly name = 'peer';
  readonly #source: KvSource;
  readonly #channels = new Set<PeerChannel>();

  constructor(source: KvSource) {
    this.#source = source;
  }

  async open(target: KvTarget): Promise<KvChannel> {
    const { device, cache, identity } = this.#source;
    const conversion = checkTarget(identity, target, cache.layout);
    if ((identity.transferDtype ?? 'auto') !== 'auto') {
      const what = `peer writes KV as it is, ${identity.transferDtype} needs host-relay or tcp`;
      throw new TwostrokeError('layout_mismatch', `KV cannot go to ${target.workerId}: ${what}`);
    }
    const handle = importCache(device, target);
    const channel = new PeerChannel(this.#source, { target, handle, conversion }, (closed) =>
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
    throw new TwostrokeError(
      'transfer_error',
      `the cache of ${target.workerId} cannot be mapped: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
}

interface PeerTarget {
  readonly target: KvTarget;
  readonly handle: CacheHandle;
  /** Null: bytes go as they are. */
  readonly conversion: Conversion | null;
}

class PeerChannel implements KvChannel {
  readonly name = 'peer';
  /** A copy has failed. The owner's death alone does not break it: a mapping stays valid. */
  isBroken = false;
  readonly #device: Device;
  readonly #cache: KvCache;
  readonly #clock: Clock;
  readonly #target: KvTarget;
  readonly #conversion: Conversion | null;
  readonly #handle: CacheHandle;
  readonly #pointer: Pointer;
  readonly #stream: Stream;
  readonly #onClosed: (channel: PeerChannel) => void;
  readonly #transfers = new Set<PeerTransfer>();
  #waiting: Promise<void> = Promise.resolve();
  #closing: Promise<void> | null = null;
  pushedBytes = 0;
  transferCount = 0;

  constructor(
    source: KvSource,
    { target, handle, conversion }: PeerTarget,
    onClosed: (channel: PeerChannel) => void,
  ) {
    const { device, cache, clock } = source;
    this.#device = device;
    this.#cache = cache;
    this.#clock = clock;
    this.#target = target;
    this.#conversion = conversion;
    this.#handle = handle;
    this.#pointer = device.cachePointer(handle);
    this.#stream = device.createStream();
    this.#onClosed = onClosed;
  }

  begin(requestId: RequestId): KvTransfer {
    assert(this.#closing === null, `begin on a closed channel to ${this.#target.workerId}`);
    const transfer = new PeerTransfer(this, requestId, this.#target.kv.layoutHash, () =>
      this.#transfers.delete(transfer),
    );
    this.#transfers.add(transfer);
    this.transferCount++;
    return transfer;
  }

  /** Returns the bytes that were enqueued. */
  copy(pieces: readonly KvPiece[], after: EventHandle): number {
    let bytes = 0;
    this.#stream.waitFor(after);
    for (const piece of pieces) {
      bytes += this.#conversion === null ? this.#copyPiece(piece) : this.#movePiece(piece, this.#conversion);
    }
    this.pushedBytes += bytes;
    return bytes;
  }

  /** The other way round, behind what the stream has. */
  fetch(pieces: readonly KvPiece[]): void {
    const { layout, pointer } = this.#cache;
    if (this.#conversion !== null) {
      throw new TwostrokeError(
        'transfer_error',
        `KV of ${this.#target.workerId} is laid out in another way: pull it over tcp`,
      );
    }
    for (const piece of pieces) {
      // as if it were a push from there
      const [sourceBlocks, targetBlocks] = [piece.targetBlocks, piece.sourceBlocks];
      const pairs = pairsOf({ ...piece, sourceBlocks, targetBlocks }, this.#cache, this.#target.blockCount);
      const swapped = pairs.map(({ target, source }) => ({ target: source, source: target }));
      const place = (base: Pointer) => ({ base, blockBytes: layout.blockBytes });
      this.#stream.copySlices(place(pointer), place(this.#pointer), swapped, [
        layout.layerSlice(piece.firstLayer, piece.layerEnd),
      ]);
    }
  }

  #copyPiece(piece: KvPiece): number {
    const { layout } = this.#cache;
    const pairs = pairsOf(piece, this.#cache, this.#target.blockCount);
    const slice = layout.layerSlice(piece.firstLayer, piece.layerEnd);
    const place = (base: Pointer) => ({ base, blockBytes: layout.blockBytes });
    this.#stream.copySlices(place(this.#pointer), place(this.#cache.pointer), pairs, [slice]);
    return pairs.length * slice.bytes;
  }

  #movePiece(piece: KvPiece, conversion: Conversion): number {
    const { layout, pointer } = this.#cache;
    const { sourceBlocks, targetBlocks, firstLayer, layerEnd } = piece;
    checkPiece(piece, this.#cache, this.#target.blockCount);
    const { target, targetFirstHead, sourceFirstHead, headCount } = conversion;
    const tokenCount = tokenCountOf(conversion, sourceBlocks.length, targetBlocks.length);
    const [targetLayer, sourceLayer, layerCount] = [firstLayer, firstLayer, layerEnd - firstLayer];
    this.#stream.moveKv(
      target.place(this.#pointer, targetBlocks, targetFirstHead),
      layout.place(pointer, sourceBlocks, sourceFirstHead),
      {
        targetStart: 0,
        sourceStart: 0,
        tokenCount,
        targetLayer,
        sourceLayer,
        layerCount,
        ...rangeOf(conversion),
      },
    );
    return (
      (tokenCount * layerCount * layout.layerBytes * headCount) /
      (layout.shape.blockTokenCount * layout.shape.kvHeadCount)
    );
  }

  /** Reads the other's cache, piece by piece: the same link, nothing is touched, and hardly any memory is
   *  taken (a GPU may have none left). */
  async probe(bytes: number): Promise<number> {
    const cacheBytes = this.#target.cache.bytes;
    const pieceBytes = Math.min(bytes, cacheBytes, probeScratchBytes);
    const scratch = this.#device.allocate(pieceBytes);
    try {
      const startMs = this.#clock.nowMs();
      for (let readBytes = 0; readBytes < bytes; readBytes += pieceBytes) {
        const offset = readBytes % (cacheBytes - pieceBytes + 1);
        this.#stream.copy(
          scratch,
          offsetPointer(this.#pointer, offset),
          Math.min(pieceBytes, bytes - readBytes),
        );
      }
      await this.settled();
      return this.#clock.nowMs() - startMs;
    } finally {
      this.#device.release(scratch);
    }
  }

  /** Moves `event` (a new one for null) behind everything enqueued up to now. It belongs to the caller until
   *  `settled` has it. */
  record(event: EventHandle | null): EventHandle {
    const recorded = event ?? this.#device.createEvent();
    this.#stream.record(recorded);
    return recorded;
  }

  forget(event: EventHandle): void {
    this.#device.destroyEvent(event);
  }

  /** What is before `event` has run; without one, everything enqueued up to now. Waits one after another: a
   *  channel occupies one waiting thread at most. */
  settled(event: EventHandle | null = null): Promise<void> {
    const last = event ?? this.record(null);
    const wait = this.#waiting.then(async () => {
      try {
        if (!(await this.#isReachedSoon(last))) await this.#device.waitEvent(last);
      } catch (error) {
        this.isBroken = true;
        throw error;
      } finally {
        this.#device.destroyEvent(last);
      }
    });
    this.#waiting = wait.catch(() => {});
    return wait;
  }

  async #isReachedSoon(event: EventHandle): Promise<boolean> {
    const endMs = this.#clock.nowMs() + askedMsMax[this.#device.info.kind];
    while (!this.#device.isReached(event)) {
      if (this.#clock.nowMs() >= endMs) return false;
      await this.#clock.yield();
    }
    return true;
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
}

class PeerTransfer implements KvTransfer {
  readonly #channel: PeerChannel;
  readonly #requestId: RequestId;
  readonly #layoutHash: string;
  readonly #onEnd: () => void;
  /** Set by whichever comes first: from then on the channel, which may be closed by now, is not asked
   *  again. */
  #isFinished = false;
  /** Behind its own last push: what others have pushed meanwhile may wait for a step that has not begun. */
  #event: EventHandle | null = null;
  #aborting: Promise<void> | null = null;
  pushedBytes = 0;

  constructor(channel: PeerChannel, requestId: RequestId, layoutHash: string, onEnd: () => void) {
    this.#channel = channel;
    this.#requestId = requestId;
    this.#layoutHash = layoutHash;
    this.#onEnd = onEnd;
  }

  push(pieces: readonly KvPiece[], after: EventHandle): void {
    if (this.#aborting !== null) return;
    this.pushedBytes += this.#channel.copy(pieces, after);
    this.#event = this.#channel.record(this.#event);
  }

  pull(pieces: readonly KvPiece[]): void {
    if (this.#aborting !== null) return;
    this.#channel.fetch(pieces);
    this.#event = this.#channel.record(this.#event);
  }

  async finish(handle: KvHandle): Promise<void> {
    checkHandle(handle, this.#requestId, this.#layoutHash);
    await (this.#aborting ?? this.#channel.settled(this.#takeEvent()));
    if (this.#aborting !== null)
      throw new TwostrokeError('cancelled', `the transfer of ${this.#requestId} was aborted`);
    this.#isFinished = true;
    this.#onEnd();
  }

  async abort(): Promise<void> {
    if (this.#isFinished) return; // everything has landed
    const event = this.#takeEvent();
    if (event !== null) this.#channel.forget(event);
    // a copy that failed has ended too: its error is finish's to tell
    this.#aborting ??= this.#channel
      .settled()
      .catch(() => {})
      .finally(this.#onEnd);
    await this.#aborting;
  }

  #takeEvent(): EventHandle | null {
    const event = this.#event;
    this.#event = null;
    return event;
  }
}
