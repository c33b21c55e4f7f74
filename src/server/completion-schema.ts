/** The body of POST /v1/completions. */
import { z } from 'zod';
import {
  ignoredFields,
  isTextFormat,
  responseFields,
  samplingFields,
  schedulingFields,
  tokenIds,
  topLogprobCountMax,
  unsupported,
  unsupportedFields,
} from './request-fields.js';

const promptCountMax = 1024;

/** One text, one list of token ids, or a list of either. */
const promptSchema = z.union(
  [
    z.string(),
    tokenIds.min(1, 'a prompt needs at least one token'),
    z.array(z.string()).min(1).max(promptCountMax),
    z.array(tokenIds.min(1, 'a prompt needs at least one token')).min(1).max(promptCountMax),
  ],
  { error: `expected a string, a list of token ids, or a list of up to ${promptCountMax} of either` },
);

export const completionSchema = z.object({
  ...samplingFields,
  ...responseFields,
  ...schedulingFields,
  ...ignoredFields,
  ...unsupportedFields,
  prompt: promptSchema,
  /** 0 only with echo: score the prompt. */
  max_tokens: z.int().min(0).nullish(),
  logprobs: z.int().min(0).max(topLogprobCountMax).nullish(),
  best_of: z.int().min(1).nullish(),
  prompt_embeds: unsupported(),
  suffix: unsupported((value) => value === ''),
  response_format: unsupported(isTextFormat),
});

export type CompletionBody = z.output<typeof completionSchema>;
