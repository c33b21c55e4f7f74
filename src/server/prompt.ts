/** Text → prompt ids, within bounds: a text that cannot fit the context is refused before it is tokenised. */
import type { Clock } from '../base/clock.js';
import { ContextLengthError, InvalidRequestError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import type { CompletionBody } from './completion-schema.js';
import { checkedTokenIds } from './sampling.js';
import { requireTokenizer, type ServedModel } from './served-model.js';

export interface Prompt {
  readonly ids: readonly TokenId[];
  /** null: given as ids, and not to be told again, or to a server without a tokenizer. */
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

type PromptBody = Pick<CompletionBody, 'prompt' | 'add_special_tokens' | 'echo'>;

/** Whichever of the four forms was used. */
export function promptItemsOf({ prompt }: Pick<PromptBody, 'prompt'>): readonly (string | readonly TokenId[])[] {
  return typeof prompt === 'string' || isIds(prompt) ? [prompt] : prompt;
}

/** Characters (or ids to be decoded) between two turns of the event loop: a few milliseconds of work, as for one short text. */
const unitsPerTurn = 4096;

/** The prompts of a completions body, one after the other, so that many of them hold nobody else up. */
export async function promptsOf(model: ServedModel, body: PromptBody, clock: Clock): Promise<readonly Prompt[]> {
  const prompts: Prompt[] = [];
  let unitCount = 0;
  for (const item of promptItemsOf(body)) {
    prompts.push(await promptOf(model, body, item));
    unitCount += item.length;
    if (unitCount < unitsPerTurn) continue;
    unitCount = 0;
    await clock.yield();
  }
  return prompts;
}

async function promptOf(model: ServedModel, body: PromptBody, item: string | readonly TokenId[]): Promise<Prompt> {
  const addSpecialTokens = body.add_special_tokens === false ? 'none' : 'auto';
  if (typeof item === 'string') return { ids: await encodePrompt(model, item, addSpecialTokens, 'prompt'), text: item };
  const ids = checkedTokenIds(model, item, 'prompt');
  const isTold = body.echo === true && ids.length < model.maxModelTokenCount; // what is too long is refused anyway
  return { ids, text: isTold ? (model.tokenizer?.decode(ids, { special: 'keep' }) ?? null) : null };
}

function isIds(prompt: PromptBody['prompt']): prompt is number[] {
  return typeof prompt[0] === 'number';
}
