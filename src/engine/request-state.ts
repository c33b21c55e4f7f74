/** One request inside the engine: n choices over one prompt. The prompt is computed once, by the leading
 *  choice; the others fork from it. Made by engine.ts, changed by the scheduler and commit. */
import { ContextLengthError, InvalidRequestError } from '../base/errors.js';
import type { RequestId, TokenId } from '../base/ids.js';
import type { GenerationRequest } from './generation-request.js';
import type { Deadlines } from './pacer.js';
import type { SamplingParams } from './sampling-params.js';
import { Sequence } from './sequence.js';
import type { TokenLogprob } from './token-event.js';

/** generate: prompt and decode here. prefill: prompt and first tokens, then hold. reserved: decode here what
 *  was prefilled elsewhere. */
export type RequestMode = 'generate' | 'prefill' | 'reserved';

interface RequestStateParts {
  /** Requests are numbered as they come. */
  readonly arrival: number;
  readonly deadlines: Deadlines | null;
  readonly maxModelTokenCount: number;
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

  get isEnded(): boolean {
    return this.choices.every((choice) => choice.state === 'ended');
  }
}

/** An id that is named twice is biased once, by the sum: the device adds in no particular order. */
function summedBiases(biases: SamplingParams['logitBias']): ReadonlyMap<TokenId, number> {
  const sums = new Map<TokenId, number>();
  for (const [id, value] of biases) sums.set(id, (sums.get(id) ?? 0) + value);
  return sums;
}

interface RequestLimits {
  readonly vocabCount: number;
  readonly maxModelTokenCount: number;
  readonly sequenceCountMax: number;
  readonly blockCount: number;
  readonly blockTokenCount: number;
  readonly topLogprobCountMax: number;
}

/** Throws InvalidRequestError for what this engine can never do. */
export function validateRequest(request: GenerationRequest, mode: RequestMode, limits: RequestLimits): void {
  const { promptIds, sampling, outputs } = request;
  const reject = (message: string, param: string) => {
    throw new InvalidRequestError(message, param);
  };
  if (promptIds.length === 0) reject('the prompt is empty: give at least one token', 'prompt');
  const isId = (id: number) => Number.isInteger(id) && id >= 0 && id < limits.vocabCount;
  const strange = promptIds.find((id) => !isId(id)) ?? outputs?.flat().find((id) => !isId(id));
  if (strange !== undefined)
    reject(`token id ${strange} is not in the vocabulary of ${limits.vocabCount}`, 'prompt');
  if (sampling.choiceCount < 1 || sampling.choiceCount > limits.sequenceCountMax) {
    reject(`n must be between 1 and ${limits.sequenceCountMax}, not ${sampling.choiceCount}`, 'n');
  }
  if (outputs !== undefined && outputs.length > sampling.choiceCount)
    reject('more outputs than choices', 'outputs');
  if (mode !== 'generate' && sampling.choiceCount > 1 && outputs?.some((ids) => ids.length > 0) === true) {
    reject('a hand-over with tokens already generated takes one choice', 'n');
  }
  for (const count of [sampling.topLogprobCount, sampling.promptLogprobCount]) {
    if (count !== null && (count < 0 || count > limits.topLogprobCountMax)) {
      reject(`at most ${limits.topLogprobCountMax} alternatives a token, not ${count}`, 'top_logprobs');
    }
  }
  const biased = sampling.logitBias.find(([id]) => !isId(id));
  if (biased !== undefined)
    reject(`logit_bias names token ${biased[0]}, the vocabulary has ${limits.vocabCount}`, 'logit_bias');
  // a model's own end ids may be stranger: they are never drawn
  const stop = sampling.stopTokenIds.find((id) => !isId(id));
  if (stop !== undefined)
    reject(`stop token ${stop} is not in the vocabulary of ${limits.vocabCount}`, 'stop_token_ids');
  validateNumbers(sampling);
  validateRoom(request, limits);
}

/** What the sampler multiplies and adds must be numbers; a bias of minus infinity forbids. */
function validateNumbers(sampling: SamplingParams): void {
  const { temperature, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } =
    sampling;
  const numbers = { temperature, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty };
  for (const [name, value] of Object.entries(numbers)) {
    if (!Number.isFinite(value))
      throw new InvalidRequestError(`${name} must be a number, not ${value}`, name);
  }
  if (!(repetitionPenalty > 0)) {
    throw new InvalidRequestError(
      `repetitionPenalty must be above 0, not ${repetitionPenalty}`,
      'repetition_penalty',
    );
  }
  const strange = logitBias.find(([, value]) => Number.isNaN(value) || value === Number.POSITIVE_INFINITY);
  if (strange !== undefined)
    throw new InvalidRequestError(`logit_bias of token ${strange[0]} is ${strange[1]}`, 'logit_bias');
}

function validateRoom({ promptIds, sampling }: GenerationRequest, limits: RequestLimits): void {
  const roomNeeded = promptIds.length + Math.min(1, sampling.maxTokenCount);
  if (roomNeeded > limits.maxModelTokenCount) {
    throw new ContextLengthError(
      `the prompt has ${promptIds.length} tokens; the context of ${limits.maxModelTokenCount} leaves no room for an answer: shorten it`,
      'prompt',
    );
  }
  const tokenCount = Math.min(promptIds.length + sampling.maxTokenCount, limits.maxModelTokenCount);
  const blockCount = Math.ceil(tokenCount / limits.blockTokenCount);
  if (blockCount > limits.blockCount) {
    throw new ContextLengthError(
      `prompt and answer may need ${tokenCount} tokens (${blockCount} KV blocks), this worker has ${limits.blockCount} blocks: ` +
        'lower max_tokens, shorten the prompt, or give the worker more KV memory',
      'max_tokens',
    );
  }
}
