/** The package's entry `twostroke/client`: types of what the API takes and answers, our extensions included,
 *  for a client in TypeScript. The requests are what the server's own schemas take; the answers are what it
 *  writes. No code. */
import type { z } from 'zod';
import type { chatSchema } from '../server/chat-schema.js';
import type { completionSchema } from '../server/completion-schema.js';
import type {
  detokenizeSchema,
  tokenizeMessagesSchema,
  tokenizePromptSchema,
} from '../server/tokenize-schema.js';

export type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatLogprobs,
  ChatToken,
  Completion,
  CompletionChunk,
  CompletionLogprobs,
  Detokenized,
  ErrorBody,
  ModelCard,
  ModelList,
  PromptLogprobs,
  Tokenized,
  Usage,
} from '../server/api-types.js';

/** POST /v1/chat/completions. What is `unknown` is accepted for other clients' sake and has no effect, or is
 *  refused. */
export type ChatCompletionRequest = z.input<typeof chatSchema>;
/** POST /v1/completions. */
export type CompletionRequest = z.input<typeof completionSchema>;
/** POST /tokenize. */
export type TokenizeRequest = z.input<typeof tokenizePromptSchema> | z.input<typeof tokenizeMessagesSchema>;
/** POST /detokenize. */
export type DetokenizeRequest = z.input<typeof detokenizeSchema>;
