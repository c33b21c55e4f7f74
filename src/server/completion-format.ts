/** OpenAI's text_completion objects, with echo, legacy logprobs, and vLLM's token ids and stop reason. Used
 *  by completions.ts. */
import { at } from '../base/assert.js';
import type { TokenOutput } from '../engine/token-event.js';
import type { Completion, CompletionChunk, PromptLogprobs, Usage } from './api-types.js';
import type { ChoiceDelta } from './choice-text.js';
import type { CompletionBody } from './completion-schema.js';
import type { ResponseFormat, ServerContext, WholeChoice } from './exchange.js';
import type { Generation } from './generation.js';
import { LongList, mapped, type WithLongLists } from './json-answer.js';
import { CompletionLogprobWriter, promptLogprobs, type ScoredToken } from './logprobs.js';
import type { TokenizedPrompt } from './prompt.js';
import { tokenFormOf } from './request-options.js';
import { UsageSoFar, usageOf } from './usage.js';

/** Alternatives counted too: a few milliseconds of work. */
const scoresPerChunk = 8192;

export class CompletionFormat implements ResponseFormat {
  readonly #frame: {
    id: string;
    object: 'text_completion';
    created: number;
    model: string;
    system_fingerprint: string;
  };
  readonly #context: ServerContext;
  readonly #body: CompletionBody;
  readonly #prompts: readonly TokenizedPrompt[];
  readonly #generations: readonly Generation[];
  /** By index of the choice in the response. */
  readonly #writers = new Map<number, CompletionLogprobWriter>();
  readonly #opened = new Set<number>();
  readonly #usageSoFar: UsageSoFar;

  constructor(
    id: string,
    context: ServerContext,
    body: CompletionBody,
    prompts: readonly TokenizedPrompt[],
    generations: readonly Generation[],
  ) {
    const { model, clock } = context;
    const created = Math.floor(clock.wallMs() / 1000);
    this.#frame = {
      id,
      object: 'text_completion',
      created,
      model: model.names[0],
      system_fingerprint: model.fingerprint,
    };
    this.#context = context;
    this.#body = body;
    this.#prompts = prompts;
    this.#generations = generations;
    this.#usageSoFar = new UsageSoFar(generations, body.max_tokens === 0 ? 'not reported' : 'reported');
  }

  /** A prompt that is echoed with its scores comes in slices: its JSON in one go would hold everybody up. */
  *chunks(promptIndex: number, delta: ChoiceDelta): Generator<CompletionChunk> {
    const index = this.#indexOf(promptIndex, delta.choiceIndex);
    const isFirst = !this.#opened.has(index);
    this.#opened.add(index);
    const options = this.#body.stream_options;
    const isUsageReported = options?.continuous_usage_stats === true;
    const usage = isUsageReported ? this.#usageSoFar.add(promptIndex, delta.tokens.length) : null;
    const frame = { ...this.#frame, ...(options?.include_usage === true ? { usage } : {}) };
    const shown = this.#shownOf(delta);
    const echo = isFirst ? this.#echoOf(promptIndex) : '';
    const head = { index, ...(isFirst ? this.#promptTokenIds(promptIndex) : {}) };
    const tail = {
      finish_reason: delta.finishReason ?? null,
      ...(delta.finishReason === undefined ? {} : { stop_reason: delta.stopReason ?? null }),
      ...this.#tokenIds(shown.tokens),
    };
    const topCount = this.#body.logprobs ?? null;
    const writer = topCount === null ? null : this.#writerOf(index, topCount);
    const scored = writer === null || !isFirst ? [] : this.#scoredPrompt(promptIndex);
    const sliceCount = Math.max(1, Math.ceil((scored.length * (1 + (topCount ?? 0))) / scoresPerChunk));
    const sliceLength = Math.ceil(scored.length / sliceCount);
    for (let slice = 0; slice < sliceCount - 1; slice++) {
      const logprobs = writer?.write(scored.slice(slice * sliceLength, (slice + 1) * sliceLength)) ?? null;
      const text = slice === 0 ? echo : '';
      const choice = { ...(slice === 0 ? head : { index }), text, logprobs, finish_reason: null };
      yield { ...frame, choices: [choice] };
    }
    const logprobs =
      writer?.write([...scored.slice((sliceCount - 1) * sliceLength), ...shown.tokens]) ?? null;
    const text = (sliceCount === 1 ? echo : '') + shown.text;
    yield { ...frame, choices: [{ ...(sliceCount === 1 ? head : { index }), text, logprobs, ...tail }] };
  }

  usageChunk(): CompletionChunk {
    return { ...this.#frame, choices: [], usage: this.#usage() };
  }

  whole(choices: readonly (readonly WholeChoice[])[]): WithLongLists<Completion> {
    const flat = choices.flatMap((ofPrompt, promptIndex) =>
      ofPrompt.map((choice, choiceIndex) => ({ choice, promptIndex, choiceIndex })),
    );
    const list = new LongList(
      () =>
        mapped(flat, ({ choice, promptIndex, choiceIndex }) => this.#whole(choice, promptIndex, choiceIndex)),
      'with lists',
    );
    return { ...this.#frame, choices: list, usage: this.#usage() };
  }

  #whole(
    choice: WholeChoice,
    promptIndex: number,
    choiceIndex: number,
  ): WithLongLists<Completion['choices'][number]> {
    const index = this.#indexOf(promptIndex, choiceIndex);
    const { text, tokens } = this.#shownOf(choice);
    const topCount = this.#body.logprobs ?? null;
    const scored = () => [...this.#scoredPrompt(promptIndex), ...tokens];
    return {
      index,
      text: this.#echoOf(promptIndex) + text,
      logprobs: topCount === null ? null : (this.#writerOf(index, topCount)?.writeLong(scored) ?? null),
      finish_reason: choice.ending.finishReason,
      stop_reason: choice.ending.stopReason ?? null,
      ...this.#tokenIds(tokens),
      ...this.#promptTokenIds(promptIndex),
      ...this.#promptLogprobs(promptIndex),
    };
  }

  /** With max_tokens 0 one token was generated to score the prompt, and is not reported. */
  #shownOf({ text, tokens }: Pick<WholeChoice, 'text' | 'tokens'>): Pick<WholeChoice, 'text' | 'tokens'> {
    return this.#body.max_tokens === 0 ? { text: '', tokens: [] } : { text, tokens };
  }

  #echoOf(promptIndex: number): string {
    return this.#body.echo === true ? (at(this.#prompts, promptIndex).text ?? '') : '';
  }

  get #withIds(): boolean {
    return this.#body.return_token_ids === true || this.#context.model.tokenizer === null;
  }

  #tokenIds(tokens: readonly TokenOutput[]): { token_ids?: readonly number[] } {
    return this.#withIds ? { token_ids: tokens.map(({ tokenId }) => tokenId) } : {};
  }

  #promptTokenIds(promptIndex: number): { prompt_token_ids?: readonly number[] } {
    return this.#withIds ? { prompt_token_ids: at(this.#prompts, promptIndex).ids } : {};
  }

  /** Null: this server has no tokenizer. */
  #writerOf(index: number, topCount: number): CompletionLogprobWriter | null {
    const { tokenizer } = this.#context.model;
    if (tokenizer === null) return null;
    const writer =
      this.#writers.get(index) ?? new CompletionLogprobWriter(tokenizer, topCount, tokenFormOf(this.#body));
    if (this.#body.stream === true) this.#writers.set(index, writer);
    return writer;
  }

  /** Empty: it is not echoed. */
  #scoredPrompt(promptIndex: number): readonly ScoredToken[] {
    if (this.#body.echo !== true) return [];
    const { promptLogprobs: logprobs } = at(this.#generations, promptIndex);
    return at(this.#prompts, promptIndex).ids.map((tokenId, position) => ({
      tokenId,
      logprob: logprobs[position - 1],
    }));
  }

  #promptLogprobs(promptIndex: number): { prompt_logprobs?: LongList<PromptLogprobs[number]> } {
    const topCount = this.#body.prompt_logprobs ?? null;
    if (topCount === null) return {};
    const { input, promptLogprobs: logprobs } = at(this.#generations, promptIndex);
    return {
      prompt_logprobs: promptLogprobs(this.#context.model.tokenizer, input.promptIds, logprobs, topCount),
    };
  }

  #usage(): Usage {
    return usageOf(this.#generations, this.#body.max_tokens === 0 ? 'not reported' : 'reported');
  }

  #indexOf(promptIndex: number, choiceIndex: number): number {
    return promptIndex * (this.#body.n ?? 1) + choiceIndex;
  }
}
