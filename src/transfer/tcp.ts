/** The tcp connector: KV goes through pinned staging and several sockets (lanes) to the other worker's
 *  KvReceiver, which alone writes its cache. For workers on other hosts, and for devices whose memory another
 *  process cannot map. Used by worker/.
 *
 *    push ─► gate: an event behind `after` ─► [queued] ─► copy into a free slot ─► lane ─► receiver ─► landed ─► slot is free again
 *
 *  Invariants: all frames of a target block take one lane, so a later push of the block never overtakes an
 *  earlier one; a slot is given back when its frame has landed or its lane is over, never while a socket may
 *  still read it. */
import { assert, at } from '../base/assert.js';
import { messageOf, TwostrokeError } from '../base/errors.js';
import { type BlockId, blockId, type RequestId, requestId } from '../base/ids.js';
import { freshId } from '../base/prng.js';
import type { EventHandle, Stream } from '../device/device.js';
import { checkPiece, checkTarget } from './checks.js';
import type { KvChannel, KvConnector, KvPiece, KvSource, KvTarget, KvTransfer } from './connector.js';
import type { Conversion } from './conversion.js';
import { type FramePlan, laneCount, packedFrames, plainFrames } from './frames.js';
import { Pull } from './pull.js';
import { ReachedQueue } from './reached-queue.js';
import { type Slot, StagingPool } from './staging.js';
import { defaultTcpLimits, TcpLane, type TcpLimits } from './tcp-lane.js';
import { TcpTransfer } from './tcp-transfer.js';
import { slotBytes } from './wire.js';

const slotCount = 12;
/** Whoever pulls has a deadline of its own; this one is for an owner that is frozen. */
const pullDeadlineMs = 30_000;
/** Nothing of it goes through a socket, so a frame's fixed cost may be shared by more bytes: on the CPU as
 *  many as stay in its caches, on a GPU a layer of a long prompt. */
const sharedSlotBytes = { cpu: 4 * slotBytes, cuda: 16 * slotBytes } as const;

/** How payloads go: through the socket, or through staging that the receiver maps (host-relay.ts). */
type Carrier = 'socket' | 'shared';

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
    const conversion = checkTarget(this.#source.identity, target, this.#source.cache.layout);
    if (target.receiver === null) {
      throw new TwostrokeError('transfer_error', `${target.workerId} does not listen for KV`);
    }
    const options = { limits: this.#limits, carrier: this.#carrier, conversion };
    let channel: TcpChannel | null = null;
    try {
      const opened = new TcpChannel(this.#source, target, options, () => this.#channels.delete(opened));
      channel = opened;
      this.#channels.add(opened);
      await opened.connect();
      return opened;
    } catch (error) {
      await channel?.close();
      const reason = messageOf(error);
      throw new TwostrokeError(
        'transfer_error',
        `${target.workerId} cannot be reached by ${this.name}: ${reason}`,
        {
          cause: error,
        },
      );
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#channels].map((channel) => channel.close()));
  }
}

interface ChannelOptions {
  readonly limits: TcpLimits;
  readonly carrier: Carrier;
  /** Null: bytes go as they are. */
  readonly conversion: Conversion | null;
}

/** The event behind which a push's bytes are; shared by its frames. */
interface Gate {
  readonly event: EventHandle;
  holderCount: number;
}

/** A frame to be: what is copied into a slot when one is free. */
interface Work {
  readonly transfer: TcpTransfer;
  /** Null: a probe, which waits for nothing. */
  readonly gate: Gate | null;
  readonly plan: FramePlan;
}

interface Staged {
  readonly work: Work;
  readonly slot: Slot;
}

class TcpChannel implements KvChannel {
  readonly name: string;
  readonly #carrier: Carrier;
  readonly #conversion: Conversion | null;
  readonly #source: KvSource;
  readonly #target: KvTarget;
  readonly #onClosed: () => void;
  readonly #lanes: readonly TcpLane[];
  readonly #gateStream: Stream;
  readonly #copyStream: Stream;
  readonly #pool: StagingPool;
  readonly #staged: ReachedQueue<Staged>;
  readonly #transfers = new Set<TcpTransfer>();
  readonly #pulls = new WeakMap<TcpTransfer, Set<Pull>>();
  #queue: Work[] = [];
  #brokenReason: string | null = null;
  #closing: Promise<void> | null = null;
  pushedBytes = 0;
  transferCount = 0;
  reconnectCount = 0;

  constructor(
    source: KvSource,
    target: KvTarget,
    { limits, carrier, conversion }: ChannelOptions,
    onClosed: () => void,
  ) {
    this.name = carrier === 'socket' ? 'tcp' : 'host-relay';
    this.#carrier = carrier;
    this.#conversion = conversion;
    const { device, identity, clock } = source;
    this.#source = source;
    this.#target = target;
    this.#onClosed = onClosed;
    this.#pool =
      carrier === 'socket'
        ? new StagingPool(device, slotBytes, slotCount)
        : new StagingPool(device, sharedSlotBytes[device.info.kind], slotCount, 'shared');
    // before the streams: it takes memory, and may find none
    const staging = carrier === 'socket' ? null : this.#pool.export();
    this.#gateStream = device.createStream();
    this.#copyStream = device.createStream();
    this.#staged = new ReachedQueue(device, this.#copyStream, (staged, error) => this.#send(staged, error));
    const address = target.receiver;
    assert(address !== null, 'a tcp channel needs a receiver');
    const { protocolVersion } = identity;
    const { layoutHash } = target.kv; // its own, which proves that what is sent is meant for it
    const common = {
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
      this.#enqueue({ transfer, gate: null, plan: this.#probePlan(i % laneCount, frameBytes) });
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
      pull: (pieces) => this.#pull(transfer, pieces),
      dropQueued: () => {
        this.#dropQueued((work) => work.transfer === transfer);
        for (const pull of this.#pulls.get(transfer) ?? []) pull.cancel();
      },
      onEnd: () => this.#transfers.delete(transfer),
    });
    this.#transfers.add(transfer);
    return transfer;
  }

  /** Their owner pushes them to our receiver. A pull counts as one frame: the transfer waits for it as for
   *  the others. */
  #pull(transfer: TcpTransfer, pieces: readonly KvPiece[]): void {
    const { cache, landing, clock } = this.#source;
    const { receiver: address, kv, workerId, blockCount } = this.#target;
    for (const { sourceBlocks, targetBlocks, ...layers } of pieces) // as if it were a push from there
      checkPiece({ ...layers, sourceBlocks: targetBlocks, targetBlocks: sourceBlocks }, cache, blockCount);
    if (pieces.every(({ sourceBlocks }) => sourceBlocks.length === 0)) return;
    if (landing === undefined || address === null) {
      throw new TwostrokeError(
        'transfer_error',
        `nothing can be pulled from ${workerId}: this side does not listen for KV`,
      );
    }
    const { requestId: id, epoch } = transfer;
    const { protocolVersion, layoutHash } = kv;
    const words = { protocolVersion, layoutHash, workerId, requestId: id, epoch };
    const meta = { ...words, connector: this.name, pieces, target: landing.target };
    const pull = new Pull({ address, meta, landing, clock, deadlineMs: pullDeadlineMs });
    const pulls = this.#pulls.get(transfer) ?? new Set<Pull>();
    this.#pulls.set(transfer, pulls.add(pull));
    transfer.frameQueued();
    void pull.ended.then((error) => {
      pulls.delete(pull);
      transfer.frameEnded(error);
    });
  }

  /** Returns the bytes that were queued. `after` may be recorded anew as soon as this returns, hence the
   *  gate. */
  #push(transfer: TcpTransfer, pieces: readonly KvPiece[], after: EventHandle): number {
    const { device } = this.#source;
    const plans = pieces.flatMap((piece) => this.#framesOf(piece));
    if (plans.length === 0) return 0;
    const gate = { event: device.createEvent(), holderCount: plans.length };
    this.#gateStream.waitFor(after);
    this.#gateStream.record(gate.event);
    for (const plan of plans) this.#enqueue({ transfer, gate, plan });
    this.#pump();
    const bytes = plans.reduce((sum, { blocks, bytes }) => sum + blocks.length * bytes, 0);
    this.pushedBytes += bytes;
    return bytes;
  }

  #framesOf(piece: KvPiece): FramePlan[] {
    const { cache } = this.#source;
    const { blockCount } = this.#target;
    const { slotBytes } = this.#pool;
    return this.#conversion === null
      ? plainFrames(piece, cache, blockCount, slotBytes)
      : packedFrames(piece, cache, this.#conversion, { targetBlockCount: blockCount, slotBytes });
  }

  /** As much work as for a frame of blocks. */
  #probePlan(laneIndex: number, bytes: number): FramePlan {
    const { pointer, layout, blockCount } = this.#source.cache;
    const copiedBytes = Math.min(bytes, blockCount * layout.blockBytes);
    return {
      laneIndex,
      blocks: [],
      offset: 0,
      bytes,
      stage: (stream, slot) => stream.copy(slot, pointer, copiedBytes),
    };
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
      if (work.gate !== null) {
        this.#copyStream.waitFor(work.gate.event);
        this.#letGo(work.gate);
      }
      work.plan.stage(this.#copyStream, slot.pointer);
      this.#staged.add({ work, slot }, Math.max(1, work.plan.blocks.length) * work.plan.bytes);
    }
    this.#queue.splice(0, count);
  }

  #send(staged: readonly Staged[], error: string | null): void {
    if (error !== null) this.#break(`staging failed: ${error}`);
    for (const { work, slot } of staged) {
      const { transfer, plan } = work;
      const onEnd = (reason: string | null) => {
        this.#pool.release(slot);
        transfer.frameEnded(reason);
        if (this.#closing === null || this.#queue.length > 0) this.#pump();
      };
      if (this.#brokenReason !== null || transfer.isAborted) {
        onEnd(this.#brokenReason);
        continue;
      }
      const { offset, bytes, packed } = plan;
      const blocks: BlockId[] = plan.blocks.map(blockId);
      const place = this.#carrier === 'socket' ? {} : { stagingOffset: slot.offset };
      const words = { offset, bytes, ...place, ...(packed === undefined ? {} : { packed }) };
      const meta = { requestId: transfer.requestId, epoch: transfer.epoch, blocks, ...words };
      const payloadBytes = this.#carrier === 'socket' ? Math.max(1, blocks.length) * bytes : 0;
      at(this.#lanes, plan.laneIndex).send({ meta, slot, payloadBytes, onEnd });
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
