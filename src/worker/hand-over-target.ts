/** The decode side of all hand-overs of this worker: who has reserved what, and whether what arrives fits.
 *  Used by worker-service.ts.
 *  Invariant: a reservation has an epoch; only a handle made for that epoch, layout and prompt is taken
 *  over. */
import { TwostrokeError } from '../base/errors.js';
import type { BlockId, RequestId, TokenId } from '../base/ids.js';
import type { Reservation } from '../engine/engine-options.js';
import type { GenerationRequest, TokenDeadlines } from '../engine/generation-request.js';
import type { KvChecksums, KvHandle } from '../kv/kv-handle.js';
import type { BlockChecksums } from '../transfer/checksums.js';
import type { ReservationBody, ReserveBody, ResumeBody } from './messages.js';
import { toGenerationRequest } from './request-body.js';
import { unpackTokens } from './token-list.js';

/** What it needs of an Engine. */
export interface ReservingEngine {
  reserve(request: GenerationRequest, growthTokenCount: number): Reservation | null;
  resume(
    id: RequestId,
    outputs: readonly (readonly TokenId[])[],
    tokenCount: number,
    deadlines?: TokenDeadlines,
  ): void;
  stopChoice(id: RequestId, choiceIndex: number): void;
}

interface Pending {
  readonly epoch: number;
  readonly promptTokenCount: number;
  readonly choiceCount: number;
  readonly blockIds: ReadonlySet<BlockId>;
  readonly stoppedChoices: number[];
}

export class HandOverTarget {
  readonly #engine: ReservingEngine;
  readonly #layoutHash: string;
  readonly #checksums: Pick<BlockChecksums, 'of'> | null;
  readonly #pending = new Map<RequestId, Pending>();
  readonly #onResumed: () => void;
  #lastEpoch = 0;

  /** Without checksums those of a handle are not looked at. `onResumed`: a sequence can be scheduled from now
   *  on. */
  constructor(
    engine: ReservingEngine,
    layoutHash: string,
    checksums: Pick<BlockChecksums, 'of'> | null = null,
    onResumed: () => void = () => {},
  ) {
    this.#onResumed = onResumed;
    this.#engine = engine;
    this.#checksums = checksums;
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
      stoppedChoices: [],
    });
    return { ...reservation, epoch: this.#lastEpoch };
  }

  /** At once, or when the checksums have been compared. Throws or rejects with `transfer_error` or
   *  `layout_mismatch` when what has arrived is not what was promised. */
  resume(body: ResumeBody): Promise<void> | undefined {
    const { handle, outputs } = body;
    const pending = this.#check(handle, outputs.length);
    if (handle.checksums === undefined || this.#checksums === null) {
      this.#take(body, pending);
      return undefined;
    }
    return this.#verify(handle, handle.checksums, pending).then(() => {
      if (this.#check(handle, outputs.length) === pending) this.#take(body, pending);
    });
  }

  /** True: the request's checksums are being compared, and the choice ends as soon as they have been. */
  defersStop(id: RequestId, choiceIndex: number): boolean {
    const pending = this.#pending.get(id);
    pending?.stoppedChoices.push(choiceIndex);
    return pending !== undefined;
  }

  release(id: RequestId): void {
    this.#pending.delete(id);
  }

  /** Whether these blocks may be written for that request now: they are reserved for it, in that epoch, and
   *  it has not landed yet. */
  accepts(write: {
    readonly requestId: RequestId;
    readonly epoch: number;
    readonly blocks: readonly BlockId[];
  }): boolean {
    const pending = this.#pending.get(write.requestId);
    return pending?.epoch === write.epoch && write.blocks.every((block) => pending.blockIds.has(block));
  }

  /** Those that have reserved and have not landed. */
  get requestIds(): readonly RequestId[] {
    return [...this.#pending.keys()];
  }

  get quarantinedBlockCount(): number {
    let count = 0;
    for (const { blockIds } of this.#pending.values()) count += blockIds.size;
    return count;
  }

  #take({ handle, outputs, endedChoices, deadlines }: ResumeBody, { stoppedChoices }: Pending): void {
    this.#pending.delete(handle.requestId);
    this.#engine.resume(handle.requestId, outputs.map(unpackTokens), handle.tokenCount, deadlines);
    this.#onResumed();
    for (const choiceIndex of [...endedChoices, ...stoppedChoices])
      this.#engine.stopChoice(handle.requestId, choiceIndex);
  }

  /** The blocks that were sent, as they are here now. */
  async #verify(
    { requestId }: KvHandle,
    { firstBlock, values }: KvChecksums,
    { blockIds }: Pending,
  ): Promise<void> {
    const actual = await this.#checksums?.of([...blockIds].slice(firstBlock, firstBlock + values.length));
    const wrongIndex = values.findIndex((value, index) => value !== actual?.[index]);
    if (wrongIndex === -1) return;
    const where = `block ${firstBlock + wrongIndex} of ${firstBlock + values.length}`;
    throw new TwostrokeError(
      'transfer_error',
      `the hand-over of request ${requestId} is damaged: the checksum of ${where} differs`,
    );
  }

  #check(handle: KvHandle, outputCount: number): Pending {
    const pending = this.#pending.get(handle.requestId);
    const wrong = (code: 'transfer_error' | 'layout_mismatch', what: string) =>
      new TwostrokeError(code, `the hand-over of request ${handle.requestId} is refused: ${what}`);
    if (pending === undefined) throw wrong('transfer_error', 'nothing is reserved for it');
    if (pending.epoch !== handle.epoch)
      throw wrong('transfer_error', `epoch ${handle.epoch}, reserved was ${pending.epoch}`);
    if (handle.layoutHash !== this.#layoutHash)
      throw wrong('layout_mismatch', `layout ${handle.layoutHash}, here ${this.#layoutHash}`);
    if (handle.tokenCount !== pending.promptTokenCount) {
      throw wrong(
        'transfer_error',
        `${handle.tokenCount} positions for a prompt of ${pending.promptTokenCount} tokens`,
      );
    }
    if (handle.firstTokens.length !== pending.choiceCount || outputCount !== pending.choiceCount) {
      throw wrong(
        'transfer_error',
        `${handle.firstTokens.length} first tokens for ${pending.choiceCount} choices`,
      );
    }
    return pending;
  }
}
