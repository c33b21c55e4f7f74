/** One choice of a request: its tokens, its block table, and how far the cache has got. Changed by the
 *  scheduler and commit only.
 *
 *  position   0 ........ cached ........ computed ........ known ...... tokenCount
 *                └ from the prefix cache ┘                       └ pending ┘  sampled on the device, not yet read by the host
 *                           └ K and V enqueued ┘
 *
 *  Invariant, asserted on every change: cachedCount ≤ computedCount ≤ tokenCount. */
import { assert, at } from '../base/assert.js';
import type { BlockId, TokenId } from '../base/ids.js';
import type { PrefixHash } from '../kv/prefix-index.js';
import type { RequestState } from './request-state.js';
import type { FinishReason } from './token-event.js';

type SequenceState =
  | 'waiting' // in the queue: no batchSlot, no blocks
  | 'forking' // its prompt is being computed by a sibling
  | 'running' // has a batchSlot and blocks
  | 'draining' // preempted; gives its blocks back as soon as no step in flight touches them
  | 'reserved' // decode side of a hand-over, waiting for K and V from elsewhere
  | 'held' // prefill side of a hand-over, prompt done
  | 'ended';

interface SequenceEnd {
  readonly reason: FinishReason;
  readonly stopTokenId?: TokenId;
}

export class Sequence {
  readonly request: RequestState;
  readonly choiceIndex: number;
  readonly promptIds: readonly TokenId[];
  outputIds: TokenId[];
  state: SequenceState = 'waiting';
  /** Its place in the device's list of last sampled tokens; only while it may be scheduled. */
  batchSlot: number | undefined;
  blockIds: BlockId[] = [];
  /** Names of its leading full blocks, made when first needed. */
  hashes: PrefixHash[] = [];
  /** Leading blocks already offered to the prefix index. */
  publishedCount = 0;
  /** Steps in flight that touch its blocks. */
  inFlightCount = 0;
  /** When its first token was emitted, on the engine's clock; null: not yet. */
  firstTokenMs: number | null = null;
  /** What it was behind its schedule when it came to decode here, after so many tokens; null: it has not
   *  yet. Kept by the pacer. */
  delay: { readonly ms: number; readonly tokenCount: number } | null = null;
  /** The last plan it is part of; at most one entry a step. */
  planNumber = -1;
  #pendingCount = 0;
  #cachedCount = 0;
  #computedCount = 0;

  constructor(request: RequestState, choiceIndex: number, outputIds: readonly TokenId[]) {
    this.request = request;
    this.choiceIndex = choiceIndex;
    this.promptIds = request.promptIds;
    this.outputIds = [...outputIds];
  }

  /** Its first token came too late: its SLO is missed, and nothing need be kept back for it. */
  get missedTtft(): boolean {
    const { deadlines } = this.request;
    return deadlines !== null && this.firstTokenMs !== null && this.firstTokenMs > deadlines.firstTokenDueMs;
  }

  get promptCount(): number {
    return this.promptIds.length;
  }

  get knownCount(): number {
    return this.promptIds.length + this.outputIds.length;
  }

  get tokenCount(): number {
    return this.promptIds.length + this.outputIds.length + this.#pendingCount;
  }

  get pendingCount(): number {
    return this.#pendingCount;
  }

  get cachedCount(): number {
    return this.#cachedCount;
  }

  get computedCount(): number {
    return this.#computedCount;
  }

  get uncomputedCount(): number {
    return this.tokenCount - this.#computedCount;
  }

  /** Tokens sampled so far, those still on the device included: the index of the next draw. */
  get drawCount(): number {
    return this.outputIds.length + this.#pendingCount;
  }

  /** Everything but the newest token is in the cache, and that token is one it generated. */
  get isDecoding(): boolean {
    return this.#computedCount >= this.promptIds.length && this.uncomputedCount === 1;
  }

  tokenAt(position: number): TokenId {
    const promptCount = this.promptIds.length;
    return position < promptCount ? at(this.promptIds, position) : at(this.outputIds, position - promptCount);
  }

  /** What the embedding reads at `position`: a token id, or -1 - batchSlot for the token that only the device
   *  knows. */
  inputAt(position: number): number {
    if (position < this.knownCount) return this.tokenAt(position);
    assert(
      position === this.knownCount && this.batchSlot !== undefined,
      `position ${position} is not the token in flight`,
    );
    return -1 - this.batchSlot;
  }

  /** The first `count` positions hold valid K and V from the prefix cache. */
  startCached(count: number): void {
    assert(this.#computedCount === 0, 'cached tokens come first');
    this.#cachedCount = count;
    this.#computedCount = count;
    this.#check();
  }

  /** K and V up to `endToken` are enqueued (or written by the other side of a hand-over). */
  advance(endToken: number): void {
    assert(endToken >= this.#computedCount, `computed ${this.#computedCount}, cannot go back to ${endToken}`);
    this.#computedCount = endToken;
    this.#check();
  }

  /** A token is being sampled on the device. */
  expectToken(): void {
    this.#pendingCount++;
    this.#check();
  }

  acceptToken(tokenId: TokenId): void {
    assert(this.#pendingCount > 0, 'a token nobody sampled');
    this.#pendingCount--;
    this.outputIds.push(tokenId);
    this.#check();
  }

  /** It has ended: tokens still on their way are not its own. */
  dropPending(): void {
    this.#pendingCount = 0;
    this.#computedCount = Math.min(this.#computedCount, this.tokenCount);
    this.#cachedCount = Math.min(this.#cachedCount, this.#computedCount);
    this.#check();
  }

  /** Its blocks are gone; everything is computed again. */
  forgetCache(): void {
    assert(this.blockIds.length === 0 && this.inFlightCount === 0, 'blocks still owned');
    this.#computedCount = 0;
    this.#cachedCount = 0;
    this.publishedCount = 0;
  }

  /** Why it ends after the tokens it has; undefined while it goes on. */
  end(): SequenceEnd | undefined {
    const { sampling, outputLimit } = this.request;
    const last = this.outputIds.at(-1);
    const { forcedTokenCount } = sampling;
    if (forcedTokenCount !== undefined && forcedTokenCount <= outputLimit) {
      return this.outputIds.length >= forcedTokenCount ? { reason: 'stop' } : undefined;
    }
    if (
      last !== undefined &&
      this.outputIds.length > sampling.minTokenCount &&
      this.request.stopIds.has(last)
    ) {
      return { reason: 'stop', stopTokenId: last };
    }
    return this.outputIds.length >= outputLimit ? { reason: 'length' } : undefined;
  }

  #check(): void {
    const { tokenCount } = this;
    // no text is made while it holds
    if (this.#cachedCount <= this.#computedCount && this.#computedCount <= tokenCount) return;
    assert(
      false,
      `request ${this.request.id}: cached ${this.#cachedCount} ≤ computed ${this.#computedCount} ≤ tokens ${tokenCount}`,
    );
  }
}
