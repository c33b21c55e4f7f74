/** Text → prompt ids, within bounds: a text that cannot fit the context is refused before it is tokenised. */
import type { Clock } from '../base/clock.js';
import { ContextLengthError, InvalidRequestError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import type { CompletionBody } from './completion-schema.js';
import { checkedTokenIds, checkPromptFits } from './sampling.js';
import { requireText, type ServedModel } from './served-model.js';

export interface TokenizedPrompt {
  readonly ids: readonly TokenId[];
  /** null: given as ids, and not to be echoed, or to a server without a tokenizer. */
  readonly text: string | null;
}

/** No vocabulary in use has tokens of more UTF-16 units on average over a whole text; single tokens may be
 *  longer. */
const unitsPerTokenMax = 32;

export function unitCountMaxOf(model: ServedModel): number {
  return model.maxModelTokenCount * unitsPerTokenMax;
}

/** All texts of a request at once: one job. @throws InvalidRequestError for a text that cannot fit. */
export async function encodeTexts(
  model: ServedModel,
  texts: readonly string[],
  addSpecialTokens: 'auto' | 'none',
  param: string,
): Promise<readonly Int32Array[]> {
  const tooLong = texts.find((text) => text.length > unitCountMaxOf(model));
  if (tooLong !== undefined) {
    throw new ContextLengthError(
      `${param}: ${tooLong.length} characters cannot fit this model's maximum context length of ${model.maxModelTokenCount} tokens`,
      param,
    );
  }
  return requireText(model, param).encode(texts, { addSpecialTokens });
}

type Truncation = Pick<CompletionBody, 'truncate_prompt_tokens'>;

/** A prompt's ids for the engine. Looked at before they are copied: a text may be many times the context.
 *  @throws InvalidRequestError for none or too many. */
export function promptIds(
  model: ServedModel,
  all: Int32Array,
  param: string,
  truncation: Truncation = {},
): readonly TokenId[] {
  const ids = truncated(model, all, truncation);
  if (ids.length === 0) throw new InvalidRequestError(`${param}: the prompt is empty`, param);
  checkPromptFits(model, ids.length, param);
  return Array.from(ids);
}

/** The last ones are kept, as in vLLM. */
function truncated<Ids extends Int32Array | readonly TokenId[]>(
  model: ServedModel,
  ids: Ids,
  { truncate_prompt_tokens: given }: Truncation,
): Ids {
  if (given === null || given === undefined) return ids;
  const keptCount = given === -1 ? model.maxModelTokenCount - 1 : given;
  return ids.slice(Math.max(0, ids.length - keptCount)) as Ids;
}

type PromptBody = Pick<CompletionBody, 'prompt' | 'add_special_tokens' | 'echo'> & Truncation;

/** Whichever of the four forms was used. */
export function promptItemsOf({
  prompt,
}: Pick<PromptBody, 'prompt'>): readonly (string | readonly TokenId[])[] {
  return typeof prompt === 'string' || isIds(prompt) ? [prompt] : prompt;
}

/** The prompts of a completions body, whichever of its four forms was used. */
export async function promptsOf(
  model: ServedModel,
  body: PromptBody,
  clock: Clock,
): Promise<readonly TokenizedPrompt[]> {
  const { prompt } = body;
  const items = typeof prompt === 'string' ? [prompt] : prompt;
  return isTexts(items)
    ? textPrompts(model, body, items, clock)
    : idPrompts(model, body, isIds(items) ? [items] : items);
}

/** Ids that are copied between two turns of the event loop: about a millisecond of work. */
const idsPerTurn = 65_536;

async function textPrompts(
  model: ServedModel,
  body: PromptBody,
  texts: readonly string[],
  clock: Clock,
): Promise<readonly TokenizedPrompt[]> {
  const special = body.add_special_tokens === false ? 'none' : 'auto';
  const encoded = await encodeTexts(model, texts, special, 'prompt');
  const prompts: TokenizedPrompt[] = [];
  let idCount = 0;
  for (const [index, ids] of encoded.entries()) {
    prompts.push({ ids: promptIds(model, ids, 'prompt', body), text: texts[index] ?? null });
    idCount += ids.length;
    if (idCount < idsPerTurn) continue;
    idCount = 0;
    await clock.yield();
  }
  return prompts;
}

async function idPrompts(
  model: ServedModel,
  body: PromptBody,
  lists: readonly (readonly TokenId[])[],
): Promise<readonly TokenizedPrompt[]> {
  const kept = lists.map((ids) => truncated(model, ids, body));
  for (const ids of kept) {
    checkPromptFits(model, ids.length, 'prompt');
    checkedTokenIds(model, ids, 'prompt');
  }
  const texts = body.echo === true ? ((await model.text?.decode(kept)) ?? []) : [];
  return kept.map((ids, index) => ({ ids, text: texts[index] ?? null }));
}

/** The schema lets no list mix texts and ids. */
function isTexts(prompt: string[] | number[] | number[][]): prompt is string[] {
  return typeof prompt[0] === 'string';
}

function isIds(prompt: PromptBody['prompt']): prompt is number[] {
  return typeof prompt[0] === 'number';
}
