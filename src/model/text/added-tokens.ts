/** Tokens that are found in a text as they are, before the model sees it: those of tokenizer.json and, as
 *  transformers adds them, those that only tokenizer_config.json names. Used by tokenizer.ts (encoding) and
 *  token-table.ts (decoding). Found as the Rust tokenizers library finds them: leftmost, of those the
 *  longest; `single_word`, `lstrip` and `rstrip` honoured. */
import { ModelError } from '../../base/errors.js';
import type { TokenId } from '../../base/ids.js';
import { isTokenId, tokenIdMax } from '../config-fields.js';
import { describeJson, isJsonObject, type JsonObject, type JsonValue } from '../json-file.js';
import { endWithoutSpaces } from './normalizers.js';
import { wordClass } from './patterns.js';

export interface AddedToken {
  readonly id: TokenId;
  readonly content: string;
  readonly special: boolean;
  /** Looked for in the normalised text. */
  readonly normalized: boolean;
  readonly singleWord: boolean;
  /** Takes the white space before or after it along. */
  readonly leftStrip: boolean;
  readonly rightStrip: boolean;
}

/** tokenizer.json's "added_tokens". @throws ModelError */
export function readAddedTokens(file: string, value: JsonValue | undefined): readonly AddedToken[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value))
    throw new ModelError(`${file}: "added_tokens" must be a list, got ${describeJson(value)}`);
  return (value as readonly JsonValue[]).map((token) => {
    if (!isJsonObject(token) || !isTokenId(token.id) || typeof token.content !== 'string') {
      throw new ModelError(
        `${file}: "added_tokens" holds ${describeJson(token)}, which has no id and content`,
      );
    }
    return addedToken(token.id, token.content, token);
  });
}

/** As transformers: tokenizer_config.json's "added_tokens_decoder" is added token by token, then what it
 *  names as `eos_token` and the like. A token that is known keeps its id and gets these flags, another gets
 *  the next free id, whatever id it stands under. @throws ModelError */
export function withConfigTokens(
  file: string,
  config: JsonObject,
  known: readonly AddedToken[],
  vocabulary: ReadonlyMap<string, TokenId>,
): readonly AddedToken[] {
  const tokens = new Map(known.map((token) => [token.content, token]));
  let nextId = Math.max(
    vocabulary.size,
    known.reduce((most, { id }) => Math.max(most, id + 1), 0),
  );
  for (const { content, flags } of decoderTokens(file, config.added_tokens_decoder)) {
    const id = tokens.get(content)?.id ?? vocabulary.get(content) ?? nextId++;
    if (id > tokenIdMax)
      throw new ModelError(`${file}: "added_tokens_decoder" needs token id ${id} (at most ${tokenIdMax})`);
    tokens.set(content, addedToken(id, content, flags));
  }
  for (const content of namedTokens(config)) {
    const id = vocabulary.get(content);
    if (id !== undefined && !tokens.has(content))
      tokens.set(content, addedToken(id, content, { special: true }));
  }
  return [...tokens.values()];
}

interface ConfigToken {
  readonly content: string;
  readonly flags: JsonObject;
}

/** Ordered by the ids they stand under. */
function decoderTokens(file: string, value: JsonValue | undefined): readonly ConfigToken[] {
  if (value === undefined || value === null) return [];
  if (!isJsonObject(value))
    throw new ModelError(`${file}: "added_tokens_decoder" must be an object, got ${describeJson(value)}`);
  const entries = Object.entries(value).sort(([a], [b]) => Number(a) - Number(b));
  const tokens = entries.map(([, token]) => {
    if (isJsonObject(token) && typeof token.content === 'string')
      return { content: token.content, flags: token };
    throw new ModelError(
      `${file}: "added_tokens_decoder" holds ${describeJson(token)}, which has no content`,
    );
  });
  return tokens.filter(({ content }) => content !== '');
}

const specialNames = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
];

function namedTokens(config: JsonObject): readonly string[] {
  const more = config.additional_special_tokens;
  const values = [
    ...specialNames.map((name) => config[name]),
    ...(Array.isArray(more) ? (more as readonly JsonValue[]) : []),
  ];
  return values.flatMap((value) => tokenText(value) ?? []);
}

/** A token as a config writes it: its text, or an object with `content`. */
export function tokenText(value: JsonValue | undefined): string | null {
  const content = isJsonObject(value) ? value.content : value;
  return typeof content === 'string' && content !== '' ? content : null;
}

function addedToken(id: TokenId, content: string, flags: JsonObject): AddedToken {
  const special = flags.special === true;
  return {
    id,
    content,
    special,
    normalized: typeof flags.normalized === 'boolean' ? flags.normalized : !special,
    singleWord: flags.single_word === true,
    leftStrip: flags.lstrip === true,
    rightStrip: flags.rstrip === true,
  };
}

/** A part of a text: a token or what is between tokens. */
type Section = { readonly text: string; readonly start: number; readonly id: TokenId | null };

interface TrieNode {
  readonly next: Map<string, TrieNode>;
  token: AddedToken | null;
}

/** Finds a set of tokens, each under the text it has in what is searched. */
export class TokenFinder {
  readonly #root: TrieNode = { next: new Map(), token: null };

  constructor(tokens: readonly (readonly [string, AddedToken])[]) {
    for (const [text, token] of tokens) {
      let node = this.#root;
      for (let i = 0; i < text.length; i++) {
        const unit = text.charAt(i);
        const next = node.next.get(unit) ?? { next: new Map(), token: null };
        node.next.set(unit, next);
        node = next;
      }
      if (node !== this.#root) node.token = token;
    }
  }

  split(text: string): readonly Section[] {
    const sections: Section[] = [];
    let done = 0;
    const plain = (end: number) => {
      if (end > done) sections.push({ text: text.slice(done, end), start: done, id: null });
    };
    for (let i = 0; i < text.length; ) {
      const found = this.#longestAt(text, i);
      if (found === null) {
        i++;
        continue;
      }
      const { token, end } = found;
      if (!token.singleWord || (isWordEnd(text, i) && isWordStart(text, end))) {
        const from = token.leftStrip ? Math.max(done, endWithoutSpaces(text.slice(done, i)) + done) : i;
        const to = token.rightStrip ? end + spacesAt(text, end) : end;
        plain(from);
        sections.push({ text: text.slice(from, to), start: from, id: token.id });
        done = to;
      }
      i = Math.max(end, done);
    }
    plain(text.length);
    return sections;
  }

  #longestAt(text: string, start: number): { readonly token: AddedToken; readonly end: number } | null {
    let node: TrieNode | undefined = this.#root;
    let found: { readonly token: AddedToken; readonly end: number } | null = null;
    for (let i = start; node !== undefined; i++) {
      if (node.token !== null) found = { token: node.token, end: i };
      node = i < text.length ? node.next.get(text.charAt(i)) : undefined;
    }
    return found;
  }
}

const wordAtStart = new RegExp(`^[${wordClass}]`, 'u');
const wordAtEnd = new RegExp(`[${wordClass}]$`, 'u');

/** No word goes on before `index`; two units hold any character. */
function isWordEnd(text: string, index: number): boolean {
  return !wordAtEnd.test(text.slice(Math.max(0, index - 2), index));
}

function isWordStart(text: string, index: number): boolean {
  return !wordAtStart.test(text.slice(index, index + 2));
}

function spacesAt(text: string, start: number): number {
  let end = start;
  while (end < text.length && /\p{White_Space}/u.test(text.charAt(end))) end++;
  return end - start;
}
