/** A program's prompt, in any of its three forms, as token ids. Used by local-model.ts and `twostroke
 *  generate`. */
import { z } from 'zod';
import { InvalidRequestError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { encodeChat } from '../server/chat-prompt.js';
import { chatTemplateFields } from '../server/chat-schema.js';
import { encodeTexts, promptIds } from '../server/prompt.js';
import { tokenIds } from '../server/request-fields.js';
import { checkedTokenIds } from '../server/sampling.js';
import type { ServedModel } from '../server/served-model.js';
import { validate } from '../server/validation.js';

export interface EncodedPrompt {
  readonly ids: readonly TokenId[];
  /** Whether the answer begins a text or goes on with the prompt's. */
  readonly position: 'start' | 'continuation';
}

const idsSchema = z.object({ prompt: tokenIds });
const messagesSchema = z.object({ messages: chatTemplateFields.messages });
const nothingKept = () => undefined;

/** @throws InvalidRequestError for a prompt that is none, empty, or cannot fit. */
export async function encoded(model: ServedModel, prompt: unknown): Promise<EncodedPrompt> {
  if (typeof prompt === 'string') {
    const [ids = new Int32Array()] = await encodeTexts(model, [prompt], 'auto', 'prompt');
    return { ids: promptIds(model, ids, 'prompt'), position: 'continuation' };
  }
  if (!Array.isArray(prompt) || prompt.length === 0) {
    throw new InvalidRequestError(
      'prompt: expected text, or a list of chat messages or token ids that is not empty',
      'prompt',
    );
  }
  if (typeof prompt[0] === 'number') {
    const given = validate(idsSchema, { prompt }, nothingKept);
    return { ids: checkedTokenIds(model, given.prompt, 'prompt'), position: 'continuation' };
  }
  const body = validate(messagesSchema, { messages: prompt }, nothingKept);
  const ids = await encodeChat(model, body);
  return { ids: promptIds(model, ids, 'messages'), position: 'start' };
}
