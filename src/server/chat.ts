/** POST /v1/chat/completions: messages → prompt ids by the model's chat template → a generation → OpenAI's
 *  chat shapes. */
import { InvalidRequestError } from '../base/errors.js';
import { requestId } from '../base/ids.js';
import { freshId } from '../base/prng.js';
import type { Place } from '../control/admission.js';
import type { Shape } from '../grammar/shapes.js';
import { checkAnswerLength } from './answer-length.js';
import { ChatFormat } from './chat-format.js';
import { encodeChat } from './chat-prompt.js';
import { type ChatBody, chatSchema } from './chat-schema.js';
import { admitted, answer, type Exchange, type ServerContext } from './exchange.js';
import { withForcedLength } from './forced-length.js';
import { Generation } from './generation.js';
import { promptIds } from './prompt.js';
import { checkModelName, schedulingOf, stopStringsOf, streamOptionsOf } from './request-options.js';
import { samplingParams } from './sampling.js';
import { requireTokenizer } from './served-model.js';
import { grammarOf } from './shapes/grammar.js';
import { type FieldShape, shapeOf } from './shapes/shape-fields.js';
import {
  type AnswerStyle,
  formatOf,
  plainStyle,
  readerOf,
  readsSpecial,
  type ThinkStart,
  thinkStartOf,
  withReasoning,
} from './tools/answer-style.js';
import { type ToolUse, toolShape, toolUseOf } from './tools/tool-fields.js';
import { validate } from './validation.js';

/** The answer as JSON-able data; null: streamed. Throws TwostrokeError for what the client should hear
 *  about. */
export async function chatCompletion(
  context: ServerContext,
  exchange: Exchange,
  json: unknown,
): Promise<void> {
  const body = validate(chatSchema, json, exchange.onParsed);
  const { model } = context;
  checkModelName(model, body.model);
  checkChat(body);
  const bundle = { promptCount: 1, choiceCount: body.n ?? 1 };
  return admitted(context.gateway, bundle, exchange, (place) => answerChat(context, exchange, body, place));
}

async function answerChat(
  context: ServerContext,
  exchange: Exchange,
  body: ChatBody,
  place: Place,
): Promise<void> {
  const { model } = context;
  const tokenizer = requireTokenizer(model, 'messages');
  const toolUse = toolUseOf(body);
  const ids = promptIds(model, await encodeChat(model, body, toolUse?.tools), 'messages', body);
  const style = model.answers ?? plainStyle;
  const start = thinkStartOf(tokenizer.decode(ids.slice(-8), { special: 'keep' }));
  const grammar = await grammarOf(model, chatShape(body, toolUse, style, start), body);
  const drawn = samplingParams(model, body, ids.length, {
    grammar,
    promptField: 'messages',
    maxTokens: chatMaxTokens(body),
    topLogprobCount: body.logprobs === true ? (body.top_logprobs ?? 0) : null,
    promptLogprobCount: body.prompt_logprobs ?? null,
  });
  const sampling = withForcedLength(context, body, drawn);
  checkAnswerLength(sampling, { count: 1, tokenCount: ids.length, areRepeated: false }, body.stream === true);
  const id = freshId('chatcmpl');
  const generation = new Generation(
    context,
    { id: requestId(id), promptIds: ids, sampling, place, ...schedulingOf(body, exchange) },
    {
      tokenizer,
      stopStrings: stopStringsOf(body.stop),
      stopTokenIds: sampling.stopTokenIds,
      minTokenCount: sampling.minTokenCount,
      includeStop: body.include_stop_str_in_output ?? false,
      special: body.skip_special_tokens === false || readsSpecial(style, toolUse !== null) ? 'keep' : 'skip',
      position: body.continue_final_message === true ? 'continuation' : 'start',
    },
  );
  const newReader = () => readerOf(style, toolUse !== null, start);
  const format = new ChatFormat(id, context, { body, toolUse, newReader }, generation, tokenizer);
  return answer(context, exchange, [generation], format, streamOptionsOf(body), place);
}

/** What was asked for, or calls; after the reasoning. */
function chatShape(
  body: ChatBody,
  toolUse: ToolUse | null,
  style: AnswerStyle,
  start: ThinkStart,
): FieldShape | null {
  const field = shapeOf(body);
  const calls = toolUse === null ? null : toolShape(toolUse, formatOf(style), field !== null);
  if (toolUse !== null && calls !== null) {
    const isForced = toolUse.choice !== 'auto';
    if (isForced || field === null)
      return { shape: withReasoning(calls, style, start, true), param: isForced ? 'tool_choice' : 'tools' };
    const either: Shape = { kind: 'choice', items: [field.shape, calls] };
    return { shape: withReasoning(either, style, start, false), param: field.param };
  }
  return field === null ? null : { ...field, shape: withReasoning(field.shape, style, start, false) };
}

function checkChat(body: ChatBody): void {
  if ((body.top_logprobs ?? 0) > 0 && body.logprobs !== true) {
    throw new InvalidRequestError('top_logprobs: needs "logprobs": true', 'top_logprobs');
  }
  if (body.stream === true && (body.prompt_logprobs ?? null) !== null) {
    throw new InvalidRequestError('prompt_logprobs: not available with "stream": true', 'prompt_logprobs');
  }
}

function chatMaxTokens(body: ChatBody): { field: string; count: number | null } {
  const field = (body.max_completion_tokens ?? null) === null ? 'max_tokens' : 'max_completion_tokens';
  return { field, count: body.max_completion_tokens ?? body.max_tokens ?? null };
}
