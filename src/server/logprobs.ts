/** Log-probabilities in the API's three shapes: chat, completions (legacy) and vLLM's prompt_logprobs. */
import { isUtf8 } from 'node:buffer';
import type { TokenId } from '../base/ids.js';
import type { TokenLogprob, TokenOutput } from '../engine/token-event.js';
import type { Detokenizer } from '../model/detokenizer.js';
import type { ChatLogprobs, ChatToken, CompletionLogprobs, PromptLogprobs } from './api-types.js';
import { LongList, mapped, type WithLongLists } from './json-answer.js';

/** JSON has no -Infinity; vLLM and OpenAI write this. */
const lowestLogprob = -9999;
const finite = (logprob: number) => Math.max(logprob, lowestLogprob);

/** How tokens are written: as text, or as `token_id:ID` (vLLM's return_tokens_as_token_ids). */
export type TokenForm = 'text' | 'id';

const idForm = (id: TokenId) => `token_id:${id}`;

/** How one token stands in a chat's `logprobs.content`. */
export function chatLogprob(
  tokenizer: Detokenizer,
  { tokenId, logprob }: TokenOutput,
  topCount: number,
  form: TokenForm,
): ChatLogprobs['content'][number] {
  const entry = (id: TokenId, value: number): ChatToken => ({
    token: form === 'id' ? idForm(id) : tokenizer.tokenText(id),
    logprob: finite(value),
    bytes: [...tokenizer.tokenBytes(id)],
  });
  return {
    ...entry(tokenId, logprob?.logprob ?? Number.NEGATIVE_INFINITY),
    top_logprobs: (logprob?.top ?? []).slice(0, topCount).map(([id, value]) => entry(id, value)),
  };
}

/** A token whose log-probability may be unknown: the first of a prompt has none. */
export interface ScoredToken {
  readonly tokenId: TokenId;
  readonly logprob?: TokenLogprob | undefined;
}

const score = ({ logprob }: ScoredToken) => (logprob === undefined ? null : finite(logprob.logprob));

/** Keeps the text offset of one choice from chunk to chunk. Tokens are kept apart even where their texts are
 *  equal. */
export class CompletionLogprobWriter {
  readonly #tokenizer: Detokenizer;
  readonly #topCount: number;
  readonly #form: TokenForm;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #offset = 0;

  constructor(tokenizer: Detokenizer, topCount: number, form: TokenForm) {
    this.#tokenizer = tokenizer;
    this.#topCount = topCount;
    this.#form = form;
  }

  write(tokens: readonly ScoredToken[]): CompletionLogprobs {
    return {
      tokens: tokens.map(({ tokenId }) => this.#label(tokenId)),
      token_logprobs: tokens.map(score),
      top_logprobs: tokens.map((token) => this.#top(token)),
      text_offset: tokens.map(({ tokenId }) => this.#advance(tokenId)),
    };
  }

  /** Of a whole choice, which is gone through once for each list. */
  writeLong(tokens: () => Iterable<ScoredToken>): WithLongLists<CompletionLogprobs> {
    const list = <Item>(itemOf: (token: ScoredToken) => Item) => new LongList(() => mapped(tokens(), itemOf));
    return {
      tokens: list(({ tokenId }) => this.#label(tokenId)),
      token_logprobs: list(score),
      top_logprobs: list((token) => this.#top(token)),
      text_offset: list(({ tokenId }) => this.#advance(tokenId)),
    };
  }

  /** As vLLM: the best `topCount`, and the token itself even when it is not among them. */
  #top({ tokenId, logprob }: ScoredToken): Record<string, number> | null {
    if (logprob === undefined) return null;
    const own = this.#label(tokenId);
    const entries = new Map<string, number>();
    for (const [id, value] of logprob.top.slice(0, this.#topCount)) {
      const label = this.#label(id);
      const isTaken = id !== tokenId && (label === own || entries.has(label));
      entries.set(isTaken ? idForm(id) : label, finite(value));
    }
    return Object.fromEntries(entries.set(own, finite(logprob.logprob)));
  }

  /** As OpenAI: bytes that are no whole characters are spelt out. */
  #label(id: TokenId): string {
    if (this.#form === 'id') return idForm(id);
    const bytes = this.#tokenizer.tokenBytes(id);
    if (isUtf8(bytes)) return this.#tokenizer.tokenText(id);
    return `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`;
  }

  #advance(tokenId: TokenId): number {
    const start = this.#offset;
    if (!this.#tokenizer.isSpecial(tokenId)) {
      this.#offset += [...this.#decoder.decode(this.#tokenizer.tokenBytes(tokenId), { stream: true })].length;
    }
    return start;
  }
}

/** vLLM's shape: one entry per prompt token, null for the first. `rank` is given where the alternatives show
 *  it. */
export function promptLogprobs(
  tokenizer: Detokenizer | null,
  promptIds: readonly TokenId[],
  logprobs: readonly TokenLogprob[],
  topCount: number,
): LongList<PromptLogprobs[number]> {
  const text = (id: TokenId) => tokenizer?.tokenText(id) ?? null;
  const entryOf = (tokenId: TokenId, index: number): PromptLogprobs[number] => {
    const scored = logprobs[index - 1];
    if (scored === undefined) return null;
    const shown = scored.top.slice(0, topCount);
    const top = shown.map(
      ([id, value], rank) =>
        [String(id), { logprob: finite(value), rank: rank + 1, decoded_token: text(id) }] as const,
    );
    const isAmongTop = shown.some(([id]) => id === tokenId);
    const own = isAmongTop
      ? {}
      : { [String(tokenId)]: { logprob: finite(scored.logprob), decoded_token: text(tokenId) } };
    return { ...Object.fromEntries(top), ...own };
  };
  return new LongList(() => mapped(promptIds, entryOf));
}
