/** Text → prompt ids, within bounds: a text that cannot fit the context is refused before it is tokenised. */
import { ContextLengthError, InvalidRequestError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import type { CompletionBody } from './completion-schema.js';
import { checkedTokenIds } from './sampling.js';
import { requireTokenizer, type ServedModel } from './served-model.js';

export interface Prompt {
  readonly ids: readonly TokenId[];
  /** null: given as ids to a server without a tokenizer. */
  readonly text: string | null;
}

/** No vocabulary in use has tokens of more UTF-16 units on average over a whole text; single tokens may be longer. */
const unitsPerTokenMax = 32;

/** @throws InvalidRequestError for a text that is empty or cannot fit. */
export async function encodePrompt(
  model: ServedModel,
  text: string,
  addSpecialTokens: 'auto' | 'none',
  param: string,
): Promise<readonly TokenId[]> {
  requireTokenizer(model, param);
  if (text.length > model.maxModelTokenCount * unitsPerTokenMax) {
    throw new ContextLengthError(
      `${param}: ${text.length} characters cannot fit this model's maximum context length of ${model.maxModelTokenCount} tokens`,
      param,
    );
  }
  const ids = (await model.encoder?.encode(text, { addSpecialTokens })) ?? [];
  if (ids.length === 0) throw new InvalidRequestError(`${param}: the prompt is empty`, param);
  return ids;
}

/** The prompts of a completions body, whichever of its four forms was used. */
export async function promptsOf(
  model: ServedModel,
  body: Pick<CompletionBody, 'prompt' | 'add_special_tokens'>,
): Promise<readonly Prompt[]> {
  const { prompt } = body;
  const addSpecialTokens = body.add_special_tokens === false ? 'none' : 'auto';
  const items = typeof prompt === 'string' ? [prompt] : isIds(prompt) ? [prompt] : prompt;
  return Promise.all(
    items.map(async (item) => {
      if (typeof item === 'string') return { ids: await encodePrompt(model, item, addSpecialTokens, 'prompt'), text: item };
      const ids = checkedTokenIds(model, item, 'prompt');
      return { ids, text: model.tokenizer?.decode(ids, { special: 'keep' }) ?? null };
    }),
  );
}

function isIds(prompt: readonly (number | string | number[])[]): prompt is number[] {
  return typeof prompt[0] === 'number';
}
