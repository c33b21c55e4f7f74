/** Text to token ids and back. Used by server/, cli/ and text-stream.ts. Encoding is text/text-encoding.ts (same ids as Hugging Face's Rust
 *  library); decoding is our own byte table, so that streaming is exact: decode(a ++ b) never rewrites what decode(a) showed, except
 *  for an incomplete character at its end. */
import path from 'node:path';
import { ModelError, messageOf } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { type JsonObject, readOptionalJsonObject, shortened, tokenizerLimits } from './json-file.js';
import { type AddedToken, readAddedTokens, tokenText, withConfigTokens } from './text/added-tokens.js';
import { TextEncoding } from './text/text-encoding.js';
import { readVocabulary, TokenTable } from './token-table.js';

export interface EncodeOptions {
  /** auto: whatever the tokenizer puts around a text (a begin-of-text token, often nothing). Special tokens written in the text are
   *  always recognised. */
  readonly addSpecialTokens: 'auto' | 'none';
}

interface DecodeOptions {
  readonly special: 'keep' | 'skip';
  /** SentencePiece tokenizers put a space in front of a text and take it off again: not in text that continues other text. */
  readonly position?: 'start' | 'continuation';
}

export class Tokenizer {
  /** One past the largest token id; a model's own vocabulary may be padded beyond it. */
  readonly vocabCount: number;
  /** tokenizer_config.json's `eos_token`; null when it names none. */
  readonly endTokenId: TokenId | null;
  readonly #encoder: TextEncoding;
  readonly #table: TokenTable;

  constructor(encoder: TextEncoding, table: TokenTable, endTokenId: TokenId | null) {
    this.vocabCount = table.vocabCount;
    this.endTokenId = endTokenId;
    this.#encoder = encoder;
    this.#table = table;
  }

  encode(text: string, options: EncodeOptions): TokenId[] {
    return this.#encoder.encode(text, options.addSpecialTokens);
  }

  decode(ids: readonly TokenId[], options: DecodeOptions): string {
    const shown = options.special === 'keep' ? ids : ids.filter((id) => !this.#table.isSpecial(id));
    const isStart = options.position !== 'continuation';
    const bytes = shown.map((id, i) => (isStart && i === 0 ? this.#table.startBytes(id) : this.#table.bytes(id)));
    const text = Buffer.concat(bytes).toString('utf8');
    return isStart ? withoutLeadingSpaces(text, this.leadingSpaceCount) : text;
  }

  /** The exact bytes of a token, which may be part of a character. Empty for an id without a token. */
  tokenBytes(id: TokenId): Uint8Array {
    return this.#table.bytes(id);
  }

  /** As tokenBytes, of the first token that `decode` shows of a text. */
  startBytes(id: TokenId): Uint8Array {
    return this.#table.startBytes(id);
  }

  /** A token alone as text; bytes that are no whole character become U+FFFD. */
  tokenText(id: TokenId): string {
    return Buffer.from(this.#table.bytes(id)).toString('utf8');
  }

  isSpecial(id: TokenId): boolean {
    return this.#table.isSpecial(id);
  }

  /** How many spaces `decode` takes off the start of a text. */
  get leadingSpaceCount(): number {
    return this.#table.leadingSpaceCount;
  }
}

/** Reads tokenizer.json and, if there, tokenizer_config.json. @throws ModelError */
export function loadTokenizer(folder: string): Tokenizer {
  const file = path.join(folder, 'tokenizer.json');
  const tokenizer = readTokenizerJson(file);
  const configFile = path.join(folder, 'tokenizer_config.json');
  const config = readOptionalJsonObject(configFile) ?? {};
  try {
    const vocabulary = readVocabulary(file, tokenizer.model);
    const added = withConfigTokens(configFile, config, readAddedTokens(file, tokenizer.added_tokens), vocabulary);
    const table = new TokenTable(file, vocabulary, tokenizer.decoder, added);
    return new Tokenizer(new TextEncoding(file, tokenizer, added), table, endTokenIdOf(config, added, vocabulary));
  } catch (error) {
    if (error instanceof ModelError) throw error;
    throw new ModelError(`${file}: this tokenizer is not supported: ${shortened(messageOf(error), 200)}`, error);
  }
}

function endTokenIdOf(
  config: JsonObject,
  added: readonly AddedToken[],
  vocabulary: ReadonlyMap<string, TokenId>,
): TokenId | null {
  const content = tokenText(config.eos_token);
  if (content === null) return null;
  return added.find((token) => token.content === content)?.id ?? vocabulary.get(content) ?? null;
}

function readTokenizerJson(file: string): JsonObject {
  const tokenizer = readOptionalJsonObject(file, tokenizerLimits);
  if (tokenizer !== null) return tokenizer;
  throw new ModelError(
    `${file}: no such file. A model needs a fast tokenizer (tokenizer.json; tokenizer.model alone is not enough), ` +
      'or run it on token ids with --skip-tokenizer-init',
  );
}

/** At most `count` spaces off the start. */
function withoutLeadingSpaces(text: string, count: number): string {
  let start = 0;
  while (start < count && text[start] === ' ') start++;
  return text.slice(start);
}
