/** The receiving side of the tcp and host-relay connectors: only it writes its cache. It listens, takes
 *  frames off the sockets into staging, writes them into blocks that are reserved for them, and says what has
 *  landed. One per worker that may decode. Used by worker/.
 *  Invariants: each lane's frames are taken exactly once and in order, whatever connections break; a frame is
 *  written only while its request holds its blocks (`accepts`); when `passed()` has resolved after that has
 *  ended, nothing of it is written any more. */
import { createServer, type Server, type Socket } from 'node:net';
import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';
import type { WorkerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import { freshId } from '../base/prng.js';
import { type StrangerLimits, Strangers } from '../bus/strangers.js';
import type { CacheExport, CacheHandle, Device, Stream } from '../device/device.js';
import { offsetPointer, type Pointer } from '../device/tensor.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { KvIdentity, ReceiverAddress } from './connector.js';
import type { ServedPull } from './pull-server.js';
import { ReachedQueue } from './reached-queue.js';
import { type Slot, StagingPool } from './staging.js';
import { Inbox, type InboxMessage } from './tcp-inbox.js';
import { isUnpackable, unpack } from './unpack.js';
import {
  encodeMessage,
  type FrameMeta,
  type HelloMeta,
  type LandedMeta,
  type PullMeta,
  slotBytes,
} from './wire.js';

export interface ReceiverOptions {
  readonly device: Device;
  readonly cache: KvCache;
  readonly identity: KvIdentity;
  readonly workerId: WorkerId;
  readonly host: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Whether the blocks of a frame are reserved for its request, in that epoch, now. */
  readonly accepts: (frame: FrameMeta) => boolean;
  /** Absent: nothing can be pulled from here. */
  readonly serve?: (pull: PullMeta) => ServedPull;
  /** Connections before their hello. */
  readonly strangers?: StrangerLimits;
}

type Write = Pick<FrameMeta, 'requestId' | 'epoch' | 'blocks'>;

/** What is known of one lane of one channel; outlives its connections. */
interface LaneState {
  readonly key: string;
  inbox: Inbox | null;
  receivedThrough: number;
  landedThrough: number;
  refused: number[];
  /** Host-relay: the source's staging, mapped once per channel. */
  readonly staging: MappedStaging | null;
}

interface MappedStaging {
  readonly session: string;
  readonly handle: CacheHandle;
  readonly pointer: Pointer;
  readonly bytes: number;
  laneCount: number;
}

interface Landing {
  readonly lane: LaneState;
  readonly sequence: number;
  readonly slot: Slot | null;
  readonly isRefused: boolean;
}

/** A receiver's staging: enough for every lane of a few sources to be filled while as much is being
 *  written. */
const slotCount = 16;
/** How long a lane without a connection is remembered. */
const laneMemoryMs = 60_000;
/** A source says hello in two round trips, so that more at once are not honest; on a busy machine it may have
 *  to wait for a core. */
const strangerLimits: StrangerLimits = { countMax: 64, deadlineMs: 10_000 };
/** Of all together: a source of a big cluster has two lanes, or four while ways are measured. */
const connectionCountMax = 1024;

export class KvReceiver {
  readonly address: ReceiverAddress;
  readonly #options: ReceiverOptions;
  readonly #server: Server;
  readonly #stream: Stream;
  readonly #pool: StagingPool;
  readonly #landings: ReachedQueue<Landing>;
  readonly #lanes = new Map<string, LaneState>();
  readonly #stagings = new Map<string, MappedStaging>();
  readonly #inboxes = new Set<Inbox>();
  readonly #strangers: Strangers;
  readonly #admitted = new Set<Write>();
  #starved: Inbox[] = [];
  #probeTarget: Pointer | null = null;
  #closing: Promise<void> | null = null;
  refusedFrameCount = 0;

  /** Rejects with `transfer_error` when it cannot listen there. */
  static async listen(options: ReceiverOptions): Promise<KvReceiver> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) =>
        reject(
          new TwostrokeError('transfer_error', `cannot listen for KV on ${options.host}: ${error.message}`),
        ),
      );
      server.listen({ host: options.host, port: 0 }, resolve);
    });
    return new KvReceiver(options, server);
  }

  private constructor(options: ReceiverOptions, server: Server) {
    const { device, host } = options;
    const bound = server.address();
    assert(bound !== null && typeof bound === 'object', 'a listening server has a port');
    this.address = { host, port: bound.port, token: freshId('kv') };
    this.#options = options;
    this.#server = server;
    this.#stream = device.createStream();
    this.#pool = new StagingPool(device, slotBytes, slotCount);
    this.#landings = new ReachedQueue(device, this.#stream, (landings, error) =>
      this.#landed(landings, error),
    );
    this.#strangers = new Strangers(options.clock, options.strangers ?? strangerLimits);
    server.maxConnections = connectionCountMax;
    server.on('connection', (socket) => this.#accept(socket));
    server.on('error', (error) => options.logger.warn({ reason: error.message }, 'KV receiver'));
  }

  /** For pulls: see KvLanding. */
  admit(write: Write): { end(): Promise<void> } {
    this.#admitted.add(write);
    const end = async () => {
      this.#admitted.delete(write);
      await this.passed();
    };
    return { end };
  }

  /** Resolves when what has been taken so far has been written. */
  passed(): Promise<void> {
    return this.#landings.passed();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const inbox of this.#inboxes) inbox.close('the receiver closes');
    this.#lanes.clear(); // their sessions are not to be forgotten a second time, later
    await closed;
    await this.#landings.passed();
    this.#stream.close();
    this.#pool.close();
    for (const { handle } of this.#stagings.values()) this.#options.device.closeCache(handle);
    this.#stagings.clear();
    if (this.#probeTarget !== null) this.#options.device.release(this.#probeTarget);
  }

  #accept(socket: Socket): void {
    let lane: LaneState | null = null;
    let served: ServedPull | null = null;
    const inbox: Inbox = new Inbox(socket, {
      token: this.address.token,
      pool: this.#pool,
      mayCarry: () => lane !== null,
      onStarved: (starved) => this.#starved.push(starved),
      onMessage: (message) => {
        if (served !== null) throw new TwostrokeError('transfer_error', 'a pull is one message');
        if (lane === null && message.head.kind === 'pull')
          served = this.#servePull(inbox, message.meta as PullMeta);
        else if (lane === null) lane = this.#greet(inbox, message);
        else if (message.head.kind === 'bye') this.#forget(lane);
        else this.#take(lane, message);
        this.#strangers.delete(inbox);
      },
      onClosed: (reason) => {
        this.#inboxes.delete(inbox);
        this.#strangers.delete(inbox);
        served?.cancel();
        if (lane !== null) this.#forgetLater(lane, inbox, reason);
      },
    });
    this.#inboxes.add(inbox);
    this.#strangers.add(inbox);
  }

  #greet(inbox: Inbox, { head, meta }: InboxMessage): LaneState {
    if (head.kind !== 'hello') throw new TwostrokeError('transfer_error', 'it did not say hello');
    const hello = meta as HelloMeta;
    this.#identify(inbox, hello);
    const key = `${hello.session}/${hello.laneIndex}`;
    const lane = this.#lanes.get(key) ?? this.#newLane(key, hello);
    const before = lane.inbox;
    lane.inbox = inbox;
    before?.close('its lane goes on over another connection'); // what it still held is sent again
    lane.refused = lane.refused.filter((sequence) => sequence > hello.landedThrough);
    inbox.write(encodeMessage('accepted', { receivedThrough: lane.receivedThrough }));
    if (lane.landedThrough > hello.landedThrough) this.#report(lane, lane.refused);
    return lane;
  }

  #servePull(inbox: Inbox, pull: PullMeta): ServedPull {
    this.#identify(inbox, pull);
    const served = this.#options.serve?.(pull) ?? {
      ended: Promise.resolve('nothing can be pulled from here'),
      cancel: () => {},
    };
    void served.ended.then((message) =>
      inbox.write(encodeMessage('pulled', message === null ? {} : { message })),
    );
    return served;
  }

  /** Throws when it is not one of ours; an honest one learns why. */
  #identify(inbox: Inbox, who: Pick<HelloMeta, 'workerId' | 'protocolVersion' | 'layoutHash'>): void {
    const { identity, workerId } = this.#options;
    const wrong =
      (who.workerId !== workerId && `this is ${workerId}, not ${who.workerId}`) ||
      (who.protocolVersion !== identity.protocolVersion && `protocol ${identity.protocolVersion} here`) ||
      (who.layoutHash !== identity.layoutHash && `layout ${identity.layoutHash} here`);
    if (wrong === false) return;
    inbox.write(encodeMessage('refused', { message: wrong }));
    throw new TwostrokeError('transfer_error', wrong);
  }

  #take(lane: LaneState, { head, meta, slot }: InboxMessage): void {
    const frame = meta as FrameMeta;
    const isNext = head.kind === 'frame' && head.sequence === lane.receivedThrough + 1;
    if (!isNext || !this.#isWellFormed(frame, head.payloadBytes, lane.staging)) {
      if (slot !== null) this.#pool.release(slot);
      throw new TwostrokeError('transfer_error', isNext ? 'a malformed frame' : 'a frame out of order');
    }
    lane.receivedThrough = head.sequence;
    const isRefused = frame.blocks.length > 0 && !this.#accepts(frame);
    if (isRefused) this.refusedFrameCount++;
    else this.#write(frame, sourceOf(frame, slot, lane.staging));
    this.#landings.add(
      { lane, sequence: head.sequence, slot, isRefused },
      Math.max(1, frame.blocks.length) * frame.bytes,
    );
  }

  #accepts(frame: FrameMeta): boolean {
    const admitted = [...this.#admitted].some(
      ({ requestId, epoch, blocks }) =>
        requestId === frame.requestId &&
        epoch === frame.epoch &&
        frame.blocks.every((block) => blocks.includes(block)),
    );
    return admitted || this.#options.accepts(frame);
  }

  #isWellFormed(frame: FrameMeta, payloadBytes: number, staging: MappedStaging | null): boolean {
    const { blocks, offset, bytes, stagingOffset, packed } = frame;
    const { layout, blockCount } = this.#options.cache;
    if (!Array.isArray(blocks) || !Number.isSafeInteger(offset) || !Number.isSafeInteger(bytes) || bytes <= 0)
      return false;
    const frameBytes = Math.max(1, blocks.length) * bytes;
    const isThere =
      staging === null
        ? payloadBytes === frameBytes
        : Number.isSafeInteger(stagingOffset) && isWithin(stagingOffset ?? -1, frameBytes, staging.bytes);
    const areBlocks = blocks.every((block) => Number.isInteger(block) && block >= 0 && block < blockCount);
    if (!isThere || !areBlocks) return false;
    if (packed !== undefined) return isUnpackable(frame, packed, this.#options);
    return blocks.length === 0 || isWithin(offset, bytes, layout.blockBytes);
  }

  /** A probe goes nowhere, but is copied all the same: it is there to be timed. */
  #write({ blocks, offset, bytes, packed }: FrameMeta, from: Pointer): void {
    const { cache } = this.#options;
    if (blocks.length === 0) {
      this.#stream.copy(this.#scratch(), from, Math.min(bytes, slotBytes));
    } else if (packed !== undefined) {
      unpack(this.#stream, { blocks, packed, from }, this.#options);
    } else {
      this.#stream.copySlices(
        { base: cache.pointer, blockBytes: cache.layout.blockBytes },
        { base: from, blockBytes: bytes },
        blocks.map((target, source) => ({ target, source })),
        [{ targetOffset: offset, sourceOffset: 0, bytes }],
      );
    }
  }

  #scratch(): Pointer {
    this.#probeTarget ??= this.#options.device.allocate(slotBytes);
    return this.#probeTarget;
  }

  /** A copy that failed has not landed: its frames are refused, and the source gives up. */
  #landed(landings: readonly Landing[], error: string | null): void {
    const fresh = new Map<LaneState, number[]>();
    for (const { lane, sequence, slot, isRefused } of landings) {
      if (slot !== null) this.#pool.release(slot);
      lane.landedThrough = sequence;
      const refused = fresh.get(lane) ?? [];
      fresh.set(lane, refused);
      if (isRefused || error !== null) refused.push(sequence);
    }
    for (const [lane, refused] of fresh) {
      lane.refused.push(...refused);
      this.#report(lane, refused);
    }
    const starved = this.#starved;
    this.#starved = [];
    for (const inbox of starved) inbox.proceed();
  }

  #report(lane: LaneState, refused: readonly number[]): void {
    const meta: LandedMeta = refused.length === 0 ? {} : { refused };
    lane.inbox?.write(encodeMessage('landed', meta, lane.landedThrough));
  }

  #forgetLater(lane: LaneState, inbox: Inbox, reason: string): void {
    if (lane.inbox !== inbox) return;
    lane.inbox = null;
    if (this.#lanes.get(lane.key) !== lane) return; // it has said bye
    this.#options.logger.debug({ lane: lane.key, reason }, 'KV lane lost');
    this.#options.clock.after(laneMemoryMs, () => {
      if (lane.inbox === null) this.#forget(lane);
    });
  }

  /** Throws when the source's staging cannot be mapped. */
  #newLane(key: string, { session, staging: exported }: HelloMeta): LaneState {
    const staging = exported === null ? null : (this.#stagings.get(session) ?? this.#map(session, exported));
    if (staging !== null) staging.laneCount++;
    const lane = { key, inbox: null, receivedThrough: 0, landedThrough: 0, refused: [], staging };
    this.#lanes.set(key, lane);
    return lane;
  }

  #map(session: string, exported: CacheExport): MappedStaging {
    const { device } = this.#options;
    const handle = device.importCache(exported);
    const staging = {
      session,
      handle,
      pointer: device.cachePointer(handle),
      bytes: exported.bytes,
      laneCount: 0,
    };
    this.#stagings.set(session, staging);
    return staging;
  }

  /** The last lane of a channel takes the mapping with it, when nothing is being copied from there any
   *  more. */
  #forget(lane: LaneState): void {
    if (this.#lanes.get(lane.key) !== lane) return;
    this.#lanes.delete(lane.key);
    const { staging } = lane;
    if (staging === null || --staging.laneCount > 0) return;
    this.#stagings.delete(staging.session);
    void this.#landings.passed().then(() => this.#options.device.closeCache(staging.handle));
  }
}

function sourceOf({ stagingOffset }: FrameMeta, slot: Slot | null, staging: MappedStaging | null): Pointer {
  if (staging !== null) return offsetPointer(staging.pointer, stagingOffset ?? 0);
  assert(slot !== null, 'a frame without staging has a payload');
  return slot.pointer;
}

function isWithin(offset: number, bytes: number, limit: number): boolean {
  return offset >= 0 && offset + bytes <= limit;
}
