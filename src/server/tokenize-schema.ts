/** The bodies of POST /tokenize, in its two forms, and /detokenize. */
import { z } from 'zod';
import { chatTemplateFields } from './chat-schema.js';
import { tokenIds } from './request-fields.js';
import { toolFields } from './tools/tool-fields.js';

const tokenizeFields = {
  model: z.string().nullish(),
  add_special_tokens: z.boolean().nullish(),
  return_token_strs: z.boolean().nullish(),
};
export const tokenizePromptSchema = z.object({ ...tokenizeFields, prompt: z.string() });
export const tokenizeMessagesSchema = z.object({
  ...tokenizeFields,
  ...chatTemplateFields,
  tools: toolFields.tools,
});
export const detokenizeSchema = z.object({ model: z.string().nullish(), tokens: tokenIds });
