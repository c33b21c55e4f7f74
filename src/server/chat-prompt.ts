/** Chat messages → prompt ids, by the model's template and tokenizer. Used by chat.ts and tokenize.ts. */
import { InvalidRequestError } from '../base/errors.js';
import { joinedText, type TemplateMessage } from '../model/chat-template.js';
import type { ChatBody, ParsedMessage } from './chat-schema.js';
import { unitCountMaxOf } from './prompt.js';
import { requireText, type ServedModel } from './served-model.js';

type ChatFields = Pick<
  ChatBody,
  | 'messages'
  | 'chat_template_kwargs'
  | 'add_generation_prompt'
  | 'continue_final_message'
  | 'add_special_tokens'
>;

/** @throws InvalidRequestError for messages that the template refuses, or that cannot fit. */
export async function encodeChat(model: ServedModel, body: ChatFields): Promise<Int32Array> {
  const text = requireText(model, 'messages');
  if (!text.hasChatTemplate) {
    throw new InvalidRequestError(
      'messages: this model has no chat template. Give a prompt instead (POST /v1/completions).',
      'messages',
    );
  }
  const continueFinalMessage = body.continue_final_message ?? false;
  const addGenerationPrompt = body.add_generation_prompt ?? !continueFinalMessage;
  if (continueFinalMessage && addGenerationPrompt) {
    throw new InvalidRequestError(
      'continue_final_message: cannot be true together with add_generation_prompt; leave one out',
      'continue_final_message',
    );
  }
  const messages = body.messages.map(templateMessage);
  const options = { addGenerationPrompt, continueFinalMessage, extra: body.chat_template_kwargs ?? {} };
  const addSpecialTokens = body.add_special_tokens === true ? 'auto' : 'none'; // the template writes them itself
  return text.encodeChat({ messages, options }, { addSpecialTokens }, unitCountMaxOf(model));
}

function templateMessage({ role, content, name, tool_call_id }: ParsedMessage): TemplateMessage {
  return {
    role: role === 'developer' ? 'system' : role,
    content: content ?? '',
    ...(name === undefined || name === null ? {} : { name }),
    ...(tool_call_id === undefined || tool_call_id === null ? {} : { tool_call_id }),
  };
}

export function contentText({ content }: ParsedMessage): string {
  return joinedText(content);
}
