/** One prompt on its way out: knows what is computed and what is pushed, layer by layer, and closes the
 *  transfer when both are whole. Used by hand-over-source.ts. The reservation may come before, between or
 *  after the chunks: pushes catch up.
 *
 *      layer 0  ████████▒▒▒▒····     █ pushed   ▒ computed   · to come
 *      layer 1  ████████········
 *
 *  Invariant: a block is pushed only behind an event recorded after its K and V were enqueued, and never one
 *  that the target holds. */
import { assert, at } from '../base/assert.js';
import type { BlockId, RequestId, TokenId } from '../base/ids.js';
import type { EventHandle, Stream } from '../device/device.js';
import type { PrefillChunk } from '../engine/engine-options.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { KvHandle } from '../kv/kv-handle.js';
import type { KvLayout } from '../kv/kv-layout.js';
import type { BlockChecksums } from '../transfer/checksums.js';
import type { KvPiece, KvTransfer } from '../transfer/connector.js';
import type { LandedBody, ReservationBody } from './messages.js';

interface OutgoingOptions {
  readonly id: RequestId;
  readonly promptTokenCount: number;
  readonly choiceCount: number;
  readonly layout: KvLayout;
  /** Null: the handle carries no checksums. */
  readonly checksums: Pick<BlockChecksums, 'of'> | null;
}

export class OutgoingHandOver {
  readonly id: RequestId;
  readonly #options: OutgoingOptions;
  /** Per layer: positions below are enqueued on the compute stream / on the transfer. */
  readonly #computedEnd: number[];
  readonly #pushedEnd: number[];
  /** Per layer: behind what is computed of it. Events are re-used in turn, so it may have moved on: later,
   *  never earlier. */
  readonly #computedEvents: (EventHandle | null)[];
  readonly #firstTokens: (TokenId | undefined)[];
  #blockIds: readonly BlockId[] = [];
  #stream: Stream | null = null;
  #transfer: KvTransfer | null = null;
  #reservation: ReservationBody | null = null;
  #isFinishing = false;

  constructor(options: OutgoingOptions) {
    this.id = options.id;
    this.#options = options;
    const { layerCount } = options.layout.shape;
    this.#computedEnd = new Array<number>(layerCount).fill(0);
    this.#pushedEnd = new Array<number>(layerCount).fill(0);
    this.#computedEvents = new Array<EventHandle | null>(layerCount).fill(null);
    this.#firstTokens = new Array<TokenId | undefined>(options.choiceCount).fill(undefined);
  }

  /** `layer` of the chunk is enqueued on `stream`, and `after` is recorded behind it. */
  onLayer(layer: number, chunk: PrefillChunk, stream: Stream, after: EventHandle): void {
    this.#stream = stream;
    this.#blockIds = chunk.blockIds;
    this.#computedEnd[layer] = Math.max(at(this.#computedEnd, layer), chunk.endToken);
    this.#computedEvents[layer] = after;
    if (this.#transfer !== null) this.#push([layer], after);
  }

  /** Where to push. Layers that are enqueued by now (all of them, when the prompt is one step) go each behind
   *  its own event, so that the first ones are copied while the last still compute. */
  start(transfer: KvTransfer, reservation: ReservationBody): void {
    this.#begin(transfer, reservation);
    for (const [layer, after] of this.#computedEvents.entries())
      if (after !== null) this.#push([layer], after);
  }

  /** Another way, from the beginning: nothing of the first one is in flight any more. */
  restart(transfer: KvTransfer, record: (stream: Stream) => EventHandle): void {
    assert(this.#reservation !== null, `request ${this.id} has nowhere to go`);
    this.#pushedEnd.fill(0);
    this.#transfer = null;
    this.#isFinishing = false;
    this.#begin(transfer, this.#reservation);
    if (this.#stream !== null) this.#push([...this.#computedEnd.keys()], record(this.#stream));
  }

  onTokens(event: Extract<TokenEvent, { kind: 'tokens' }>): void {
    this.#firstTokens[event.choiceIndex] ??= event.tokens[0]?.tokenId;
  }

  /** Everything is enqueued and known: `finish` may be called, once. */
  get isReadyToFinish(): boolean {
    if (this.#isFinishing || this.#transfer === null) return false;
    const { promptTokenCount } = this.#options;
    return this.#pushedEnd.every((end) => end >= promptTokenCount) && !this.#firstTokens.includes(undefined);
  }

  /** Resolves when every byte has landed, with what the decode side is to check. */
  async finish(): Promise<LandedBody> {
    assert(
      this.isReadyToFinish && this.#transfer !== null && this.#reservation !== null,
      `request ${this.id} is not whole`,
    );
    this.#isFinishing = true;
    const handle = {
      requestId: this.id,
      epoch: this.#reservation.epoch,
      layoutHash: this.#options.layout.hash,
      tokenCount: this.#options.promptTokenCount,
      firstTokens: this.#firstTokens.flatMap((token) => token ?? []),
    };
    const [checksums] = await Promise.all([
      this.#checksums(this.#reservation),
      this.#transfer.finish(handle),
    ]);
    return { handle: { ...handle, ...checksums }, pushedBytes: this.#transfer.pushedBytes };
  }

  /** Of the blocks as they are here: all computed, and not written again before release. */
  async #checksums({ cachedTokenCount }: ReservationBody): Promise<Pick<KvHandle, 'checksums'>> {
    const { checksums, layout, promptTokenCount } = this.#options;
    if (checksums === null) return {};
    const firstBlock = Math.floor(cachedTokenCount / layout.shape.blockTokenCount);
    const values = await checksums.of(
      this.#blockIds.slice(firstBlock, layout.blockCountFor(promptTokenCount)),
    );
    return { checksums: { firstBlock, values } };
  }

  /** Resolves when nothing is being written at the target any more. */
  async abort(): Promise<void> {
    await this.#transfer?.abort();
  }

  #begin(transfer: KvTransfer, reservation: ReservationBody): void {
    assert(this.#transfer === null, `request ${this.id} is pushed twice`);
    this.#transfer = transfer;
    this.#reservation = reservation;
  }

  /** Neighbouring layers of the same blocks go as one piece: what is pushed late is one copy, not one per
   *  layer. */
  #push(layers: readonly number[], after: EventHandle): void {
    const pieces: KvPiece[] = [];
    for (const piece of layers.flatMap((layer) => this.#piece(layer))) {
      const last = pieces.at(-1);
      if (last !== undefined && continues(last, piece))
        pieces[pieces.length - 1] = { ...last, layerEnd: piece.layerEnd };
      else pieces.push(piece);
    }
    this.#transfer?.push(pieces, after);
  }

  /** The blocks of `layer` that hold positions computed and not yet pushed. A block that fills up over two
   *  chunks goes twice. */
  #piece(layer: number): KvPiece[] {
    assert(this.#reservation !== null, 'a push needs a reservation');
    const { blockIds: targetBlocks, cachedTokenCount } = this.#reservation;
    const { blockTokenCount } = this.#options.layout.shape;
    const start = Math.max(at(this.#pushedEnd, layer), cachedTokenCount);
    const end = at(this.#computedEnd, layer);
    this.#pushedEnd[layer] = Math.max(end, at(this.#pushedEnd, layer));
    if (start >= end) return [];
    const firstBlock = Math.floor(start / blockTokenCount);
    const blockEnd = Math.ceil(end / blockTokenCount);
    return [
      {
        sourceBlocks: this.#blockIds.slice(firstBlock, blockEnd),
        targetBlocks: targetBlocks.slice(firstBlock, blockEnd),
        firstLayer: layer,
        layerEnd: layer + 1,
      },
    ];
  }
}

/** Blocks of one request: the same first one and as many are the same ones. */
function continues(last: KvPiece, next: KvPiece): boolean {
  const isSame =
    last.targetBlocks[0] === next.targetBlocks[0] && last.targetBlocks.length === next.targetBlocks.length;
  return isSame && last.layerEnd === next.firstLayer;
}
