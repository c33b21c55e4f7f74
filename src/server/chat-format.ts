/** OpenAI's chat.completion and chat.completion.chunk objects, with vLLM's token ids and stop reason. Used by
 *  chat.ts. */
import type { TokenOutput } from '../engine/token-event.js';
import type { Detokenizer } from '../model/detokenizer.js';
import type { ChatCompletion, ChatCompletionChunk, ChatLogprobs } from './api-types.js';
import { contentText } from './chat-prompt.js';
import type { ChatBody } from './chat-schema.js';
import type { ChoiceDelta } from './choice-text.js';
import type { ResponseFormat, ServerContext, WholeChoice } from './exchange.js';
import type { Generation } from './generation.js';
import { LongList, mapped, type WithLongLists } from './json-answer.js';
import { chatLogprob, promptLogprobs } from './logprobs.js';
import { tokenFormOf } from './request-options.js';
import { usageOf } from './usage.js';

type ChunkChoice = ChatCompletionChunk['choices'][number];

export class ChatFormat implements ResponseFormat {
  readonly #frame: { id: string; created: number; model: string; system_fingerprint: string };
  readonly #body: ChatBody;
  readonly #generation: Generation;
  readonly #tokenizer: Detokenizer;
  readonly #opened = new Set<number>();
  /** With `echo`, a last message of the assistant's own is what the answer continues. */
  readonly #echoText: string;

  constructor(
    id: string,
    context: ServerContext,
    body: ChatBody,
    generation: Generation,
    tokenizer: Detokenizer,
  ) {
    const { model, clock } = context;
    this.#frame = {
      id,
      created: Math.floor(clock.wallMs() / 1000),
      model: model.names[0],
      system_fingerprint: model.fingerprint,
    };
    this.#body = body;
    this.#generation = generation;
    this.#tokenizer = tokenizer;
    const last = body.messages.at(-1);
    this.#echoText = body.echo === true && last?.role === 'assistant' ? contentText(last) : '';
  }

  chunks(_promptIndex: number, delta: ChoiceDelta): readonly ChatCompletionChunk[] {
    const content = this.#chunk([
      {
        index: delta.choiceIndex,
        delta: delta.text === '' ? {} : { content: delta.text },
        logprobs: this.#logprobs(delta.tokens),
        finish_reason: delta.finishReason ?? null,
        ...(delta.finishReason === undefined ? {} : { stop_reason: delta.stopReason ?? null }),
        ...this.#tokenIds(delta.tokens),
      },
    ]);
    if (this.#opened.has(delta.choiceIndex)) return [content];
    this.#opened.add(delta.choiceIndex);
    const opening: ChunkChoice = {
      index: delta.choiceIndex,
      delta: { role: 'assistant', content: this.#echoText },
      logprobs: null,
      finish_reason: null,
    };
    return [this.#chunk([opening], this.#promptTokenIds()), content];
  }

  usageChunk(): ChatCompletionChunk {
    return {
      ...this.#frame,
      object: 'chat.completion.chunk',
      choices: [],
      usage: usageOf([this.#generation]),
    };
  }

  whole([choices = []]: readonly (readonly WholeChoice[])[]): WithLongLists<ChatCompletion> {
    const topCount = this.#body.prompt_logprobs ?? null;
    const { input, promptLogprobs: scores } = this.#generation;
    return {
      ...this.#frame,
      object: 'chat.completion',
      choices: new LongList(
        () => mapped(choices, (choice, index) => this.#whole(choice, index)),
        'with lists',
      ),
      usage: usageOf([this.#generation]),
      ...this.#promptTokenIds(),
      ...(topCount === null
        ? {}
        : { prompt_logprobs: promptLogprobs(this.#tokenizer, input.promptIds, scores, topCount) }),
    };
  }

  #whole(
    { text, tokens, ending }: WholeChoice,
    index: number,
  ): WithLongLists<ChatCompletion['choices'][number]> {
    const content = new LongList(() => mapped(tokens, (token) => this.#logprob(token)));
    return {
      index,
      message: { role: 'assistant', content: this.#echoText + text, refusal: null },
      logprobs: this.#body.logprobs === true ? { content, refusal: null } : null,
      finish_reason: ending.finishReason,
      stop_reason: ending.stopReason ?? null,
      ...this.#tokenIds(tokens),
    };
  }

  #chunk(choices: ChunkChoice[], extra: { prompt_token_ids?: readonly number[] } = {}): ChatCompletionChunk {
    const options = this.#body.stream_options;
    const usage = options?.continuous_usage_stats === true ? usageOf([this.#generation]) : null;
    return {
      ...this.#frame,
      object: 'chat.completion.chunk',
      choices,
      ...(options?.include_usage === true ? { usage } : {}),
      ...extra,
    };
  }

  #logprobs(tokens: WholeChoice['tokens']): ChatLogprobs | null {
    if (this.#body.logprobs !== true) return null;
    return { content: tokens.map((token) => this.#logprob(token)), refusal: null };
  }

  #logprob(token: TokenOutput): ChatLogprobs['content'][number] {
    return chatLogprob(this.#tokenizer, token, this.#body.top_logprobs ?? 0, tokenFormOf(this.#body));
  }

  #tokenIds(tokens: WholeChoice['tokens']): { token_ids?: readonly number[] } {
    return this.#body.return_token_ids === true ? { token_ids: tokens.map(({ tokenId }) => tokenId) } : {};
  }

  #promptTokenIds(): { prompt_token_ids?: readonly number[] } {
    return this.#body.return_token_ids === true ? { prompt_token_ids: this.#generation.input.promptIds } : {};
  }
}
