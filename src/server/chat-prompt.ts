/** Chat messages → prompt ids, by the model's template and tokenizer. Used by chat.ts and tokenize.ts. */
import { InvalidRequestError } from '../base/errors.js';
import { joinedText, type TemplateMessage } from '../model/chat-template.js';
import type { ChatBody, ParsedMessage } from './chat-schema.js';
import { unitCountMaxOf } from './prompt.js';
import { requireText, type ServedModel } from './served-model.js';
import type { ToolDefinition } from './tools/tool-fields.js';
import { withToolPrompt } from './tools/tool-prompt.js';

type ChatFields = Pick<
  ChatBody,
  | 'messages'
  | 'chat_template_kwargs'
  | 'add_generation_prompt'
  | 'continue_final_message'
  | 'add_special_tokens'
> &
  Partial<Pick<ChatBody, 'reasoning_effort' | 'enable_thinking'>>;

/** `tools`: shown to the model. @throws InvalidRequestError for messages that the template refuses, or that
 *  cannot fit. */
export async function encodeChat(
  model: ServedModel,
  body: ChatFields,
  tools: readonly ToolDefinition[] = [],
): Promise<Int32Array> {
  const text = requireText(model, 'messages');
  if (text.templateSource === null) {
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
  const given = body.messages.map(templateMessage);
  const isShown = model.answers?.takesTools === true;
  const messages = isShown || !hasCalls(given, tools) ? given : withToolPrompt(given, tools);
  const options = {
    addGenerationPrompt,
    continueFinalMessage,
    extra: templateVariables(body),
    ...(isShown && tools.length > 0 ? { tools } : {}),
  };
  const addSpecialTokens = body.add_special_tokens === true ? 'auto' : 'none'; // the template writes them itself
  return text.encodeChat({ messages, options }, { addSpecialTokens }, unitCountMaxOf(model));
}

function hasCalls(messages: readonly TemplateMessage[], tools: readonly ToolDefinition[]): boolean {
  return (
    tools.length > 0 || messages.some(({ role, tool_calls: calls }) => role === 'tool' || calls !== undefined)
  );
}

function templateVariables(body: ChatFields): Readonly<Record<string, unknown>> {
  const { reasoning_effort: effort = null, enable_thinking: enabled = null } = body;
  const thinking = enabled ?? (effort === 'none' ? false : null);
  return {
    ...(effort === null ? {} : { reasoning_effort: effort }),
    ...(thinking === null ? {} : { enable_thinking: thinking, thinking }),
    ...body.chat_template_kwargs,
  };
}

function templateMessage(message: ParsedMessage): TemplateMessage {
  const { role, content, name, tool_call_id } = message;
  const reasoning =
    message.reasoning_content ?? (typeof message.reasoning === 'string' ? message.reasoning : null);
  return {
    role: role === 'developer' ? 'system' : role,
    content: content ?? '',
    ...(name === undefined || name === null ? {} : { name }),
    ...(tool_call_id === undefined || tool_call_id === null ? {} : { tool_call_id }),
    ...(reasoning === null ? {} : { reasoning_content: reasoning }),
    ...(message.tool_calls?.length ? { tool_calls: message.tool_calls.map(templateCall) } : {}),
  };
}

/** Templates take arguments as values; a text that is no JSON stays one. */
function templateCall({ id, function: called }: NonNullable<ParsedMessage['tool_calls']>[number]): object {
  return {
    ...(id === null || id === undefined ? {} : { id }),
    type: 'function',
    function: { name: called.name, arguments: argumentsOf(called.arguments ?? {}) },
  };
}

function argumentsOf(given: string | object): unknown {
  if (typeof given !== 'string') return given;
  try {
    return JSON.parse(given === '' ? '{}' : given);
  } catch {
    return given;
  }
}

export function contentText({ content }: ParsedMessage): string {
  return joinedText(content);
}
