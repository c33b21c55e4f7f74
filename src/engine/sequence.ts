/** What the engine keeps of a request (RequestState) and of each of its choices (Sequence): tokens, block
 *  table, and how far the cache has got. The prompt is computed once, by the leading choice; the others fork
 *  from it. Made by engine.ts, changed by the scheduler and commit only.
 *
 *  position   0 ........ cached ........ computed ........ known ...... tokenCount
 *                └ from the prefix cache ┘                       └ pending ┘  sampled on the device, not yet read by the host
 *                           └ K and V enqueued ┘
 *
 *  Invariant, asserted on every change: cachedCount ≤ computedCount ≤ tokenCount. */
import { assert, at } from '../base/assert.js';
import type { BlockId, RequestId, TokenId } from '../base/ids.js';
import type { PrefixHash } from '../kv/prefix-index.js';
import type { GenerationRequest } from './generation-request.js';
import type { ChoiceMasks } from './mask-source.js';
import type { SamplingParams } from './sampling-params.js';
import type { FinishReason, TokenLogprob } from './token-event.js';

/** By when the tokens of a request are due, on the engine's clock. */
export interface Deadlines {
  readonly firstTokenDueMs: number;
  /** What was allowed for the first token: how long a late one is made to wait is counted in it. */
  readonly ttftMs: number;
  readonly tpotMs: number;
}

/** generate: prompt and decode here. prefill: prompt and first tokens, then hold. reserved: decode here what
 *  was prefilled elsewhere. */
export type RequestMode = 'generate' | 'prefill' | 'reserved';

interface RequestStateParts {
  /** Requests are numbered as they come. */
  readonly arrival: number;
  readonly deadlines: Deadlines | null;
  readonly maxModelTokenCount: number;
  readonly vocabCount: number;
}

export class RequestState {
  readonly id: RequestId;
  mode: RequestMode;
  readonly arrival: number;
  readonly priority: number;
  readonly promptIds: readonly TokenId[];
  readonly sampling: SamplingParams;
  readonly cacheSalt: string;
  /** On the engine's clock; null: nothing is promised, or nobody paces. */
  readonly deadlines: Deadlines | null;
  /** Most output tokens of a choice: asked for, and what the context leaves. */
  readonly outputLimit: number;
  /** End and stop ids together. */
  readonly stopIds: ReadonlySet<TokenId>;
  readonly choices: readonly Sequence[];
  /** Computes the prompt; in a hand-over it also owns the prompt's blocks. */
  leader: Sequence | undefined;
  /** Choices that wait for the leader to compute the prompt. */
  forks: Sequence[] = [];
  /** Filled while the prompt is computed; undefined when not asked for or already reported. */
  promptLogprobs: TokenLogprob[] | undefined;
  isCachedReported = false;
  /** Its logits were no numbers: K and V of its tokens are not to be read by others. */
  isSpoiled = false;
  /** Choices stopped from outside before they could run here. */
  readonly stopped = new Set<number>();
  /** [ceil(vocabulary / 32)] of `allowedTokenIds`; null: all are. */
  readonly allowedWords: Uint32Array | null;
  readonly #biases: ReadonlyMap<TokenId, number>;
  readonly #earlyBiases: ReadonlyMap<TokenId, number>;

  constructor(request: GenerationRequest, mode: RequestMode, parts: RequestStateParts) {
    const { arrival, deadlines, maxModelTokenCount } = parts;
    this.id = request.id;
    this.mode = mode;
    this.arrival = arrival;
    this.priority = request.priority ?? 0;
    this.deadlines = deadlines;
    this.promptIds = request.promptIds;
    this.sampling = request.sampling;
    this.cacheSalt = request.cacheSalt ?? '';
    this.outputLimit = Math.min(
      request.sampling.maxTokenCount,
      maxModelTokenCount - request.promptIds.length,
    );
    this.stopIds = new Set([...request.sampling.endTokenIds, ...request.sampling.stopTokenIds]);
    this.allowedWords = allowedWords(request.sampling.allowedTokenIds, parts.vocabCount);
    this.#biases = summedBiases(request.sampling.logitBias);
    this.#earlyBiases = new Map([
      ...this.#biases,
      ...[...this.stopIds].map((id) => [id, Number.NEGATIVE_INFINITY] as const),
    ]);
    // then the prompt's part has been reported before
    const hasTokens = request.outputs?.some((ids) => ids.length > 0) === true;
    this.promptLogprobs = request.sampling.promptLogprobCount === null || hasTokens ? undefined : [];
    this.choices = Array.from(
      { length: request.sampling.choiceCount },
      (_, i) => new Sequence(this, i, request.outputs?.[i] ?? []),
    );
  }

  /** Penalties read the token history on the host, so the next step cannot be packed before the last token is
   *  known. */
  get needsHistory(): boolean {
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = this.sampling;
    return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
  }

  /** Who promises nothing comes after who does. */
  get dueMs(): number {
    return this.deadlines?.firstTokenDueMs ?? Number.MAX_VALUE;
  }

  /** Biases on a choice's draw number `drawIndex`, no id twice: the request's own, and minus infinity on all
   *  that would end it too early. */
  biasesAt(drawIndex: number): ReadonlyMap<TokenId, number> {
    return drawIndex < this.sampling.minTokenCount ? this.#earlyBiases : this.#biases;
  }

  get hasGrammar(): boolean {
    return this.sampling.grammar !== undefined;
  }

  get isEnded(): boolean {
    return this.choices.every((choice) => choice.state === 'ended');
  }
}

function allowedWords(ids: readonly TokenId[] | undefined, vocabCount: number): Uint32Array | null {
  if (ids === undefined) return null;
  const words = new Uint32Array(Math.ceil(vocabCount / 32));
  for (const id of ids) words[id >>> 5] = (words[id >>> 5] ?? 0) | (1 << (id & 31));
  return words;
}

/** An id that is named twice is biased once, by the sum: the device adds in no particular order. */
function summedBiases(biases: SamplingParams['logitBias']): ReadonlyMap<TokenId, number> {
  const sums = new Map<TokenId, number>();
  for (const [id, value] of biases) sums.set(id, (sums.get(id) ?? 0) + value);
  return sums;
}

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
  /** What it may draw next; null: it has no grammar, or does not draw here yet. */
  masks: ChoiceMasks | null = null;
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

  /** Its next draw can be packed: with a grammar, the mask for it is there. */
  get canDraw(): boolean {
    if (!this.request.hasGrammar) return true;
    return this.#pendingCount === 0 && this.masks !== null && this.masks.words !== null;
  }

  /** Words of the mask of its next draw; 0: it has none. */
  get maskWordCount(): number {
    return (this.masks?.words ?? this.request.allowedWords)?.length ?? 0;
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
