/** Token ids in, text out, as it becomes certain. Used by server/, one per choice. The invariant:
 *  the texts given out, laid end to end, are tokenizer.decode of the ids (up to the stop string), however the
 *  tokens cut characters or stop strings.
 *
 *    bytes of tokens ─► whole characters ─► not part of a possible stop string ─► out
 *                        (incomplete UTF-8 waits)   (its prefix waits)
 */
import type { TokenId } from '../base/ids.js';
import type { Detokenizer } from './detokenizer.js';
import { StopMatcher } from './stop-matcher.js';

interface TextStreamOptions {
  readonly stopStrings: readonly string[];
  readonly includeStopString: boolean;
  /** Stop strings completed by one of so many first tokens do not count. Absent: 0. */
  readonly minTokenCount?: number;
  readonly special: 'keep' | 'skip';
  /** As in Tokenizer.decode. */
  readonly position?: 'start' | 'continuation';
}

interface TextPiece {
  readonly text: string;
  /** Present once this stop string has been completed; nothing more will come. */
  readonly stopString?: string;
}

export class TextStream {
  readonly #tokenizer: Detokenizer;
  readonly #options: TextStreamOptions;
  readonly #stops: StopMatcher;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  /** Leading spaces still to be taken off. */
  #spacesToStrip: number;
  /** No token has been shown of a text that begins here. */
  #isStart: boolean;
  #held = '';
  #tokenCount = 0;
  #state: 'open' | 'ended' = 'open';

  constructor(tokenizer: Detokenizer, options: TextStreamOptions) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#stops = new StopMatcher(options.stopStrings);
    this.#isStart = options.position !== 'continuation';
    this.#spacesToStrip = options.position === 'continuation' ? 0 : tokenizer.leadingSpaceCount;
  }

  /** The text that has become certain with this token; empty after the end. */
  push(tokenId: TokenId): TextPiece {
    if (this.#state === 'ended') return { text: '' };
    this.#tokenCount++;
    if (this.#options.special === 'skip' && this.#tokenizer.isSpecial(tokenId)) return { text: '' };
    const bytes = this.#isStart ? this.#tokenizer.startBytes(tokenId) : this.#tokenizer.tokenBytes(tokenId);
    this.#isStart = false;
    return this.#take(this.#decoder.decode(bytes, { stream: true }));
  }

  /** No more tokens: what was held back. An incomplete character becomes U+FFFD. Empty after a stop
   *  string. */
  flush(): string {
    if (this.#state === 'ended') return '';
    const last = this.#take(this.#decoder.decode());
    this.#state = 'ended';
    const text = last.stopString === undefined ? last.text + this.#held : last.text;
    this.#held = '';
    return text;
  }

  #take(fresh: string): TextPiece {
    const scanned = this.#held.length;
    const shown = this.#withoutLeadingSpaces(fresh);
    this.#held += shown;
    const completed = this.#stops.push(shown); // with every piece: it remembers what it has seen
    const match = this.#tokenCount > (this.#options.minTokenCount ?? 0) ? completed : null;
    if (match !== null) {
      this.#state = 'ended';
      const end = scanned + match.end;
      const text = this.#held.slice(0, this.#options.includeStopString ? end : end - match.stopString.length);
      this.#held = '';
      return { text, stopString: match.stopString };
    }
    const certain = this.#held.length - this.#stops.possibleLength;
    const text = this.#held.slice(0, certain);
    this.#held = this.#held.slice(certain);
    return { text };
  }

  #withoutLeadingSpaces(text: string): string {
    let start = 0;
    while (start < text.length && this.#spacesToStrip > 0) {
      if (text[start] === ' ') {
        start++;
        this.#spacesToStrip--;
      } else {
        this.#spacesToStrip = 0;
      }
    }
    return text.slice(start);
  }
}
