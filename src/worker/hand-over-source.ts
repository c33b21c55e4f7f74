/** The prefill side of all hand-overs of this worker: hooks the engine's layers to the transfers. Used by
 *  worker-service.ts.
 *  Invariant: after `release(id)` has resolved, nothing of the request runs here or is written anywhere from
 *  here. */
import type { Clock } from '../base/clock.js';
import { TwostrokeError, toWire } from '../base/errors.js';
import type { RequestId, WorkerId } from '../base/ids.js';
import type { Device, EventHandle, Stream } from '../device/device.js';
import type { EngineHooks, PrefillChunk } from '../engine/engine-options.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { KvLayout } from '../kv/kv-layout.js';
import type { LinkTrial } from '../transfer/best-connector.js';
import type { BlockChecksums } from '../transfer/checksums.js';
import type { KvChannel, KvConnector, KvTarget, OpenOptions } from '../transfer/connector.js';
import { LinkCounts } from './link-counts.js';
import type {
  ConnectorStatus,
  HandOverFailedBody,
  HeldBody,
  LandedBody,
  PrefillStartedBody,
  PushToBody,
  RequestBody,
} from './messages.js';
import { OutgoingHandOver } from './outgoing-hand-over.js';
import { unpackTokens } from './token-list.js';

interface HandOverEvents {
  prefillStarted(body: PrefillStartedBody): void;
  landed(body: LandedBody): void;
  handOverFailed(body: HandOverFailedBody): void;
}

/** A hand-over that knows where it goes. */
interface Pushing {
  readonly handOver: OutgoingHandOver;
  readonly target: KvTarget;
  readonly epoch: number;
  readonly channel: KvChannel;
  /** From 1. */
  readonly attempt: number;
  readonly startMs: number;
}

interface OpenChannel {
  readonly incarnation: number;
  readonly channel: Promise<KvChannel>;
  /** Its worker's process has been reaped. */
  readonly gone: AbortController;
  opened: KvChannel | null;
}

/** Events are re-used in turn: a wait that is enqueued remembers which record it is for. */
const eventCount = 64;

export class HandOverSource implements EngineHooks {
  readonly #connector: KvConnector;
  readonly #layout: KvLayout;
  readonly #device: Device;
  readonly #clock: Clock;
  readonly #events: HandOverEvents;
  readonly #checksums: Pick<BlockChecksums, 'of'> | null;
  readonly #trialsOf: (channel: KvChannel) => readonly LinkTrial[];
  readonly #handOvers = new Map<RequestId, OutgoingHandOver>();
  readonly #pushing = new Map<RequestId, Pushing>();
  readonly #counts = new LinkCounts();
  readonly #channels = new Map<WorkerId, OpenChannel>();
  readonly #deviceEvents: EventHandle[] = [];
  #nextEvent = 0;

  constructor(parts: {
    connector: KvConnector;
    layout: KvLayout;
    device: Device;
    clock: Clock;
    events: HandOverEvents;
    /** Absent: handles carry no checksums. */
    checksums?: Pick<BlockChecksums, 'of'> | null;
    /** How a channel was chosen. */
    trialsOf?: (channel: KvChannel) => readonly LinkTrial[];
  }) {
    this.#connector = parts.connector;
    this.#checksums = parts.checksums ?? null;
    this.#trialsOf = parts.trialsOf ?? (() => []);
    this.#layout = parts.layout;
    this.#device = parts.device;
    this.#clock = parts.clock;
    this.#events = parts.events;
  }

  /** To be called before the engine gets the request. */
  add({ id, promptIds, sampling }: RequestBody): void {
    const promptTokenCount = unpackTokens(promptIds).length;
    this.#handOvers.set(
      id,
      new OutgoingHandOver({
        id,
        promptTokenCount,
        choiceCount: sampling.choiceCount,
        layout: this.#layout,
        checksums: this.#checksums,
      }),
    );
  }

  /** The decode side has made room. Throws `layout_mismatch` or `transfer_error` when KV cannot go there. */
  async pushTo({ id, target, reservation }: PushToBody): Promise<void> {
    const channel = await this.#channelTo(target);
    const handOver = this.#handOvers.get(id);
    if (handOver === undefined) return; // released meanwhile
    if (this.#channels.get(target.workerId)?.opened !== channel) {
      throw new TwostrokeError('transfer_error', `worker ${target.workerId} went away before the first push`);
    }
    const { epoch } = reservation;
    this.#pushing.set(id, { handOver, target, epoch, channel, attempt: 1, startMs: this.#clock.nowMs() });
    handOver.start(channel.begin(id, epoch), reservation);
    this.#finishIfWhole(handOver);
  }

  onPrefillStart(requestId: RequestId, cachedTokenCount: number): void {
    this.#events.prefillStarted({ id: requestId, cachedTokenCount });
  }

  onLayer(layer: number, chunks: readonly PrefillChunk[], stream: Stream): void {
    if (chunks.length === 0) return;
    const after = this.#record(stream);
    for (const chunk of chunks) this.#handOvers.get(chunk.requestId)?.onLayer(layer, chunk, stream, after);
  }

  /** First tokens, after they have been sent: the client waits for no byte. */
  onTokens(events: readonly TokenEvent[]): void {
    for (const event of events) {
      const handOver = event.kind === 'tokens' ? this.#handOvers.get(event.requestId) : undefined;
      if (handOver === undefined || event.kind !== 'tokens') continue;
      handOver.onTokens(event);
      this.#finishIfWhole(handOver);
    }
  }

  /** Prepares the way to a worker. Throws `layout_mismatch` or `transfer_error` when KV cannot go there. */
  async openPeer(target: KvTarget): Promise<void> {
    await this.#channelTo(target);
  }

  async release(id: RequestId): Promise<void> {
    const handOver = this.#handOvers.get(id);
    this.#handOvers.delete(id);
    this.#pushing.delete(id);
    await handOver?.abort();
  }

  /** That worker's cache is gone: its mapping goes as soon as nothing is written there. */
  async forgetPeer(workerId: WorkerId, incarnation: number): Promise<void> {
    const open = this.#channels.get(workerId);
    if (open === undefined || open.incarnation > incarnation) return;
    this.#channels.delete(workerId);
    open.gone.abort();
    await (await open.channel.catch(() => null))?.close('gone');
  }

  status(): readonly ConnectorStatus[] {
    return [...this.#channels].flatMap(([peer, { opened }]) => {
      if (opened === null) return [];
      const { name, pushedBytes, transferCount } = opened;
      return [
        { peer, name, trials: this.#trialsOf(opened), pushedBytes, transferCount, ...this.#counts.of(peer) },
      ];
    });
  }

  /** What is kept for requests: nothing for those that have been released. */
  get requestIds(): Pick<HeldBody, 'handOvers' | 'pushes'> {
    return { handOvers: [...this.#handOvers.keys()], pushes: [...this.#pushing.keys()] };
  }

  async close(): Promise<void> {
    this.#handOvers.clear();
    await this.#connector.close();
    for (const event of this.#deviceEvents) this.#device.destroyEvent(event);
  }

  async #channelTo(target: KvTarget): Promise<KvChannel> {
    const known = this.#channels.get(target.workerId);
    const isUsable = known?.opened?.isBroken !== true;
    if (known !== undefined && known.incarnation === target.incarnation && isUsable) return known.channel;
    if (known !== undefined && known.incarnation > target.incarnation) {
      throw new TwostrokeError(
        'transfer_error',
        `worker ${target.workerId} has been restarted: that cache is gone`,
      );
    }
    if (known !== undefined) {
      await this.forgetPeer(target.workerId, known.incarnation);
      return this.#channelTo(target); // someone else may have opened it meanwhile
    }
    return this.#open(target);
  }

  async #open(target: KvTarget, options: OpenOptions = {}): Promise<KvChannel> {
    const gone = new AbortController();
    const channel = this.#connector.open(target, { ...options, gone: gone.signal });
    const open: OpenChannel = { incarnation: target.incarnation, channel, gone, opened: null };
    this.#channels.set(target.workerId, open);
    try {
      open.opened = await channel;
      return open.opened;
    } catch (error) {
      if (this.#channels.get(target.workerId) === open) this.#channels.delete(target.workerId);
      throw error;
    }
  }

  #finishIfWhole(handOver: OutgoingHandOver): void {
    if (handOver.isReadyToFinish) void this.#finish(handOver);
  }

  async #finish(handOver: OutgoingHandOver): Promise<void> {
    const { id } = handOver;
    const pushing = this.#pushing.get(id);
    try {
      const landed = await handOver.finish();
      if (pushing !== undefined) {
        this.#counts.landed(
          pushing.target.workerId,
          landed.pushedBytes,
          this.#clock.nowMs() - pushing.startMs,
        );
      }
      this.#events.landed(landed);
    } catch (error) {
      if (this.#handOvers.get(id) !== handOver) return; // released meanwhile
      if (pushing !== undefined && (await this.#goAnotherWay(pushing))) return;
      if (pushing !== undefined) this.#counts.failed(pushing.target.workerId);
      if (this.#handOvers.get(id) === handOver) this.#events.handOverFailed({ id, error: toWire(error) });
    }
  }

  /** The same blocks over another connector, once, when nothing is on the broken one any more. False: there
   *  is no other way. */
  async #goAnotherWay(pushing: Pushing): Promise<boolean> {
    const { handOver, target, epoch, channel, attempt } = pushing;
    if (!channel.isBroken || attempt > 1) return false;
    await handOver.abort();
    try {
      const other = await this.#channelInstead(channel, target);
      if (this.#handOvers.get(handOver.id) !== handOver) return true; // released meanwhile
      this.#counts.retried(target.workerId);
      this.#pushing.set(handOver.id, { ...pushing, channel: other, attempt: attempt + 1 });
      handOver.restart(other.begin(handOver.id, epoch), (stream) => this.#record(stream));
      this.#finishIfWhole(handOver);
      return true;
    } catch {
      return false; // the first error is the one to tell
    }
  }

  /** Whoever finds it broken first replaces it for all. */
  #channelInstead(broken: KvChannel, target: KvTarget): Promise<KvChannel> {
    const current = this.#channels.get(target.workerId);
    if (current?.incarnation !== target.incarnation)
      throw new TwostrokeError('transfer_error', 'that cache is gone');
    if (current.opened !== broken) return current.channel;
    void broken.close();
    return this.#open(target, { avoid: [broken.name] });
  }

  #record(stream: Stream): EventHandle {
    const index = this.#nextEvent++ % eventCount;
    const event = this.#deviceEvents[index] ?? this.#device.createEvent();
    this.#deviceEvents[index] = event;
    stream.record(event);
    return event;
  }
}
