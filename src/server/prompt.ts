/** Text → prompt ids, within bounds: a text that cannot fit the context is refused before it is tokenised. */
import { InvalidRequestError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import type { Tokenizer } from '../model/tokenizer.js';
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

export function encodePrompt(
  model: ServedModel,
  tokenizer: Tokenizer,
  text: string,
  addSpecialTokens: 'auto' | 'none',
  param: string,
): readonly TokenId[] {
  if (text.length > model.maxModelTokenCount * unitsPerTokenMax) {
    throw new InvalidRequestError(
      `${param}: ${text.length} characters cannot fit this model's maximum context length of ${model.maxModelTokenCount} tokens`,
      param,
    );
  }
  const ids = tokenizer.encode(text, { addSpecialTokens });
  if (ids.length === 0) throw new InvalidRequestError(`${param}: the prompt is empty`, param);
  return ids;
}

/** The prompts of a completions body, whichever of its four forms was used. */
export function promptsOf(model: ServedModel, body: Pick<CompletionBody, 'prompt' | 'add_special_tokens'>): readonly Prompt[] {
  const addSpecialTokens = body.add_special_tokens === false ? 'none' : 'auto';
  const fromText = (text: string): Prompt => ({
    ids: encodePrompt(model, requireTokenizer(model, 'prompt'), text, addSpecialTokens, 'prompt'),
    text,
  });
  const fromIds = (ids: readonly TokenId[]): Prompt => ({
    ids: checkedTokenIds(model, ids, 'prompt'),
    text: model.tokenizer?.decode(ids, { special: 'keep' }) ?? null,
  });
  const { prompt } = body;
  if (typeof prompt === 'string') return [fromText(prompt)];
  if (isIds(prompt)) return [fromIds(prompt)];
  return prompt.map((item) => (typeof item === 'string' ? fromText(item) : fromIds(item)));
}

function isIds(prompt: readonly (number | string | number[])[]): prompt is number[] {
  return typeof prompt[0] === 'number';
}
