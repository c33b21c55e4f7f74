/** A text to token ids, as Hugging Face's Rust library does it. Used by tokenizer.ts.
 *
 *    text ─► added tokens ─► normalizer ─► added tokens ─► pre-tokenizer ─► model ─► post-processor
 *            (as written)                  (normalised)                     (BPE, Unigram, WordPiece)
 *
 *  The model is @huggingface/tokenizers'; the rest is this folder's, because there JavaScript's and Rust's
 *  notions of characters part. */
import { ModelError } from '../../base/errors.js';
import type { TokenId } from '../../base/ids.js';
import { ConfigFields } from '../config-fields.js';
import { isJsonObject, type JsonObject, type JsonValue } from '../json-file.js';
import { type AddedToken, TokenFinder } from './added-tokens.js';
import { type LibraryModel, LibraryTokenizerClass } from './library.js';
import { type Normalizer, readNormalizer } from './normalizers.js';
import { readPostProcessor } from './post-processor.js';
import { type PreTokenizer, readPreTokenizer } from './pre-tokenizers.js';
import { readSentencePiece } from './sentence-piece.js';

/** Tries take some 250 bytes a character. Largest known: 2 million of 250,000 Unigram tokens, 77,000 of 6,400
 *  added tokens. */
const vocabularyCharactersMax = 2 ** 22;
const addedCharactersMax = 2 ** 18;

export class TextEncoding {
  readonly #asWritten: TokenFinder;
  readonly #normalised: TokenFinder;
  readonly #normalize: Normalizer;
  readonly #preTokenize: PreTokenizer;
  readonly #model: LibraryModel;
  readonly #byteFallback: 'on' | 'off';
  readonly #unknown: 'kept' | 'dropped';
  /** What the post-processor puts around a text. */
  readonly #before: readonly TokenId[];
  readonly #after: readonly TokenId[];

  /** `file` is named in messages. @throws ModelError, or whatever the library makes of a broken model */
  constructor(file: string, tokenizer: JsonObject, added: readonly AddedToken[]) {
    const fields = new ConfigFields(file, tokenizer);
    checkTrieSize(file, added, tokenizer.model);
    const normalize = readNormalizer(fields.object('normalizer'));
    this.#normalize = normalize;
    this.#preTokenize = readPreTokenizer(fields.object('pre_tokenizer'));
    this.#asWritten = new TokenFinder(
      added.filter(({ normalized }) => !normalized).map((token) => [token.content, token]),
    );
    const normalised = added
      .filter((token) => token.normalized)
      .map((token) => [normalize(token.content), token] as const);
    checkCharacters(
      file,
      'added tokens',
      normalised.map(([text]) => text),
      addedCharactersMax,
    );
    this.#normalised = new TokenFinder(normalised);
    const { model } = tokenizer;
    this.#model = readModel(file, model);
    this.#byteFallback = isJsonObject(model) && model.byte_fallback === true ? 'on' : 'off';
    const { type = null, unk_token: unknown = null } = isJsonObject(model) ? model : {};
    this.#unknown = type === 'BPE' && unknown === null && this.#byteFallback === 'off' ? 'dropped' : 'kept';
    const { before, after } = readPostProcessor(fields.object('post_processor'));
    this.#before = before;
    this.#after = after;
  }

  encode(text: string, addSpecialTokens: 'auto' | 'none'): TokenId[] {
    const ids: TokenId[] = addSpecialTokens === 'auto' ? [...this.#before] : [];
    for (const section of this.#asWritten.split(wellFormed(text))) {
      if (section.id !== null) ids.push(section.id);
      else this.#encodeSection(section.text, section.start === 0, ids);
    }
    if (addSpecialTokens === 'auto') ids.push(...this.#after);
    return ids;
  }

  /** What follows a character that the normalizer drops is not the start of the text. */
  #encodeSection(text: string, isFirst: boolean, ids: TokenId[]): void {
    const isKept = isFirst && this.#normalize(String.fromCodePoint(text.codePointAt(0) ?? 0)) !== '';
    for (const section of this.#normalised.split(this.#normalize(text))) {
      if (section.id !== null) ids.push(section.id);
      else this.#encodePlain(section.text, isKept && section.start === 0, ids);
    }
  }

  /** The model sees one word at a time: the library would fuse unknown tokens of several. */
  #encodePlain(text: string, isFirst: boolean, ids: TokenId[]): void {
    for (const piece of this.#preTokenize({ text, isFirst })) {
      for (const token of this.#tokensOf(piece.text)) {
        for (const id of this.#idsOf(token)) ids.push(id);
      }
    }
  }

  /** Without an unknown token the Rust library drops what no token covers before it merges, this one
   *  after. */
  #tokensOf(word: string): readonly string[] {
    const tokens = this.#model([word]);
    if (this.#unknown === 'kept' || tokens.reduce((sum, { length }) => sum + length, 0) === word.length)
      return tokens;
    return this.#model([[...word].filter((character) => this.#model.tokens_to_ids.has(character)).join('')]);
  }

  /** None when the vocabulary has neither the token nor an unknown one. */
  #idsOf(token: string): readonly TokenId[] {
    const id = this.#model.tokens_to_ids.get(token);
    if (id !== undefined) return [id];
    const byteIds = this.#byteFallback === 'on' ? this.#byteIdsOf(token) : null;
    if (byteIds !== null) return byteIds;
    return typeof this.#model.unk_token_id === 'number' ? [this.#model.unk_token_id] : [];
  }

  /** One token per byte, if the vocabulary has them all. The library does this for BPE alone. */
  #byteIdsOf(token: string): readonly TokenId[] | null {
    const bytes = [...Buffer.from(token)].map(
      (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
    );
    const ids = bytes.flatMap((name) => this.#model.tokens_to_ids.get(name) ?? []);
    return ids.length === bytes.length ? ids : null;
  }
}

/** The library's, or one that it does not have. */
function readModel(file: string, model: JsonValue | undefined): LibraryModel {
  if (isJsonObject(model) && model.type === 'SentencePiece') return readSentencePiece(file, model);
  const library = new LibraryTokenizerClass(
    {
      model: withMerges(model),
      post_processor: null,
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: null,
      decoder: null,
    },
    {},
  );
  if (library.model === null) throw new ModelError(`${file}: "model" is missing`);
  return library.model;
}

/** The library counts on a list of merges. */
function withMerges(model: JsonValue | undefined): JsonValue | undefined {
  return isJsonObject(model) && model.type === 'BPE' && model.merges === undefined
    ? { ...model, merges: [] }
    : model;
}

function checkTrieSize(file: string, added: readonly AddedToken[], model: JsonValue | undefined): void {
  const vocabulary =
    isJsonObject(model) && Array.isArray(model.vocab) ? (model.vocab as readonly JsonValue[]) : [];
  const pieces = vocabulary.map((entry) => (Array.isArray(entry) ? String(entry[0]) : ''));
  checkCharacters(file, 'tokens', pieces, vocabularyCharactersMax);
  const contents = added.map(({ content }) => content);
  checkCharacters(file, 'added tokens', contents, addedCharactersMax);
}

function checkCharacters(file: string, what: string, texts: readonly string[], most: number): void {
  const count = texts.reduce((sum, { length }) => sum + length, 0);
  if (count > most) throw new ModelError(`${file}: its ${what} have ${count} characters (at most ${most})`);
}

/** A lone half of a surrogate pair is no character: U+FFFD, as in UTF-8. */
function wellFormed(text: string): string {
  return /\p{Surrogate}/u.test(text) ? Buffer.from(text).toString() : text;
}
