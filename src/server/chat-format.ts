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
import type { PartReader } from './tools/answer-parts.js';
import { ChoiceReader, deltaOf, messageOf } from './tools/choice-reader.js';
import type { ToolUse } from './tools/tool-fields.js';
import { usageOf } from './usage.js';

/** How a request's answers are read. */
interface ChatReading {
  readonly body: ChatBody;
  readonly toolUse: ToolUse | null;
  newReader(): PartReader;
}

type ChunkChoice = ChatCompletionChunk['choices'][number];

export class ChatFormat implements ResponseFormat {
  readonly #frame: { id: string; created: number; model: string; system_fingerprint: string };
  readonly #body: ChatBody;
  readonly #generation: Generation;
  readonly #tokenizer: Detokenizer;
  readonly #opened = new Set<number>();
  readonly #newReader: () => PartReader;
  readonly #toolUse: ToolUse | null;
  /** By choice, while it streams. */
  readonly #readers = new Map<number, ChoiceReader>();
  /** With `echo`, a last message of the assistant's own is what the answer continues. */
  readonly #echoText: string;

  constructor(
    id: string,
    context: ServerContext,
    { body, toolUse, newReader }: ChatReading,
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
    this.#newReader = newReader;
    this.#toolUse = toolUse;
    this.#generation = generation;
    this.#tokenizer = tokenizer;
    const last = body.messages.at(-1);
    this.#echoText = body.echo === true && last?.role === 'assistant' ? contentText(last) : '';
  }

  chunks(_promptIndex: number, delta: ChoiceDelta): readonly ChatCompletionChunk[] {
    const reader = this.#reader(delta.choiceIndex);
    const read = deltaOf(reader.push(delta.text, delta.finishReason !== undefined));
    const content = this.#chunk([
      {
        index: delta.choiceIndex,
        delta: read,
        logprobs: this.#logprobs(delta.tokens),
        finish_reason: delta.finishReason === undefined ? null : reader.finishReason(delta.finishReason),
        ...(delta.finishReason === undefined ? {} : { stop_reason: delta.stopReason ?? null }),
        ...this.#tokenIds(delta.tokens),
      },
    ]);
    const isEmpty = Object.keys(read).length === 0 && delta.finishReason === undefined;
    const isSilent = isEmpty && this.#body.logprobs !== true && this.#body.return_token_ids !== true;
    if (this.#opened.has(delta.choiceIndex)) return isSilent ? [] : [content];
    this.#opened.add(delta.choiceIndex);
    const opening: ChunkChoice = {
      index: delta.choiceIndex,
      delta: { role: 'assistant', content: this.#echoText },
      logprobs: null,
      finish_reason: null,
    };
    const first = this.#chunk([opening], this.#promptTokenIds());
    return isSilent ? [first] : [first, content];
  }

  #reader(choiceIndex: number): ChoiceReader {
    const known = this.#readers.get(choiceIndex);
    if (known !== undefined) return known;
    const reader = this.#choiceReader();
    this.#readers.set(choiceIndex, reader);
    return reader;
  }

  #choiceReader(): ChoiceReader {
    return new ChoiceReader(this.#newReader(), this.#toolUse, this.#body.include_reasoning !== false);
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
    const scores = new LongList(() => mapped(tokens, (token) => this.#logprob(token)));
    const reader = this.#choiceReader();
    const { content = '', ...rest } = messageOf(reader.push(text, true));
    const isCall = rest.tool_calls !== undefined && content === '';
    return {
      index,
      message: {
        role: 'assistant',
        content: isCall ? null : this.#echoText + content,
        refusal: null,
        ...rest,
      },
      logprobs: this.#body.logprobs === true ? { content: scores, refusal: null } : null,
      finish_reason: reader.finishReason(ending.finishReason),
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
