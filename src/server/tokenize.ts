/** POST /tokenize and /detokenize, in vLLM's shapes. */
import type { z } from 'zod';
import type { Clock } from '../base/clock.js';
import type { TokenId } from '../base/ids.js';
import type { Detokenized } from './api-types.js';
import { encodeChat } from './chat-prompt.js';
import { encodeTexts } from './prompt.js';
import { checkModelName } from './request-options.js';
import { checkedTokenIds } from './sampling.js';
import { requireText, requireTokenizer, type ServedModel } from './served-model.js';
import { detokenizeSchema, tokenizeMessagesSchema, tokenizePromptSchema } from './tokenize-schema.js';
import { type OnParsed, validate } from './validation.js';

/** The answer as a response of its own: a text may have millions of tokens, and their JSON is made without
 *  holding others up. */
export async function tokenize(
  model: ServedModel,
  json: unknown,
  onParsed: OnParsed,
  clock: Clock,
): Promise<Response> {
  const isChat = typeof json === 'object' && json !== null && 'messages' in json;
  const body = isChat
    ? validate(tokenizeMessagesSchema, json, onParsed)
    : validate(tokenizePromptSchema, json, onParsed);
  checkModelName(model, body.model);
  const tokenizer = requireTokenizer(model, isChat ? 'messages' : 'prompt');
  const ids = 'messages' in body ? await encodeChat(model, body) : await encodeText(model, body);
  const tokens = await listJson(ids, String, clock);
  const texts =
    body.return_token_strs === true
      ? await listJson(ids, (id) => JSON.stringify(tokenizer.tokenText(id)), clock)
      : 'null';
  const head = `"count":${ids.length},"max_model_len":${model.maxModelTokenCount}`;
  return new Response(`{${head},"tokens":${tokens},"token_strs":${texts}}`, {
    headers: { 'content-type': 'application/json' },
  });
}

async function encodeText(
  model: ServedModel,
  { prompt, add_special_tokens }: z.output<typeof tokenizePromptSchema>,
): Promise<Int32Array> {
  if (prompt === '') return new Int32Array();
  const [ids = new Int32Array()] = await encodeTexts(
    model,
    [prompt],
    add_special_tokens === false ? 'none' : 'auto',
    'prompt',
  );
  return ids;
}

/** Between two turns of the event loop: a few milliseconds of work. */
const idsPerTurn = 4096;

async function listJson(ids: Int32Array, itemJson: (id: TokenId) => string, clock: Clock): Promise<string> {
  const pieces: string[] = [];
  for (let start = 0; start < ids.length; start += idsPerTurn) {
    if (start > 0) await clock.yield();
    pieces.push(Array.from(ids.subarray(start, start + idsPerTurn), itemJson).join(','));
  }
  return `[${pieces.join(',')}]`;
}

export async function detokenize(
  model: ServedModel,
  json: unknown,
  onParsed: OnParsed,
): Promise<Detokenized> {
  const body = validate(detokenizeSchema, json, onParsed);
  checkModelName(model, body.model);
  const text = requireText(model, 'tokens');
  const [prompt = ''] = await text.decode([checkedTokenIds(model, body.tokens, 'tokens')]);
  return { prompt };
}
