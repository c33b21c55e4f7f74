/** POST /v1/completions: one or more prompts, each its own generation, answered together with indices prompt × n + choice. */
import { InvalidRequestError } from '../base/errors.js';
import { requestId } from '../base/ids.js';
import { freshId } from '../base/prng.js';
import { CompletionFormat } from './completion-format.js';
import { type CompletionBody, completionSchema } from './completion-schema.js';
import { answer, type Exchange, type ServerContext } from './exchange.js';
import { withForcedLength } from './forced-length.js';
import { Generation } from './generation.js';
import { type Prompt, promptsOf } from './prompt.js';
import { notSupported } from './request-fields.js';
import { checkModelName, schedulingOf, stopStringsOf, streamOptionsOf } from './request-options.js';
import { samplingParams } from './sampling.js';
import { requireTokenizer } from './served-model.js';
import { validate } from './validation.js';

/** OpenAI's and vLLM's default for this endpoint. */
const defaultMaxTokenCount = 16;

/** The answer as JSON-able data; null: streamed. Throws TwostrokeError for what the client should hear about. */
export async function completion(context: ServerContext, exchange: Exchange, json: unknown): Promise<object | null> {
  const body = validate(completionSchema, json, exchange.onParsed);
  const { model } = context;
  checkModelName(model, body.model);
  checkCompletion(body);
  if (body.stop || (body.logprobs ?? null) !== null || body.echo === true) {
    requireTokenizer(model, body.stop ? 'stop' : body.echo === true ? 'echo' : 'logprobs');
  }
  const options = streamOptionsOf(body);
  const prompts = await promptsOf(model, body);
  const inputs = prompts.map((prompt, index) => inputOf(context, body, prompt, index));
  const id = freshId('cmpl');
  const generations = inputs.map(
    ({ sampling, ids }, index) =>
      new Generation(
        context,
        {
          id: requestId(prompts.length === 1 ? id : `${id}-${index}`),
          promptIds: ids,
          sampling,
          ...schedulingOf(body, exchange.caller),
        },
        {
          tokenizer: model.tokenizer,
          stopStrings: stopStringsOf(body.stop),
          stopTokenIds: sampling.stopTokenIds,
          minTokenCount: sampling.minTokenCount,
          includeStop: body.include_stop_str_in_output ?? false,
          special: body.skip_special_tokens === false ? 'keep' : 'skip',
          position: 'continuation',
        },
      ),
  );
  return answer(context, exchange, generations, new CompletionFormat(id, context, body, prompts, generations), options);
}

function inputOf(context: ServerContext, body: CompletionBody, prompt: Prompt, index: number) {
  const requested = body.max_tokens ?? null;
  const room = context.model.maxModelTokenCount - prompt.ids.length;
  const count = requested === null ? Math.max(1, Math.min(defaultMaxTokenCount, room)) : Math.max(1, requested);
  const isPromptScored = body.echo === true && (body.logprobs ?? null) !== null;
  const drawn = samplingParams(context.model, body, prompt.ids.length, {
    promptField: 'prompt',
    maxTokens: { field: 'max_tokens', count },
    topLogprobCount: body.logprobs ?? null,
    promptLogprobCount: body.prompt_logprobs ?? (isPromptScored ? (body.logprobs ?? null) : null),
  });
  const sampling = withForcedLength(context, body, drawn);
  // Prompts of one request draw differently even when they are equal.
  return { ids: prompt.ids, sampling: { ...sampling, seed: sampling.seed + index * sampling.choiceCount } };
}

function checkCompletion(body: CompletionBody): void {
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
