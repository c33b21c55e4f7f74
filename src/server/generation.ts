/** One prompt's generation as text deltas: submits it, follows its events, ends choices at stop strings,
 *  counts tokens, observes metrics. Used by chat.ts, completions.ts and library/. Invariant: whatever
 *  happens, the stream under it is finished or cancelled. */
import { at } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import { fromWire, TwostrokeError } from '../base/errors.js';
import type { GatewayApi, RequestInput } from '../control/gateway-api.js';
import type { GenerationStream, Kept } from '../control/generation-stream.js';
import type { RouteSummary } from '../control/request-record.js';
import type { TokenEvent, TokenLogprob } from '../engine/token-event.js';
import { type ChoiceDelta, ChoiceText, type TextOptions } from './choice-text.js';
import type { ServerMetrics } from './metrics.js';

type GenerationMetrics = Pick<ServerMetrics, 'onFirstToken' | 'onTokenGap' | 'onRequestEnd'>;

export interface GenerationContext {
  readonly gateway: Pick<GatewayApi, 'submit'>;
  readonly metrics: GenerationMetrics;
  readonly clock: Clock;
}

export class Generation {
  readonly input: RequestInput;
  /** Learns how much waits to be read. Set before it begins. */
  kept: Kept | null = null;
  readonly #gateway: GenerationContext['gateway'];
  #stream: GenerationStream | null = null;
  #isCancelled = false;
  #route: RouteSummary | null = null;
  readonly #text: TextOptions;
  /** Made when it is submitted: until then nothing says that it will be. */
  #choices: readonly ChoiceText[] = [];
  #openChoiceCount: number;
  readonly #metrics: GenerationMetrics;
  readonly #clock: Clock;
  readonly #arrivalMs: number;
  #lastTokenMs: number[] = [];
  #cachedTokenCount = 0;
  #completionTokenCount = 0;
  readonly #promptLogprobs: TokenLogprob[] = [];

  constructor(context: GenerationContext, input: RequestInput, text: TextOptions) {
    this.input = input;
    this.#metrics = context.metrics;
    this.#clock = context.clock;
    this.#arrivalMs = context.clock.nowMs();
    this.#text = text;
    this.#openChoiceCount = input.sampling.choiceCount;
    this.#gateway = context.gateway;
  }

  get promptTokenCount(): number {
    return this.input.promptIds.length;
  }
  get cachedTokenCount(): number {
    return this.#cachedTokenCount;
  }
  get completionTokenCount(): number {
    return this.#completionTokenCount;
  }
  /** Of prompt tokens 1..n-1; complete when the first delta arrives. */
  get promptLogprobs(): readonly TokenLogprob[] {
    return this.#promptLogprobs;
  }
  /** null: not decided yet. */
  get route(): RouteSummary | null {
    return this.#route;
  }

  get #isFinished(): boolean {
    return this.#openChoiceCount === 0;
  }

  /** Also before it has begun: then it is never submitted. */
  cancel(): void {
    this.#isCancelled = true;
    this.#stream?.cancel();
  }

  /** Submits, then gives the deltas of all choices as they come. Call once. Throws TwostrokeError when the
   *  generation fails. Leaving early cancels. */
  async *deltas(): AsyncGenerator<ChoiceDelta, void, undefined> {
    let outcome: 'stop' | 'length' | 'abort' | 'error' = 'abort';
    try {
      for await (const event of this.#submit()) {
        const delta = this.#accept(event);
        if (delta === null) continue;
        outcome = delta.finishReason ?? outcome;
        yield delta;
        if (this.#isFinished) break;
      }
      if (!this.#isFinished) throw cancelledError();
    } catch (error) {
      outcome = error instanceof TwostrokeError && error.code === 'cancelled' ? 'abort' : 'error';
      throw error;
    } finally {
      this.cancel();
      this.#observeEnd(this.#isFinished || outcome === 'error' ? outcome : 'abort');
    }
  }

  #submit(): GenerationStream {
    if (this.#isCancelled) throw cancelledError();
    const stream = this.#gateway.submit(this.kept === null ? this.input : { ...this.input, kept: this.kept });
    this.#stream = stream;
    this.#choices = Array.from(
      { length: this.input.sampling.choiceCount },
      (_, index) => new ChoiceText(index, this.#text),
    );
    stream.route.then(
      (route) => {
        this.#route = route;
      },
      () => undefined, // the iteration reports the same failure
    );
    return stream;
  }

  #accept(event: TokenEvent): ChoiceDelta | null {
    switch (event.kind) {
      case 'cached':
        this.#cachedTokenCount = event.cachedTokenCount;
        return null;
      case 'promptLogprobs':
        for (const logprob of event.logprobs) this.#promptLogprobs.push(logprob);
        return null;
      case 'failed':
        throw fromWire(event.error);
      case 'tokens':
        return this.#acceptTokens(event);
    }
  }

  #acceptTokens(event: Extract<TokenEvent, { kind: 'tokens' }>): ChoiceDelta | null {
    const choice = at(this.#choices, event.choiceIndex);
    if (choice.isFinished) return null;
    this.#observeTokens(event.choiceIndex, event.tokens.length);
    const delta = choice.accept(event);
    if (delta === null) return null;
    this.#completionTokenCount += delta.tokens.length;
    if (choice.isFinished) this.#openChoiceCount--;
    if (choice.isFinished && event.finishReason === undefined) this.#stream?.stopChoice(event.choiceIndex);
    return delta;
  }

  #observeTokens(choiceIndex: number, tokenCount: number): void {
    if (tokenCount === 0) return;
    const now = this.#clock.nowMs();
    const last = this.#lastTokenMs[choiceIndex];
    if (last === undefined) {
      if (this.#lastTokenMs.length === 0) this.#metrics.onFirstToken(now - this.#arrivalMs);
    } else {
      for (let i = 0; i < tokenCount; i++) this.#metrics.onTokenGap((now - last) / tokenCount);
    }
    this.#lastTokenMs[choiceIndex] = now;
  }

  #observeEnd(outcome: 'stop' | 'length' | 'abort' | 'error'): void {
    this.#metrics.onRequestEnd({
      outcome,
      durationMs: this.#clock.nowMs() - this.#arrivalMs,
      promptTokenCount: this.promptTokenCount,
      completionTokenCount: this.#completionTokenCount,
    });
  }
}

function cancelledError(): TwostrokeError {
  return new TwostrokeError('cancelled', 'the generation was cancelled before it ended');
}
