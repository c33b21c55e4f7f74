/** The tcp connector: KV goes through pinned staging and several sockets (lanes) to the other worker's KvReceiver, which alone writes its
 *  cache. For workers on other hosts, and for devices whose memory another process cannot map. Used by worker/.
 *
 *    push ─► gate: an event behind `after` ─► [queued] ─► copy into a free slot ─► lane ─► receiver ─► landed ─► slot is free again
 *
 *  Invariants: all frames of a target block take one lane, so a later push of the block never overtakes an earlier one; a slot is given back
 *  when its frame has landed or its lane is over, never while a socket may still read it. */
import { assert, at } from '../base/assert.js';
import { messageOf, TwostrokeError } from '../base/errors.js';
import { type BlockId, blockId, type RequestId, requestId } from '../base/ids.js';
import { freshId } from '../base/prng.js';
import type { BlockPair, EventHandle, Stream } from '../device/device.js';
import { checkTarget, pairsOf } from './checks.js';
import type { KvChannel, KvConnector, KvPiece, KvSource, KvTarget, KvTransfer } from './connector.js';
import { ReachedQueue } from './reached-queue.js';
import { type Slot, StagingPool } from './staging.js';
import { defaultTcpLimits, TcpLane, type TcpLimits } from './tcp-lane.js';
import { TcpTransfer } from './tcp-transfer.js';
import { slotBytes } from './wire.js';

const laneCount = 2;
const slotCount = 12;
/** Nothing of it goes through a socket, so a frame's fixed cost may be shared by more bytes: on the CPU as many as stay in its caches, on a
 *  GPU a layer of a long prompt. */
const sharedSlotBytes = { cpu: 4 * slotBytes, cuda: 16 * slotBytes } as const;

/** How payloads go: through the socket, or through staging that the receiver maps (host-relay.ts). */
export type Carrier = 'socket' | 'shared';

export class TcpConnector implements KvConnector {
  readonly name: string;
  readonly #carrier: Carrier;
  readonly #source: KvSource;
  readonly #limits: TcpLimits;
  readonly #channels = new Set<TcpChannel>();

  constructor(source: KvSource, limits: TcpLimits = defaultTcpLimits, carrier: Carrier = 'socket') {
    this.name = carrier === 'socket' ? 'tcp' : 'host-relay';
    this.#carrier = carrier;
    this.#source = source;
    this.#limits = limits;
  }

  async open(target: KvTarget): Promise<TcpChannel> {
    checkTarget(this.#source.identity, target, this.#source.cache.layout.blockBytes);
    if (target.receiver === null) {
      throw new TwostrokeError('transfer_error', `${target.workerId} does not listen for KV`);
    }
    const channel = new TcpChannel(this.#source, target, { limits: this.#limits, carrier: this.#carrier }, () =>
      this.#channels.delete(channel),
    );
    this.#channels.add(channel);
    try {
      await channel.connect();
      return channel;
    } catch (error) {
      await channel.close();
      const reason = messageOf(error);
      throw new TwostrokeError('transfer_error', `${target.workerId} cannot be reached by ${this.name}: ${reason}`, {
        cause: error,
      });
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#channels].map((channel) => channel.close()));
  }
}

interface ChannelOptions {
  readonly limits: TcpLimits;
  readonly carrier: Carrier;
}

/** The event behind which a push's bytes are; shared by its frames. */
interface Gate {
  readonly event: EventHandle;
  holderCount: number;
}

/** A frame to be: what is copied into a slot when one is free. */
interface Work {
  readonly transfer: TcpTransfer;
  /** Null: a probe, nothing is copied. */
  readonly gate: Gate | null;
  readonly laneIndex: number;
  readonly pairs: readonly BlockPair[];
  readonly offset: number;
  readonly bytes: number;
}

interface Staged {
  readonly work: Work;
  readonly slot: Slot;
}

export class TcpChannel implements KvChannel {
  readonly name: string;
  readonly #carrier: Carrier;
  readonly #source: KvSource;
  readonly #target: KvTarget;
  readonly #onClosed: () => void;
  readonly #lanes: readonly TcpLane[];
  readonly #gateStream: Stream;
  readonly #copyStream: Stream;
  readonly #pool: StagingPool;
  readonly #staged: ReachedQueue<Staged>;
  readonly #transfers = new Set<TcpTransfer>();
  #queue: Work[] = [];
  #brokenReason: string | null = null;
  #closing: Promise<void> | null = null;
  pushedBytes = 0;
  transferCount = 0;
  reconnectCount = 0;

  constructor(source: KvSource, target: KvTarget, { limits, carrier }: ChannelOptions, onClosed: () => void) {
    this.name = carrier === 'socket' ? 'tcp' : 'host-relay';
    this.#carrier = carrier;
    const { device, identity, clock } = source;
    this.#source = source;
    this.#target = target;
    this.#onClosed = onClosed;
    this.#gateStream = device.createStream();
    this.#copyStream = device.createStream();
    this.#pool =
      carrier === 'socket'
        ? new StagingPool(device, slotBytes, slotCount)
        : new StagingPool(device, sharedSlotBytes[device.info.kind], slotCount, 'shared');
    this.#staged = new ReachedQueue(device, this.#copyStream, (staged, error) => this.#send(staged, error));
    const address = target.receiver;
    assert(address !== null, 'a tcp channel needs a receiver');
    const { protocolVersion, layoutHash } = identity;
    const staging = carrier === 'socket' ? null : this.#pool.export();
    const common = {
      token: address.token,
      protocolVersion,
      layoutHash,
      workerId: target.workerId,
      session: freshId('kv'),
      staging,
    };
    this.#lanes = Array.from({ length: laneCount }, (_, laneIndex) => {
      const onReconnect = () => void this.reconnectCount++;
      const onBroken = (reason: string) => this.#break(reason);
      return new TcpLane({ address, hello: { ...common, laneIndex }, clock, limits, onReconnect, onBroken });
    });
  }

  get isBroken(): boolean {
    return this.#brokenReason !== null;
  }

  async connect(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.connect()));
  }

  begin(id: RequestId, epoch: number): KvTransfer {
    assert(this.#closing === null, `begin on a closed channel to ${this.#target.workerId}`);
    this.transferCount++;
    return this.#begin(id, epoch);
  }

  async probe(bytes: number): Promise<number> {
    const { clock } = this.#source;
    const transfer = this.#begin(requestId('probe'), 0);
    const startMs = clock.nowMs();
    for (let sentBytes = 0, i = 0; sentBytes < bytes; i++) {
      const frameBytes = Math.min(this.#pool.slotBytes, bytes - sentBytes);
      this.#enqueue({ transfer, gate: null, laneIndex: i % laneCount, pairs: [], offset: 0, bytes: frameBytes });
      sentBytes += frameBytes;
    }
    this.#pump();
    await transfer.landed();
    return clock.nowMs() - startMs;
  }

  /** For tests: as if the network had dropped one connection. */
  dropLane(laneIndex: number): void {
    at(this.#lanes, laneIndex).drop();
  }

  close(target?: 'gone'): Promise<void> {
    if (target === 'gone') this.#break(`${this.#target.workerId} is gone`);
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#transfers].map((transfer) => transfer.abort()));
    await this.#staged.passed();
    for (const lane of this.#lanes) lane.close('the channel is closed');
    this.#gateStream.close();
    this.#copyStream.close();
    this.#pool.close();
    this.#onClosed();
  }

  #begin(id: RequestId, epoch: number): TcpTransfer {
    const transfer: TcpTransfer = new TcpTransfer({
      requestId: id,
      epoch,
      layoutHash: this.#target.kv.layoutHash,
      push: (pieces, after) => this.#push(transfer, pieces, after),
      dropQueued: () => this.#dropQueued((work) => work.transfer === transfer),
      onEnd: () => this.#transfers.delete(transfer),
    });
    this.#transfers.add(transfer);
    return transfer;
  }

  /** Returns the bytes that were queued. `after` may be recorded anew as soon as this returns, hence the gate. */
  #push(transfer: TcpTransfer, pieces: readonly KvPiece[], after: EventHandle): number {
    const { cache, device } = this.#source;
    const works = pieces.flatMap((piece) => {
      const pairs = pairsOf(piece, cache, this.#target.blockCount);
      const { sourceOffset, bytes } = cache.layout.layerSlice(piece.firstLayer, piece.layerEnd);
      return framesOf(pairs, sourceOffset, bytes, this.#pool.slotBytes);
    });
    if (works.length === 0) return 0;
    const gate = { event: device.createEvent(), holderCount: works.length };
    this.#gateStream.waitFor(after);
    this.#gateStream.record(gate.event);
    for (const work of works) this.#enqueue({ ...work, transfer, gate });
    this.#pump();
    const bytes = works.reduce((sum, work) => sum + work.pairs.length * work.bytes, 0);
    this.pushedBytes += bytes;
    return bytes;
  }

  #enqueue(work: Work): void {
    work.transfer.frameQueued();
    this.#queue.push(work);
    if (this.#brokenReason !== null) this.#dropQueued(() => true);
  }

  /** Copies into slots as long as there are any. */
  #pump(): void {
    let count = 0;
    for (const work of this.#queue) {
      const slot = this.#pool.acquire();
      if (slot === null) break;
      count++;
      if (work.gate === null) this.#stageProbe(work, slot);
      else this.#stage(work, work.gate, slot);
      this.#staged.add({ work, slot });
    }
    this.#queue.splice(0, count);
  }

  #stage(work: Work, gate: Gate, slot: Slot): void {
    const { pointer, layout } = this.#source.cache;
    this.#copyStream.waitFor(gate.event);
    this.#letGo(gate);
    this.#copyStream.copySlices(
      { base: slot.pointer, blockBytes: work.bytes },
      { base: pointer, blockBytes: layout.blockBytes },
      work.pairs.map(({ source }, index) => ({ target: index, source })),
      [{ targetOffset: 0, sourceOffset: work.offset, bytes: work.bytes }],
    );
  }

  /** As much work as for a frame of blocks. */
  #stageProbe({ bytes }: Work, slot: Slot): void {
    const { pointer, layout, blockCount } = this.#source.cache;
    this.#copyStream.copy(slot.pointer, pointer, Math.min(bytes, blockCount * layout.blockBytes));
  }

  #send(staged: readonly Staged[], error: string | null): void {
    if (error !== null) this.#break(`staging failed: ${error}`);
    for (const { work, slot } of staged) {
      const { transfer, pairs, offset, bytes } = work;
      const onEnd = (reason: string | null) => {
        this.#pool.release(slot);
        transfer.frameEnded(reason);
        if (this.#closing === null || this.#queue.length > 0) this.#pump();
      };
      if (this.#brokenReason !== null || transfer.isAborted) {
        onEnd(this.#brokenReason);
        continue;
      }
      const blocks: BlockId[] = pairs.map(({ target }) => blockId(target));
      const place = this.#carrier === 'socket' ? {} : { stagingOffset: slot.offset };
      const meta = { requestId: transfer.requestId, epoch: transfer.epoch, blocks, offset, bytes, ...place };
      const payloadBytes = this.#carrier === 'socket' ? Math.max(1, pairs.length) * bytes : 0;
      at(this.#lanes, work.laneIndex).send({ meta, slot, payloadBytes, onEnd });
    }
  }

  #dropQueued(isDropped: (work: Work) => boolean): void {
    const dropped = this.#queue.filter(isDropped);
    this.#queue = this.#queue.filter((work) => !isDropped(work));
    for (const { transfer, gate } of dropped) {
      if (gate !== null) this.#letGo(gate);
      transfer.frameEnded(this.#brokenReason);
    }
  }

  #letGo(gate: Gate): void {
    if (--gate.holderCount === 0) this.#source.device.destroyEvent(gate.event);
  }

  /** One lane is over, so they all are. */
  #break(reason: string): void {
    if (this.#brokenReason !== null) return;
    this.#brokenReason = reason;
    this.#dropQueued(() => true);
    for (const lane of this.#lanes) lane.close(reason);
  }
}

/** Cuts pairs of one slice into frames that fit a slot, lane by lane. */
function framesOf(
  pairs: readonly BlockPair[],
  offset: number,
  bytes: number,
  frameBytesMax: number,
): Pick<Work, 'laneIndex' | 'pairs' | 'offset' | 'bytes'>[] {
  const partBytes = Math.min(bytes, frameBytesMax);
  const blockCount = Math.floor(frameBytesMax / partBytes);
  const frames = [];
  for (let laneIndex = 0; laneIndex < laneCount; laneIndex++) {
    const own = pairs.filter(({ target }) => target % laneCount === laneIndex);
    for (let first = 0; first < own.length; first += blockCount) {
      for (let part = 0; part < bytes; part += partBytes) {
        const ownBytes = Math.min(partBytes, bytes - part);
        frames.push({ laneIndex, pairs: own.slice(first, first + blockCount), offset: offset + part, bytes: ownBytes });
      }
    }
  }
  return frames;
}
