/** Chat messages → the prompt's text, by the model's template. Used by chat.ts and tokenize.ts. */
import { InvalidRequestError } from '../base/errors.js';
import type { ChatTemplate } from '../model/chat-template.js';
import type { ChatBody, ChatMessage } from './chat-schema.js';
import type { ServedModel } from './served-model.js';

export function requireChatTemplate(model: ServedModel): ChatTemplate {
  if (model.chatTemplate !== null) return model.chatTemplate;
  throw new InvalidRequestError('messages: this model has no chat template. Use POST /v1/completions with a prompt.', 'messages');
}

export function renderChat(
  template: ChatTemplate,
  body: Pick<ChatBody, 'messages' | 'chat_template_kwargs'>,
  addGenerationPrompt: boolean,
): string {
  const messages = body.messages.map((message) => ({
    role: message.role === 'developer' ? 'system' : message.role,
    content: contentText(message),
    ...(message.name === undefined || message.name === null ? {} : { name: message.name }),
    ...(message.tool_call_id === undefined || message.tool_call_id === null ? {} : { tool_call_id: message.tool_call_id }),
  }));
  return template.render(messages, { addGenerationPrompt, extra: body.chat_template_kwargs ?? {} });
}

/** Text parts are joined by a line break, as vLLM does for templates that take strings. */
export function contentText({ content }: ChatMessage): string {
  if (typeof content === 'string') return content;
  return (content ?? []).map((part) => part.text).join('\n');
}
