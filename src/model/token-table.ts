/** The bytes each token id stands for, read from tokenizer.json's vocabulary and decoder. Used by
 *  tokenizer.ts; the invariant: text is always the UTF-8 decoding of the tokens' bytes laid end to end, so
 *  that a stream and a whole decode agree. Two alphabets exist:
 *
 *    byte level   each vocabulary character stands for one byte (GPT-2's table): 'Ġ' is 0x20
 *    metaspace    '▁' is a space, '<0xE6>' one byte (byte fallback), everything else itself */
import { ModelError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { isTokenId } from './config-fields.js';
import { describeJson, isJsonObject, type JsonObject, type JsonValue, shortened } from './json-file.js';
import type { AddedToken } from './text/added-tokens.js';
import { byteLevelCharacters } from './text/pre-tokenizers.js';

type BytesOf = (token: string) => Uint8Array;

/** Known decoders have up to five. */
const stepCountMax = 64;
/** Known decoders put one character for another. */
const growthMax = 64;
/** Largest known: 902,000 tokens. */
const vocabularyCountMax = 2 ** 21;

const encoder = new TextEncoder();
const empty = new Uint8Array(0);

export class TokenTable {
  /** One past the largest id that has a token. */
  readonly vocabCount: number;
  /** How many leading spaces the decoder takes off a text (SentencePiece puts one in front when it
   *  encodes). */
  readonly leadingSpaceCount: number;
  readonly #tokens: readonly (string | undefined)[];
  readonly #specialIds: ReadonlySet<TokenId>;
  readonly #bytesOf: BytesOf;
  /** What the Metaspace decoder takes out of the first token; null: nothing. */
  readonly #wordStart: string | null;
  readonly #bytes: Uint8Array[] = [];

  /** `file` is named in messages. @throws ModelError for a tokenizer whose decoding is not known here. */
  constructor(
    file: string,
    vocabulary: ReadonlyMap<string, TokenId>,
    decoder: JsonValue | undefined,
    added: readonly AddedToken[],
  ) {
    const tokens: (string | undefined)[] = [];
    for (const [token, id] of vocabulary) tokens[id] = token;
    for (const token of added) tokens[token.id] = token.content;
    this.#tokens = tokens;
    this.#specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    this.vocabCount = this.#tokens.length;
    const steps = decoderSteps(decoder);
    this.#bytesOf = chooseAlphabet(file, steps);
    this.#wordStart = wordStart(steps);
    this.leadingSpaceCount = countLeadingSpaces(steps);
  }

  isSpecial(id: TokenId): boolean {
    return this.#specialIds.has(id);
  }

  /** Empty for an id without a token (padding of the vocabulary). Callers must not change it. */
  bytes(id: TokenId): Uint8Array {
    const known = this.#bytes[id];
    if (known !== undefined) return known;
    const token = this.#tokens[id];
    if (token === undefined) return empty;
    const bytes = this.#bytesOf(token);
    this.#bytes[id] = bytes;
    return bytes;
  }

  /** Of the first token of a text. Callers must not change it. */
  startBytes(id: TokenId): Uint8Array {
    const token = this.#wordStart === null ? undefined : this.#tokens[id];
    if (token === undefined || this.#wordStart === null || !token.includes(this.#wordStart))
      return this.bytes(id);
    return this.#bytesOf(token.replaceAll(this.#wordStart, ''));
  }
}

/** Every token of the model's own vocabulary. BPE and WordPiece: an object token → id. Unigram: a list of
 *  [token, score]. @throws ModelError */
export function readVocabulary(file: string, model: JsonValue | undefined): ReadonlyMap<string, TokenId> {
  const vocabulary = isJsonObject(model) ? model.vocab : undefined;
  const count = typeof vocabulary === 'object' && vocabulary !== null ? Object.keys(vocabulary).length : 0;
  if (count > vocabularyCountMax)
    throw new ModelError(`${file}: "model.vocab" has ${count} tokens (at most ${vocabularyCountMax})`);
  if (Array.isArray(vocabulary))
    return new Map((vocabulary as readonly JsonValue[]).map((entry, id) => [pieceOf(file, entry), id]));
  if (!isJsonObject(vocabulary))
    throw new ModelError(`${file}: "model.vocab" is missing or of an unknown form`);
  for (const [token, id] of Object.entries(vocabulary)) {
    if (!isTokenId(id))
      throw new ModelError(`${file}: token ${describeJson(token)} has the id ${describeJson(id)}`);
  }
  return new Map(Object.entries(vocabulary) as [string, TokenId][]);
}

function pieceOf(file: string, entry: JsonValue): string {
  if (Array.isArray(entry) && typeof entry[0] === 'string' && typeof entry[1] === 'number') return entry[0];
  throw new ModelError(`${file}: "model.vocab" holds ${describeJson(entry)}, which is no token with a score`);
}

/** A decoder is one step or a sequence of them. */
function decoderSteps(decoder: JsonValue | undefined): readonly JsonObject[] {
  if (!isJsonObject(decoder)) return [];
  if (decoder.type !== 'Sequence') return [decoder];
  return Array.isArray(decoder.decoders)
    ? (decoder.decoders as readonly JsonValue[]).filter(isJsonObject)
    : [];
}

function chooseAlphabet(file: string, steps: readonly JsonObject[]): BytesOf {
  const kinds = steps.map((step) => String(step.type));
  const unknown = kinds.find(
    (kind) => !['ByteLevel', 'Metaspace', 'Replace', 'ByteFallback', 'Fuse', 'Strip'].includes(kind),
  );
  if (unknown !== undefined || kinds.length === 0) {
    throw new ModelError(
      `${file}: decoder ${shortened(unknown ?? 'null', 60)} is not supported (supported: ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip)`,
    );
  }
  if (kinds.includes('ByteLevel')) return byteLevelBytes;
  const replacements = steps.flatMap(readReplacement);
  if (steps.length > stepCountMax)
    throw new ModelError(`${file}: "decoder" has ${steps.length} steps (at most ${stepCountMax})`);
  const growth = replacements.reduce((factor, [pattern, content]) => factor * growthOf(pattern, content), 1);
  if (growth > growthMax)
    throw new ModelError(`${file}: "decoder" can make ${growth} characters of one (at most ${growthMax})`);
  const bytesOfText: BytesOf = (token) =>
    encoder.encode(
      replacements.reduce((text, [pattern, content]) => text.replaceAll(pattern, () => content), token),
    );
  if (!kinds.includes('ByteFallback')) return bytesOfText;
  return (token) => {
    const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
    return hex === undefined ? bytesOfText(token) : Uint8Array.of(Number.parseInt(hex, 16));
  };
}

function readReplacement(step: JsonObject): readonly (readonly [string, string])[] {
  if (step.type === 'Metaspace')
    return [[typeof step.replacement === 'string' ? step.replacement : '▁', ' ']];
  if (step.type !== 'Replace' || !isJsonObject(step.pattern) || typeof step.pattern.String !== 'string')
    return [];
  return [[step.pattern.String, String(step.content)]];
}

/** How many characters a replacement makes of one, at most. */
function growthOf(pattern: string, content: string): number {
  return pattern === '' ? 1 + 2 * content.length : Math.max(1, content.length / pattern.length);
}

function wordStart(steps: readonly JsonObject[]): string | null {
  const metaspace = steps.find((step) => step.type === 'Metaspace');
  if (metaspace === undefined || metaspace.prepend_scheme === 'never' || metaspace.add_prefix_space === false)
    return null;
  return typeof metaspace.replacement === 'string' ? metaspace.replacement : '▁';
}

function countLeadingSpaces(steps: readonly JsonObject[]): number {
  const strip = steps.find((step) => step.type === 'Strip' && step.content === ' ');
  if (strip !== undefined) return typeof strip.start === 'number' ? strip.start : 0;
  return 0;
}

const byteOfCharacter: ReadonlyMap<string, number> = new Map(
  byteLevelCharacters.map((character, byte) => [character, byte]),
);

/** A token with a character outside the table (an added token with a plain space, say) stands for its own
 *  UTF-8. */
function byteLevelBytes(token: string): Uint8Array {
  const bytes = [...token].map((character) => byteOfCharacter.get(character));
  return bytes.every((byte) => byte !== undefined) ? Uint8Array.from(bytes) : encoder.encode(token);
}
