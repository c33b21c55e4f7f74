/** POST /v1/completions: one or more prompts, each its own generation, answered together with indices prompt
 *  × n + choice. */
import { InvalidRequestError } from '../base/errors.js';
import { requestId } from '../base/ids.js';
import { freshId } from '../base/prng.js';
import type { Bundle, Place } from '../control/admission.js';
import type { SamplingParams } from '../engine/sampling-params.js';
import { checkAnswerLength } from './answer-length.js';
import { CompletionFormat } from './completion-format.js';
import { type CompletionBody, completionSchema } from './completion-schema.js';
import { admitted, answer, type Exchange, type ServerContext } from './exchange.js';
import { withForcedLength } from './forced-length.js';
import { Generation } from './generation.js';
import { promptItemsOf, promptsOf, type TokenizedPrompt } from './prompt.js';
import { notSupported } from './request-fields.js';
import { checkModelName, schedulingOf, stopStringsOf, streamOptionsOf } from './request-options.js';
import { samplingParams } from './sampling.js';
import { requireTokenizer } from './served-model.js';
import { grammarOf } from './shapes/grammar.js';
import { shapeOf } from './shapes/shape-fields.js';
import { validate } from './validation.js';

/** OpenAI's and vLLM's default for this endpoint. */
const defaultMaxTokenCount = 16;

/** The answer as JSON-able data; null: streamed. Throws TwostrokeError for what the client should hear
 *  about. */
export async function completion(context: ServerContext, exchange: Exchange, json: unknown): Promise<void> {
  const body = validate(completionSchema, json, exchange.onParsed);
  const { model } = context;
  checkModelName(model, body.model);
  checkCompletion(body);
  if (body.stop || (body.logprobs ?? null) !== null || body.echo === true) {
    requireTokenizer(model, body.stop ? 'stop' : body.echo === true ? 'echo' : 'logprobs');
  }
  const bundle = { promptCount: promptItemsOf(body).length, choiceCount: body.n ?? 1 };
  checkAnswer(context, body, bundle);
  return admitted(context.gateway, bundle, exchange, (place) =>
    answerPrompts(context, exchange, body, place),
  );
}

async function answerPrompts(
  context: ServerContext,
  exchange: Exchange,
  body: CompletionBody,
  place: Place,
): Promise<void> {
  const { model } = context;
  const prompts = await promptsOf(model, body, context.clock);
  const grammar = await grammarOf(model, shapeOf(body), body);
  const sampling = samplingOf(context, body, prompts, grammar);
  const promptTokenCount = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  const areRepeated =
    body.echo === true || body.return_token_ids === true || (body.prompt_logprobs ?? null) !== null;
  checkAnswerLength(
    sampling,
    { count: prompts.length, tokenCount: promptTokenCount, areRepeated },
    body.stream === true,
  );
  const id = freshId('cmpl');
  const text = {
    tokenizer: model.tokenizer,
    stopStrings: stopStringsOf(body.stop),
    stopTokenIds: sampling.stopTokenIds,
    minTokenCount: sampling.minTokenCount,
    includeStop: body.include_stop_str_in_output ?? false,
    special: body.skip_special_tokens === false ? ('keep' as const) : ('skip' as const),
    position: 'continuation' as const,
  };
  const scheduling = schedulingOf(body, exchange);
  const generations = prompts.map(({ ids: promptIds }, index) => {
    const own = {
      maxTokenCount: maxTokenCountOf(context, body, promptIds.length),
      // prompts of one request draw differently even when they are equal
      seed: sampling.seed + index * sampling.choiceCount,
    };
    const idOfPrompt = requestId(prompts.length === 1 ? id : `${id}-${index}`);
    const input = { id: idOfPrompt, promptIds, sampling: { ...sampling, ...own }, place, ...scheduling };
    return new Generation(context, input, text);
  });
  const format = new CompletionFormat(id, context, body, prompts, generations);
  return answer(context, exchange, generations, format, streamOptionsOf(body), place);
}

/** What all prompts share, and the limits of the longest: what that has room for, all have. */
function samplingOf(
  context: ServerContext,
  body: CompletionBody,
  prompts: readonly TokenizedPrompt[],
  grammar: string | undefined,
): SamplingParams {
  const tokenCount = prompts.reduce((longest, { ids }) => Math.max(longest, ids.length), 0);
  const isPromptScored = body.echo === true && (body.logprobs ?? null) !== null;
  const drawn = samplingParams(context.model, body, tokenCount, {
    grammar,
    promptField: 'prompt',
    maxTokens: { field: 'max_tokens', count: maxTokenCountOf(context, body, tokenCount) },
    topLogprobCount: body.logprobs ?? null,
    promptLogprobCount: most(body.prompt_logprobs ?? null, isPromptScored ? (body.logprobs ?? null) : null),
  });
  return withForcedLength(context, body, drawn);
}

/** Of two counts that were asked for or not. */
function most(a: number | null, b: number | null): number | null {
  return a === null || b === null ? (a ?? b) : Math.max(a, b);
}

function maxTokenCountOf({ model }: ServerContext, body: CompletionBody, promptTokenCount: number): number {
  const room = model.maxModelTokenCount - promptTokenCount;
  return Math.max(1, body.max_tokens ?? Math.min(defaultMaxTokenCount, room));
}

/** What is kept of an answer until it is sent is bounded: by the longest answers of all that may be in
 *  flight, since so much one prompt after the other may ask for anyway. */
function checkAnswer(
  { model, gateway }: ServerContext,
  body: CompletionBody,
  { promptCount, choiceCount }: Bundle,
): void {
  const maxTokenCount = Math.max(1, body.max_tokens ?? defaultMaxTokenCount);
  const tokenCount = promptCount * choiceCount * maxTokenCount;
  const tokenCountMax = gateway.choiceCountMax * model.maxModelTokenCount;
  if (promptCount === 1 || tokenCount <= tokenCountMax) return;
  const asked = `${promptCount} prompts × n ${choiceCount} × max_tokens ${maxTokenCount} are ${tokenCount} tokens`;
  throw new InvalidRequestError(
    `prompt: ${asked}, and one request may ask for at most ${tokenCountMax}. Send fewer prompts at a time.`,
    'prompt',
  );
}

function checkCompletion(body: CompletionBody): void {
  if (body.echo === true && (body.truncate_prompt_tokens ?? null) !== null) {
    throw new InvalidRequestError(
      'truncate_prompt_tokens: cannot go with echo, which repeats the whole prompt',
      'truncate_prompt_tokens',
    );
  }
  if (body.max_tokens === 0 && body.echo !== true) {
    throw new InvalidRequestError('max_tokens: 0 is only allowed with "echo": true', 'max_tokens');
  }
  if ((body.best_of ?? null) !== null && body.best_of !== (body.n ?? 1)) {
    throw new InvalidRequestError(`best_of: other values than n are ${notSupported}`, 'best_of');
  }
  if (body.stream === true && (body.prompt_logprobs ?? null) !== null) {
    throw new InvalidRequestError('prompt_logprobs: not available with "stream": true', 'prompt_logprobs');
  }
}
