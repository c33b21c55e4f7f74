/** POST /tokenize and /detokenize, in vLLM's shapes. */
import { z } from 'zod';
import { renderChat, requireChatTemplate } from './chat-prompt.js';
import { chatTemplateFields } from './chat-schema.js';
import { encodePrompt } from './prompt.js';
import { tokenIds } from './request-fields.js';
import { checkModelName } from './request-options.js';
import { checkedTokenIds } from './sampling.js';
import { requireTokenizer, type ServedModel } from './served-model.js';
import { type OnParsed, validate } from './validation.js';

const tokenizeFields = {
  model: z.string().nullish(),
  add_special_tokens: z.boolean().nullish(),
  return_token_strs: z.boolean().nullish(),
};
const promptSchema = z.object({ ...tokenizeFields, prompt: z.string() });
const messagesSchema = z.object({ ...tokenizeFields, ...chatTemplateFields });
const detokenizeSchema = z.object({ model: z.string().nullish(), tokens: tokenIds });

export async function tokenize(model: ServedModel, json: unknown, onParsed: OnParsed): Promise<object> {
  const isChat = typeof json === 'object' && json !== null && 'messages' in json;
  const { text, addSpecialTokens, body } = isChat ? chatText(model, json, onParsed) : promptText(json, onParsed);
  checkModelName(model, body.model);
  const param = isChat ? 'messages' : 'prompt';
  const tokenizer = requireTokenizer(model, param);
  const tokens = text === '' ? [] : await encodePrompt(model, text, addSpecialTokens, param);
  return {
    count: tokens.length,
    max_model_len: model.maxModelTokenCount,
    tokens,
    token_strs: body.return_token_strs === true ? tokens.map((id) => tokenizer.tokenText(id)) : null,
  };
}

function promptText(json: unknown, onParsed: OnParsed) {
  const body = validate(promptSchema, json, onParsed);
  return { body, text: body.prompt, addSpecialTokens: body.add_special_tokens === false ? ('none' as const) : ('auto' as const) };
}

/** The template writes the special tokens itself. */
function chatText(model: ServedModel, json: unknown, onParsed: OnParsed) {
  const body = validate(messagesSchema, json, onParsed);
  const text = renderChat(requireChatTemplate(model), body, body.add_generation_prompt ?? true);
  return { body, text, addSpecialTokens: body.add_special_tokens === true ? ('auto' as const) : ('none' as const) };
}

export function detokenize(model: ServedModel, json: unknown, onParsed: OnParsed): object {
  const body = validate(detokenizeSchema, json, onParsed);
  checkModelName(model, body.model);
  const tokenizer = requireTokenizer(model, 'tokens');
  return { prompt: tokenizer.decode(checkedTokenIds(model, body.tokens, 'tokens'), { special: 'keep' }) };
}
