/** Token ids → text. Used by server/ and text-stream.ts, and by tokenizer.ts, which adds the way back.
 *  Decoding is a table of bytes, so that streaming is exact: decode(a ++ b) never rewrites what decode(a)
 *  showed, except for an incomplete character at its end. The table can be packed and sent to another thread:
 *  whoever only decodes never runs what a tokenizer.json asks for. */
import { ModelError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';

interface DecodeOptions {
  readonly special: 'keep' | 'skip';
  /** SentencePiece tokenizers put a space in front of a text and take it off again: not in text that
   *  continues other text. */
  readonly position?: 'start' | 'continuation';
}

/** The bytes each token stands for. */
interface TokenBytes {
  /** One past the largest id that has a token. */
  readonly vocabCount: number;
  /** How many leading spaces the decoder takes off a text. */
  readonly leadingSpaceCount: number;
  isSpecial(id: TokenId): boolean;
  /** Empty for an id without a token. Callers must not change it. */
  bytes(id: TokenId): Uint8Array;
  /** Of the first token of a text. */
  startBytes(id: TokenId): Uint8Array;
}

export class Detokenizer {
  readonly #table: TokenBytes;

  constructor(table: TokenBytes) {
    this.#table = table;
  }

  /** One past the largest token id; a model's own vocabulary may be padded beyond it. */
  get vocabCount(): number {
    return this.#table.vocabCount;
  }

  decode(ids: readonly TokenId[], options: DecodeOptions): string {
    const shown = options.special === 'keep' ? ids : ids.filter((id) => !this.#table.isSpecial(id));
    const isStart = options.position !== 'continuation';
    const bytes = shown.map((id, i) =>
      isStart && i === 0 ? this.#table.startBytes(id) : this.#table.bytes(id),
    );
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

/** At most `count` spaces off the start. */
function withoutLeadingSpaces(text: string, count: number): string {
  let start = 0;
  while (start < count && text[start] === ' ') start++;
  return text.slice(start);
}

/** The bytes of many tokens, one after the other. */
interface PackedBytes {
  /** Where each token's bytes begin, and one past the last. */
  readonly starts: Uint32Array;
  readonly bytes: Uint8Array;
}

/** A table as plain arrays, for postMessage. */
export interface PackedTokens {
  readonly leadingSpaceCount: number;
  readonly tokens: PackedBytes;
  /** Of first tokens; null: as everywhere. */
  readonly startTokens: PackedBytes | null;
  /** 1 for a special token. */
  readonly special: Uint8Array;
}

/** Far above any vocabulary: the largest hold a few MB, with tokens of up to 1 KB or so. What a token says is
 *  sent to clients. */
const packedBytesMax = 2 ** 28;
const tokenBytesMax = 2 ** 16;

/** @throws ModelError for a table that no honest tokenizer has. */
export function packTokens(table: TokenBytes): PackedTokens {
  const ids = Array.from({ length: table.vocabCount }, (_, id) => id);
  const hasStarts = ids.some((id) => table.startBytes(id).length !== table.bytes(id).length);
  return {
    leadingSpaceCount: table.leadingSpaceCount,
    tokens: packBytes(ids, (id) => table.bytes(id)),
    startTokens: hasStarts ? packBytes(ids, (id) => table.startBytes(id)) : null,
    special: Uint8Array.from(ids, (id) => Number(table.isSpecial(id))),
  };
}

function packBytes(ids: readonly TokenId[], bytesOf: (id: TokenId) => Uint8Array): PackedBytes {
  const starts = new Uint32Array(ids.length + 1);
  for (const id of ids) {
    const { length } = bytesOf(id);
    if (length > tokenBytesMax)
      throw new ModelError(
        `the tokenizer's token ${id} is ${length} bytes long; at most ${tokenBytesMax} are`,
      );
    const next = (starts[id] ?? 0) + length;
    if (next > packedBytesMax)
      throw new ModelError(`the tokenizer's tokens are more than ${packedBytesMax} bytes long together`);
    starts[id + 1] = next;
  }
  const bytes = new Uint8Array(starts[ids.length] ?? 0);
  for (const id of ids) bytes.set(bytesOf(id), starts[id]);
  return { starts, bytes };
}

export function unpackTokens({ leadingSpaceCount, tokens, startTokens, special }: PackedTokens): TokenBytes {
  return {
    vocabCount: special.length,
    leadingSpaceCount,
    isSpecial: (id) => special[id] === 1,
    bytes: (id) => bytesAt(tokens, id),
    startBytes: (id) => bytesAt(startTokens ?? tokens, id),
  };
}

function bytesAt({ starts, bytes }: PackedBytes, id: TokenId): Uint8Array {
  return bytes.subarray(starts[id] ?? 0, starts[id + 1] ?? starts[id] ?? 0);
}
