/** POST /tokenize and /detokenize, in vLLM's shapes, and /apply-template. */
import type { z } from 'zod';
import type { Detokenized, Tokenized } from './api-types.js';
import { encodeChat } from './chat-prompt.js';
import { LongList, mapped, type WithLongLists } from './json-answer.js';
import { encodeTexts } from './prompt.js';
import { checkModelName } from './request-options.js';
import { checkedTokenIds } from './sampling.js';
import { requireText, requireTokenizer, type ServedModel } from './served-model.js';
import { detokenizeSchema, tokenizeMessagesSchema, tokenizePromptSchema } from './tokenize-schema.js';
import { type OnParsed, validate } from './validation.js';

/** A text may have very many tokens: they are given in long lists. */
export async function tokenize(
  model: ServedModel,
  json: unknown,
  onParsed: OnParsed,
): Promise<WithLongLists<Tokenized>> {
  const isChat = typeof json === 'object' && json !== null && 'messages' in json;
  const body = isChat
    ? validate(tokenizeMessagesSchema, json, onParsed)
    : validate(tokenizePromptSchema, json, onParsed);
  checkModelName(model, body.model);
  const tokenizer = requireTokenizer(model, isChat ? 'messages' : 'prompt');
  const ids =
    'messages' in body ? await encodeChat(model, body, body.tools ?? []) : await encodeText(model, body);
  const texts = new LongList(() => mapped(ids, (id) => tokenizer.tokenText(id)));
  return {
    count: ids.length,
    max_model_len: model.maxModelTokenCount,
    tokens: new LongList(() => ids),
    token_strs: body.return_token_strs === true ? texts : null,
  };
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

export async function detokenize(
  model: ServedModel,
  json: unknown,
  onParsed: OnParsed,
): Promise<Detokenized> {
  const body = validate(detokenizeSchema, json, onParsed);
  checkModelName(model, body.model);
  const text = requireText(model, 'tokens');
  const ids = checkedTokenIds(model, body.tokens, 'tokens');
  const [prompt = ''] = await text.decode([ids]);
  return { prompt };
}

/** POST /apply-template: the prompt that messages become, as llama.cpp's server answers it. */
export async function applyTemplate(
  model: ServedModel,
  json: unknown,
  onParsed: OnParsed,
): Promise<Detokenized> {
  const body = validate(tokenizeMessagesSchema, json, onParsed);
  checkModelName(model, body.model);
  const ids = await encodeChat(model, body, body.tools ?? []);
  const [prompt = ''] = await requireText(model, 'messages').decode([[...ids]]);
  return { prompt };
}
