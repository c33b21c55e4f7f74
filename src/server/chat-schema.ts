/** The body of POST /v1/chat/completions. */
import { z } from 'zod';
import {
  ignoredFields,
  isEmptyArray,
  listOf,
  recordOf,
  responseFields,
  samplingFields,
  schedulingFields,
  topLogprobCountMax,
  unsupported,
  unsupportedFields,
} from './request-fields.js';
import { shapeFields } from './shapes/shape-fields.js';
import { toolFields } from './tools/tool-fields.js';

const textPart = z.object(
  { type: z.literal('text', 'only content parts of type "text" are supported'), text: z.string() },
  { error: 'expected a content part {"type": "text", "text": …}' },
);

const toolCall = z.object({
  id: z.string().nullish(),
  type: z.literal('function').nullish(),
  index: z.unknown().optional(),
  function: z.object({
    name: z.string(),
    arguments: z.union([z.string(), z.record(z.string(), z.unknown())]).nullish(),
  }),
});

/** What assistant messages carry when a client sends back what it was given. */
const echoedFields = {
  refusal: z.unknown().optional(),
  annotations: z.unknown().optional(),
  audio: unsupported(),
  tool_calls: listOf(toolCall, { countMax: 128 }).nullish(),
  function_call: unsupported(),
  reasoning_content: z.string().nullish(),
  reasoning: z.unknown().optional(),
};

const messageSchema = z.object({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: z
    .union([z.string(), listOf(textPart)], { error: 'expected a string or a list of text parts' })
    .nullish(),
  name: z.string().nullish(),
  tool_call_id: z.string().nullish(),
  ...echoedFields,
});

export const chatTemplateFields = {
  messages: listOf(messageSchema, { emptyMessage: 'at least one message is needed' }),
  add_generation_prompt: z.boolean().nullish(),
  continue_final_message: z.boolean().nullish(),
  chat_template_kwargs: recordOf<unknown>(() => null).nullish(),
  chat_template: unsupported(),
  documents: unsupported(isEmptyArray),
};

export const chatSchema = z.object({
  ...samplingFields,
  ...responseFields,
  ...schedulingFields,
  ...ignoredFields,
  ...unsupportedFields,
  ...shapeFields,
  ...chatTemplateFields,
  max_tokens: z.int().min(1).nullish(),
  max_completion_tokens: z.int().min(1).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(topLogprobCountMax).nullish(),
  ...toolFields,
  reasoning_effort: z.string().nullish(),
  enable_thinking: z.boolean().nullish(),
  include_reasoning: z.boolean().nullish(),
  functions: unsupported(isEmptyArray),
  function_call: unsupported((value) => value === 'none'),
  modalities: unsupported((value) => Array.isArray(value) && value.every((kind) => kind === 'text')),
  audio: unsupported(),
  prediction: unsupported(),
  web_search_options: unsupported(),
});

export type ParsedMessage = z.output<typeof messageSchema>;
export type ChatBody = z.output<typeof chatSchema>;
