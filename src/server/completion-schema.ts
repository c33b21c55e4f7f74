/** The body of POST /v1/completions. */
import { z } from 'zod';
import {
  checked,
  type Finding,
  ignoredFields,
  messageOf,
  responseFields,
  samplingFields,
  schedulingFields,
  topLogprobCountMax,
  unsupported,
  unsupportedFields,
  wrongTokenIds,
} from './request-fields.js';
import { shapeFields } from './shapes/shape-fields.js';

const promptCountMax = 1024;

/** One text, one list of token ids, or a list of either. */
const promptSchema = checked<string | number[] | string[] | number[][]>((prompt) => {
  if (typeof prompt === 'string') return null;
  const isList = Array.isArray(prompt) && prompt.length > 0;
  if (isList && typeof prompt[0] === 'number') return wrongTokenIds(prompt);
  if (
    !isList ||
    prompt.length > promptCountMax ||
    !(typeof prompt[0] === 'string' || Array.isArray(prompt[0]))
  ) {
    const message = `expected a string, a list of token ids, or a list of up to ${promptCountMax} of either`;
    return { path: [], message: prompt === undefined ? `${message}, received undefined` : message };
  }
  return typeof prompt[0] === 'string' ? wrongTexts(prompt) : wrongIdLists(prompt);
});

function wrongTexts(texts: readonly unknown[]): Finding | null {
  const index = texts.findIndex((text) => typeof text !== 'string');
  return index === -1 ? null : { path: [index], message: messageOf(z.string(), texts[index]) };
}

function wrongIdLists(lists: readonly unknown[]): Finding | null {
  for (const [index, ids] of lists.entries()) {
    if (Array.isArray(ids) && ids.length === 0)
      return { path: [index], message: 'a prompt needs at least one token' };
    const finding = wrongTokenIds(ids, [index]);
    if (finding !== null) return finding;
  }
  return null;
}

export const completionSchema = z.object({
  ...samplingFields,
  ...responseFields,
  ...schedulingFields,
  ...ignoredFields,
  ...unsupportedFields,
  ...shapeFields,
  prompt: promptSchema,
  /** 0 only with echo: score the prompt. */
  max_tokens: z.int().min(0).nullish(),
  logprobs: z.int().min(0).max(topLogprobCountMax).nullish(),
  best_of: z.int().min(1).nullish(),
  prompt_embeds: unsupported(),
  suffix: unsupported((value) => value === ''),
});

export type CompletionBody = z.output<typeof completionSchema>;
