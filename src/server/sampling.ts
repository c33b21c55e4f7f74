/** Request fields and the model's own defaults → SamplingParams with every value explicit. Used by chat.ts
 *  and completions.ts. Order of precedence: the request, generation_config.json, OpenAI's default. */
import { ContextLengthError, InvalidRequestError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { freshSeed } from '../base/prng.js';
import type { SamplingParams } from '../engine/sampling-params.js';
import type { ChatBody } from './chat-schema.js';
import type { CompletionBody } from './completion-schema.js';
import type { ServedModel } from './served-model.js';

/** What the two bodies name differently. */
interface SamplingExtras {
  /** The field the prompt came in, for error messages. */
  readonly promptField: string;
  /** The field the limit came from, for the error message; null count: the rest of the context. */
  readonly maxTokens: { readonly field: string; readonly count: number | null };
  readonly topLogprobCount: number | null;
  readonly promptLogprobCount: number | null;
  /** What the text must be, as packShape writes it. */
  readonly grammar?: string | undefined;
}

type SamplingBody = Pick<
  ChatBody & CompletionBody,
  | 'temperature'
  | 'top_p'
  | 'top_k'
  | 'min_p'
  | 'presence_penalty'
  | 'frequency_penalty'
  | 'repetition_penalty'
  | 'logit_bias'
  | 'allowed_token_ids'
  | 'seed'
  | 'n'
  | 'stop_token_ids'
  | 'ignore_eos'
  | 'min_tokens'
>;

/** Throws ContextLengthError when prompt and limits do not fit the context, InvalidRequestError when ids lie
 *  outside the vocabulary. */
export function samplingParams(
  model: ServedModel,
  body: SamplingBody,
  promptTokenCount: number,
  extras: SamplingExtras,
): SamplingParams {
  const maxTokenCount = checkedMaxTokens(model, promptTokenCount, extras);
  const minTokenCount = body.min_tokens ?? 0;
  if (minTokenCount > maxTokenCount) {
    throw new InvalidRequestError(
      `min_tokens: ${minTokenCount} is more than the ${maxTokenCount} tokens allowed`,
      'min_tokens',
    );
  }
  const { defaults } = model;
  const topP = body.top_p ?? defaults.topP ?? 1;
  return {
    temperature: isNothing(topP) ? 0 : (body.temperature ?? defaults.temperature ?? 1),
    topK: topKOf(model, body.top_k ?? defaults.topK ?? 0),
    topP: isNothing(topP) ? 1 : topP,
    minP: body.min_p ?? defaults.minP ?? 0,
    repetitionPenalty: body.repetition_penalty ?? defaults.repetitionPenalty ?? 1,
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    logitBias: logitBias(model, body.logit_bias ?? {}),
    ...allowedTokens(model, body.allowed_token_ids ?? null),
    ...(extras.grammar === undefined ? {} : { grammar: extras.grammar }),
    seed: body.seed === null || body.seed === undefined ? freshSeed() : foldedSeed(body.seed),
    choiceCount: body.n ?? 1,
    maxTokenCount,
    minTokenCount,
    endTokenIds: body.ignore_eos === true ? [] : model.defaults.endTokenIds,
    stopTokenIds: checkedTokenIds(model, body.stop_token_ids ?? [], 'stop_token_ids'),
    topLogprobCount: extras.topLogprobCount,
    promptLogprobCount: extras.promptLogprobCount,
  };
}

export function checkPromptFits(
  { maxModelTokenCount: context }: ServedModel,
  promptTokenCount: number,
  param: string,
): void {
  if (promptTokenCount < context) return;
  throw new ContextLengthError(
    `${param}: this model's maximum context length is ${context} tokens. The prompt has ${promptTokenCount} tokens and at least 1 must be generated. Shorten the prompt.`,
    param,
  );
}

/** As vLLM: a prompt needs room for at least one token, and an explicit limit must fit behind it. */
function checkedMaxTokens(model: ServedModel, promptTokenCount: number, extras: SamplingExtras): number {
  const limit = extras.maxTokens;
  const context = model.maxModelTokenCount;
  const room = context - promptTokenCount;
  checkPromptFits(model, promptTokenCount, extras.promptField);
  if (limit.count !== null && limit.count > room) {
    throw new ContextLengthError(
      `${limit.field}: this model's maximum context length is ${context} tokens, but ${promptTokenCount + limit.count} were asked for (${promptTokenCount} in the prompt, ${limit.count} to generate). Shorten the prompt or lower ${limit.field}.`,
      limit.field,
    );
  }
  return limit.count ?? Math.min(room, model.defaults.maxTokenCount ?? room);
}

/** An empty list is none, as in vLLM. */
function allowedTokens(
  model: ServedModel,
  ids: readonly TokenId[] | null,
): { allowedTokenIds?: readonly TokenId[] } {
  if (ids === null || ids.length === 0) return {};
  return { allowedTokenIds: checkedTokenIds(model, ids, 'allowed_token_ids') };
}

function logitBias(
  model: ServedModel,
  bias: Readonly<Record<string, number>>,
): readonly (readonly [TokenId, number])[] {
  const biasOf = new Map<TokenId, number>(); // "7" and "07" are one token
  for (const [key, value] of Object.entries(bias)) {
    const id = /^\d+$/.test(key) ? Number(key) : Number.NaN;
    if (!(id < model.vocabCount)) {
      throw new InvalidRequestError(
        `logit_bias: "${key}" is not a token id (0 to ${model.vocabCount - 1})`,
        'logit_bias',
      );
    }
    biasOf.set(id, value);
  }
  return [...biasOf];
}

/** Nothing but the likeliest token is left: greedy. The device reads 32-bit floats. */
function isNothing(topP: number): boolean {
  return Math.fround(topP) === 0;
}

/** 0: off. The device reads 32-bit integers. */
function topKOf(model: ServedModel, topK: number): number {
  return topK < 0 || topK >= model.vocabCount ? 0 : topK;
}

export function checkedTokenIds(
  model: ServedModel,
  ids: readonly TokenId[],
  field: string,
): readonly TokenId[] {
  const bad = ids.find((id) => id >= model.vocabCount);
  if (bad === undefined) return ids;
  throw new InvalidRequestError(`${field}: ${bad} is not a token id (0 to ${model.vocabCount - 1})`, field);
}

const seedBits = 52;

/** Any 64-bit seed as one of 52 bits; those below 2^52 stay. Further down a choice's number is added to it,
 *  which must be exact: 2^53 is where numbers stop being so. */
function foldedSeed(seed: number): number {
  const whole = seed === 2 ** 63 ? 2n ** 63n - 1n : BigInt(seed); // what JSON.parse makes of the largest one
  const bits = BigInt.asUintN(64, whole);
  const topBits = bits >> BigInt(seedBits);
  return Number(BigInt.asUintN(seedBits, bits) ^ (topBits << BigInt(seedBits - 12)));
}
