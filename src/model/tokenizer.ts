/** Text to token ids; the way back is detokenizer.ts. Used by server/. Encoding is
 *  text/text-encoding.ts (same ids as Hugging Face's Rust library). What a tokenizer.json asks for may take
 *  for ever: who serves loads and runs it on a thread of its own. */
import { ModelError, messageOf } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { Detokenizer } from './detokenizer.js';
import { type JsonObject, shortened, tokenizerLimits } from './json-file.js';
import { readModelDocument } from './model-files.js';
import { type AddedToken, readAddedTokens, tokenText, withConfigTokens } from './text/added-tokens.js';
import { TextEncoding } from './text/text-encoding.js';
import { readVocabulary, TokenTable } from './token-table.js';

export interface EncodeOptions {
  /** auto: whatever the tokenizer puts around a text (a begin-of-text token, often nothing). Special tokens
   *  written in the text are always recognised. */
  readonly addSpecialTokens: 'auto' | 'none';
}

export class Tokenizer extends Detokenizer {
  /** What a Detokenizer elsewhere needs. */
  readonly table: TokenTable;
  /** tokenizer_config.json's `eos_token`; null when it names none. */
  readonly endTokenId: TokenId | null;
  readonly #encoder: TextEncoding;

  constructor(encoder: TextEncoding, table: TokenTable, endTokenId: TokenId | null) {
    super(table);
    this.table = table;
    this.endTokenId = endTokenId;
    this.#encoder = encoder;
  }

  encode(text: string, options: EncodeOptions): TokenId[] {
    return this.#encoder.encode(text, options.addSpecialTokens);
  }
}

/** `folder`: or a GGUF file. Reads tokenizer.json and, if there, tokenizer_config.json. @throws ModelError */
export function loadTokenizer(folder: string): Tokenizer {
  const { file, values } = readModelDocument(folder, 'tokenizer.json', tokenizerLimits);
  const tokenizer = values ?? noTokenizer(file);
  const { file: configFile, values: configValues } = readModelDocument(folder, 'tokenizer_config.json');
  const config = configValues ?? {};
  try {
    const vocabulary = readVocabulary(file, tokenizer.model);
    const added = withConfigTokens(
      configFile,
      config,
      readAddedTokens(file, tokenizer.added_tokens),
      vocabulary,
    );
    const table = new TokenTable(file, vocabulary, tokenizer.decoder, added);
    return new Tokenizer(
      new TextEncoding(file, tokenizer, added),
      table,
      endTokenIdOf(config, added, vocabulary),
    );
  } catch (error) {
    if (error instanceof ModelError) throw error;
    throw new ModelError(
      `${file}: this tokenizer is not supported: ${shortened(messageOf(error), 200)}`,
      error,
    );
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

function noTokenizer(file: string): never {
  throw new ModelError(
    `${file}: no such file. A model needs a fast tokenizer (tokenizer.json; tokenizer.model alone is not enough), ` +
      'or run it on token ids with --skip-tokenizer-init',
  );
}
