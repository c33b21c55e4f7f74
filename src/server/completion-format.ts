/** OpenAI's text_completion objects, with echo, legacy logprobs, and vLLM's token ids and stop reason. Used
 *  by completions.ts. */
import { at } from '../base/assert.js';
import type { TokenOutput } from '../engine/token-event.js';
import type { Completion, CompletionChunk, CompletionLogprobs, PromptLogprobs, Usage } from './api-types.js';
import type { ChoiceDelta } from './choice-text.js';
import type { CompletionBody } from './completion-schema.js';
import type { ResponseFormat, ServerContext, WholeChoice } from './exchange.js';
import type { Generation } from './generation.js';
import { CompletionLogprobWriter, promptLogprobs, type ScoredToken } from './logprobs.js';
import type { TokenizedPrompt } from './prompt.js';
import { tokenFormOf } from './request-options.js';
import { UsageSoFar, usageOf } from './usage.js';

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

  chunks(promptIndex: number, delta: ChoiceDelta): readonly CompletionChunk[] {
    const index = this.#indexOf(promptIndex, delta.choiceIndex);
    const isFirst = !this.#opened.has(index);
    this.#opened.add(index);
    const options = this.#body.stream_options;
    const isUsageReported = options?.continuous_usage_stats === true;
    const usage = isUsageReported ? this.#usageSoFar.add(promptIndex, delta.tokens.length) : null;
    const choice = this.#choice(
      promptIndex,
      index,
      delta.text,
      delta.tokens,
      delta,
      isFirst ? 'first' : 'later',
    );
    return [{ ...this.#frame, choices: [choice], ...(options?.include_usage === true ? { usage } : {}) }];
  }

  usageChunk(): CompletionChunk {
    return { ...this.#frame, choices: [], usage: this.#usage() };
  }

  whole(choices: readonly (readonly WholeChoice[])[]): Completion {
    const flat = choices.flatMap((ofPrompt, promptIndex) =>
      ofPrompt.map((choice, choiceIndex) => ({
        ...this.#choice(
          promptIndex,
          this.#indexOf(promptIndex, choiceIndex),
          choice.text,
          choice.tokens,
          choice.ending,
          'first',
        ),
        finish_reason: choice.ending.finishReason,
        ...this.#promptLogprobs(promptIndex),
      })),
    );
    return { ...this.#frame, choices: flat, usage: this.#usage() };
  }

  /** With max_tokens 0 one token was generated to score the prompt, and is not reported. */
  #choice(
    promptIndex: number,
    index: number,
    text: string,
    tokens: readonly TokenOutput[],
    ending: Pick<ChoiceDelta, 'finishReason' | 'stopReason'>,
    part: 'first' | 'later',
  ): CompletionChunk['choices'][number] {
    const isPromptOnly = this.#body.max_tokens === 0;
    const prompt = at(this.#prompts, promptIndex);
    const isEchoed = this.#body.echo === true && part === 'first';
    const shownTokens = isPromptOnly ? [] : tokens;
    const withIds = this.#body.return_token_ids === true || this.#context.model.tokenizer === null;
    return {
      index,
      text: (isEchoed ? (prompt.text ?? '') : '') + (isPromptOnly ? '' : text),
      logprobs: this.#logprobs(promptIndex, index, isEchoed ? 'with prompt' : 'output', shownTokens),
      finish_reason: ending.finishReason ?? null,
      ...(ending.finishReason === undefined ? {} : { stop_reason: ending.stopReason ?? null }),
      ...(withIds ? { token_ids: shownTokens.map(({ tokenId }) => tokenId) } : {}),
      ...(withIds && part === 'first' ? { prompt_token_ids: prompt.ids } : {}),
    };
  }

  #logprobs(
    promptIndex: number,
    index: number,
    span: 'with prompt' | 'output',
    tokens: readonly TokenOutput[],
  ): CompletionLogprobs | null {
    const { tokenizer } = this.#context.model;
    const topCount = this.#body.logprobs ?? null;
    if (topCount === null || tokenizer === null) return null;
    const writer =
      this.#writers.get(index) ?? new CompletionLogprobWriter(tokenizer, topCount, tokenFormOf(this.#body));
    this.#writers.set(index, writer);
    return writer.write(span === 'output' ? tokens : [...this.#scoredPrompt(promptIndex), ...tokens]);
  }

  #scoredPrompt(promptIndex: number): readonly ScoredToken[] {
    const { promptLogprobs: logprobs } = at(this.#generations, promptIndex);
    return at(this.#prompts, promptIndex).ids.map((tokenId, position) => ({
      tokenId,
      logprob: logprobs[position - 1],
    }));
  }

  #promptLogprobs(promptIndex: number): { prompt_logprobs?: PromptLogprobs } {
    if ((this.#body.prompt_logprobs ?? null) === null) return {};
    const { input, promptLogprobs: logprobs } = at(this.#generations, promptIndex);
    return { prompt_logprobs: promptLogprobs(this.#context.model.tokenizer, input.promptIds, logprobs) };
  }

  #usage(): Usage {
    return usageOf(this.#generations, this.#body.max_tokens === 0 ? 'not reported' : 'reported');
  }

  #indexOf(promptIndex: number, choiceIndex: number): number {
    return promptIndex * (this.#body.n ?? 1) + choiceIndex;
  }
}
