/** Refuses what this engine can never do, before a request is queued. Used by engine.ts. */
import { ContextLengthError, InvalidRequestError } from '../base/errors.js';
import type { GenerationRequest } from './generation-request.js';
import type { SamplingParams } from './sampling-params.js';
import type { RequestMode } from './sequence.js';

interface RequestLimits {
  readonly vocabCount: number;
  readonly maxModelTokenCount: number;
  readonly sequenceCountMax: number;
  readonly blockCount: number;
  readonly blockTokenCount: number;
  readonly topLogprobCountMax: number;
  readonly hasMasks: boolean;
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
  const allowed = sampling.allowedTokenIds?.find((id) => !isId(id));
  if (allowed !== undefined)
    reject(`token ${allowed} is not in the vocabulary of ${limits.vocabCount}`, 'allowed_token_ids');
  if (sampling.grammar !== undefined && !limits.hasMasks)
    reject('this engine enforces no grammars', 'structured_outputs');
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
