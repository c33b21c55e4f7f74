/** The text of one choice as its tokens arrive: stop strings, end tokens, text that is still held back. Used
 *  by generation.ts.
 *  Invariant: the deltas' texts joined are the choice's whole text, and the deltas' tokens are what `usage`
 *  counts. */
import type { TokenId } from '../base/ids.js';
import type { FinishReason, TokenEvent, TokenOutput } from '../engine/token-event.js';
import type { Detokenizer } from '../model/detokenizer.js';
import { TextStream } from '../model/text-stream.js';

export interface TextOptions {
  /** null: no text at all, tokens only. */
  readonly tokenizer: Detokenizer | null;
  readonly stopStrings: readonly string[];
  readonly stopTokenIds: readonly TokenId[];
  /** Tokens before which no stop string counts; the engine sees to end and stop tokens. */
  readonly minTokenCount: number;
  /** Keep the stop string, or the text of the end or stop token, in the text. */
  readonly includeStop: boolean;
  readonly special: 'keep' | 'skip';
  /** continuation: the text goes on where the prompt's text ended, so a leading space is kept. */
  readonly position: 'start' | 'continuation';
}

export interface ChoiceDelta {
  readonly choiceIndex: number;
  readonly text: string;
  readonly tokens: readonly TokenOutput[];
  readonly finishReason?: FinishReason;
  /** What ended it on 'stop', when the request named it: a stop string or a stop token id. */
  readonly stopReason?: string | number;
}

type TokensEvent = Extract<TokenEvent, { kind: 'tokens' }>;
type Ending = Pick<ChoiceDelta, 'finishReason' | 'stopReason'>;

export class ChoiceText {
  readonly #options: TextOptions;
  readonly #stream: TextStream | null;
  readonly #choiceIndex: number;
  /** Tokens whose text is held back, sent with the next text. */
  #heldTokens: TokenOutput[] = [];
  #isFinished = false;

  constructor(choiceIndex: number, options: TextOptions) {
    this.#choiceIndex = choiceIndex;
    this.#options = options;
    this.#stream =
      options.tokenizer === null
        ? null
        : new TextStream(options.tokenizer, {
            stopStrings: options.stopStrings,
            includeStopString: options.includeStop,
            minTokenCount: options.minTokenCount,
            special: options.special,
            position: options.position,
          });
  }

  get isFinished(): boolean {
    return this.#isFinished;
  }

  /** null: nothing to tell yet. Tokens after the end of the choice (steps that were in flight) are
   *  dropped. */
  accept(event: TokensEvent): ChoiceDelta | null {
    if (this.#isFinished) return null;
    let text = '';
    for (const [index, token] of event.tokens.entries()) {
      this.#heldTokens.push(token);
      const isEndToken = event.finishReason === 'stop' && index === event.tokens.length - 1;
      if (this.#stream === null || (isEndToken && !this.#options.includeStop)) continue;
      const pushed = this.#stream.push(token.tokenId);
      text += pushed.text;
      if (pushed.stopString !== undefined)
        return this.#finish(text, { finishReason: 'stop', stopReason: pushed.stopString });
    }
    if (event.finishReason === undefined) return this.#delta(text);
    return this.#finish(text + (this.#stream?.flush() ?? ''), {
      finishReason: event.finishReason,
      ...(this.#isOwnStop(event.stopTokenId) ? { stopReason: event.stopTokenId } : {}),
    });
  }

  /** A stop token the request named, as opposed to the model's own end. */
  #isOwnStop(stopTokenId: TokenId | undefined): stopTokenId is TokenId {
    return stopTokenId !== undefined && this.#options.stopTokenIds.includes(stopTokenId);
  }

  #delta(text: string): ChoiceDelta | null {
    return text === '' && this.#stream !== null ? null : this.#take(text, {});
  }

  #finish(text: string, ending: Ending): ChoiceDelta {
    this.#isFinished = true;
    return this.#take(text, ending);
  }

  #take(text: string, ending: Ending): ChoiceDelta {
    const tokens = this.#heldTokens;
    this.#heldTokens = [];
    return { choiceIndex: this.#choiceIndex, text, tokens, ...ending };
  }
}
