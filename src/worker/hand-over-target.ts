/** The decode side of all hand-overs of this worker: who has reserved what, and whether what arrives fits. Used by worker-service.ts.
 *  Invariant: a reservation has an epoch; only a handle made for that epoch, layout and prompt is taken over. */
import { TwostrokeError } from '../base/errors.js';
import type { BlockId, RequestId, TokenId } from '../base/ids.js';
import type { Reservation } from '../engine/engine-options.js';
import type { GenerationRequest } from '../engine/generation-request.js';
import type { KvHandle } from '../kv/kv-handle.js';
import type { ReservationBody, ReserveBody, ResumeBody } from './messages.js';
import { toGenerationRequest } from './request-body.js';
import { unpackTokens } from './token-list.js';

/** What it needs of an Engine. */
export interface ReservingEngine {
  reserve(request: GenerationRequest, growthTokenCount: number): Reservation | null;
  resume(id: RequestId, outputs: readonly (readonly TokenId[])[], tokenCount: number): void;
  stopChoice(id: RequestId, choiceIndex: number): void;
}

interface Pending {
  readonly epoch: number;
  readonly promptTokenCount: number;
  readonly choiceCount: number;
  readonly blockIds: ReadonlySet<BlockId>;
}

export class HandOverTarget {
  readonly #engine: ReservingEngine;
  readonly #layoutHash: string;
  readonly #pending = new Map<RequestId, Pending>();
  #lastEpoch = 0;

  constructor(engine: ReservingEngine, layoutHash: string) {
    this.#engine = engine;
    this.#layoutHash = layoutHash;
  }

  /** Null: no room now. Throws InvalidRequestError when it can never fit. */
  reserve(body: ReserveBody): ReservationBody | null {
    const request = toGenerationRequest(body.request);
    const reservation = this.#engine.reserve(request, body.growthTokenCount);
    if (reservation === null) return null;
    this.#lastEpoch++;
    this.#pending.set(request.id, {
      epoch: this.#lastEpoch,
      promptTokenCount: request.promptIds.length,
      choiceCount: request.sampling.choiceCount,
      blockIds: new Set(reservation.blockIds),
    });
    return { ...reservation, epoch: this.#lastEpoch };
  }

  resume({ handle, outputs, endedChoices }: ResumeBody): void {
    this.#check(handle, outputs.length);
    this.#pending.delete(handle.requestId);
    this.#engine.resume(handle.requestId, outputs.map(unpackTokens), handle.tokenCount);
    for (const choiceIndex of endedChoices) this.#engine.stopChoice(handle.requestId, choiceIndex);
  }

  release(id: RequestId): void {
    this.#pending.delete(id);
  }

  /** Whether these blocks may be written for that request now: they are reserved for it, in that epoch, and it has not landed yet. */
  accepts(write: { readonly requestId: RequestId; readonly epoch: number; readonly blocks: readonly BlockId[] }): boolean {
    const pending = this.#pending.get(write.requestId);
    return pending?.epoch === write.epoch && write.blocks.every((block) => pending.blockIds.has(block));
  }

  get quarantinedBlockCount(): number {
    let count = 0;
    for (const { blockIds } of this.#pending.values()) count += blockIds.size;
    return count;
  }

  #check(handle: KvHandle, outputCount: number): void {
    const pending = this.#pending.get(handle.requestId);
    const wrong = (code: 'transfer_error' | 'layout_mismatch', what: string) =>
      new TwostrokeError(code, `the hand-over of request ${handle.requestId} is refused: ${what}`);
    if (pending === undefined) throw wrong('transfer_error', 'nothing is reserved for it');
    if (pending.epoch !== handle.epoch) throw wrong('transfer_error', `epoch ${handle.epoch}, reserved was ${pending.epoch}`);
    if (handle.layoutHash !== this.#layoutHash)
      throw wrong('layout_mismatch', `layout ${handle.layoutHash}, here ${this.#layoutHash}`);
    if (handle.tokenCount !== pending.promptTokenCount) {
      throw wrong('transfer_error', `${handle.tokenCount} positions for a prompt of ${pending.promptTokenCount} tokens`);
    }
    if (handle.firstTokens.length !== pending.choiceCount || outputCount !== pending.choiceCount) {
      throw wrong('transfer_error', `${handle.firstTokens.length} first tokens for ${pending.choiceCount} choices`);
    }
  }
}
