/** The prefill side of all hand-overs of this worker: hooks the engine's layers to the transfers. Used by worker-service.ts.
 *  Invariant: after `release(id)` has resolved, nothing of the request runs here or is written anywhere from here. */
import type { Clock } from '../base/clock.js';
import { TwostrokeError, toWire } from '../base/errors.js';
import type { RequestId, WorkerId } from '../base/ids.js';
import type { Device, EventHandle, Stream } from '../device/device.js';
import type { EngineHooks, PrefillChunk } from '../engine/engine-options.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { KvLayout } from '../kv/kv-layout.js';
import type { KvChannel, KvConnector, KvTarget } from '../transfer/connector.js';
import type { ConnectorStatus, HandOverFailedBody, LandedBody, PrefillStartedBody, PushToBody, RequestBody } from './messages.js';
import { OutgoingHandOver } from './outgoing-hand-over.js';
import { unpackTokens } from './token-list.js';

export interface HandOverEvents {
  prefillStarted(body: PrefillStartedBody): void;
  landed(body: LandedBody): void;
  handOverFailed(body: HandOverFailedBody): void;
}

interface OpenChannel {
  readonly incarnation: number;
  readonly channel: Promise<KvChannel>;
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
  readonly #handOvers = new Map<RequestId, OutgoingHandOver>();
  readonly #channels = new Map<WorkerId, OpenChannel>();
  readonly #deviceEvents: EventHandle[] = [];
  #nextEvent = 0;

  constructor(parts: { connector: KvConnector; layout: KvLayout; device: Device; clock: Clock; events: HandOverEvents }) {
    this.#connector = parts.connector;
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
      new OutgoingHandOver({ id, promptTokenCount, choiceCount: sampling.choiceCount, layout: this.#layout }),
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
    handOver.start(channel.begin(id), reservation, (stream) => this.#record(stream));
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
    await handOver?.abort();
  }

  /** That worker's cache is gone: its mapping goes as soon as nothing is written there. */
  async forgetPeer(workerId: WorkerId, incarnation: number): Promise<void> {
    const open = this.#channels.get(workerId);
    if (open === undefined || open.incarnation > incarnation) return;
    this.#channels.delete(workerId);
    await (await open.channel.catch(() => null))?.close();
  }

  status(): readonly ConnectorStatus[] {
    const { name } = this.#connector;
    return [...this.#channels].map(([peer, { opened }]) => ({
      peer,
      name,
      pushedBytes: opened?.pushedBytes ?? 0,
      transferCount: opened?.transferCount ?? 0,
    }));
  }

  async close(): Promise<void> {
    this.#handOvers.clear();
    await this.#connector.close();
    for (const event of this.#deviceEvents) this.#device.destroyEvent(event);
  }

  async #channelTo(target: KvTarget): Promise<KvChannel> {
    const known = this.#channels.get(target.workerId);
    if (known !== undefined && known.incarnation === target.incarnation) return known.channel;
    if (known !== undefined && known.incarnation > target.incarnation) {
      throw new TwostrokeError('transfer_error', `worker ${target.workerId} has been restarted: that cache is gone`);
    }
    if (known !== undefined) {
      await this.forgetPeer(target.workerId, known.incarnation);
      return this.#channelTo(target); // someone else may have opened it meanwhile
    }
    const open: OpenChannel = { incarnation: target.incarnation, channel: this.#connector.open(target), opened: null };
    this.#channels.set(target.workerId, open);
    try {
      open.opened = await open.channel;
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
    const startMs = this.#clock.nowMs();
    try {
      const landed = await handOver.finish();
      this.#events.landed({ ...landed, exposedMs: this.#clock.nowMs() - startMs });
    } catch (error) {
      if (this.#handOvers.get(handOver.id) === handOver) this.#events.handOverFailed({ id: handOver.id, error: toWire(error) });
    }
  }

  #record(stream: Stream): EventHandle {
    const index = this.#nextEvent++ % eventCount;
    const event = this.#deviceEvents[index] ?? this.#device.createEvent();
    this.#deviceEvents[index] = event;
    stream.record(event);
    return event;
  }
}
