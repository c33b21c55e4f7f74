/** Cuts a normalised text into the words that the tokenizer's model sees, as the Rust tokenizers library
 *  does. Used by text-encoding.ts in place of @huggingface/tokenizers' own, which (0.2.0) use JavaScript's
 *  classes (Digits, Whitespace, ByteLevel), know one behaviour of Punctuation and two of Split, do not cut in
 *  Metaspace, and count UTF-16 units in FixedLength. */
import { ModelError } from '../../base/errors.js';
import type { ConfigFields } from '../config-fields.js';
import { describeJson } from '../json-file.js';
import {
  type Behaviour,
  cut,
  findParts,
  inverted,
  numeric,
  type Part,
  punctuation,
  readBehaviour,
  readPattern,
  whitespace,
  wordClass,
} from './patterns.js';

interface Piece {
  readonly text: string;
  /** Whether it begins where the whole text does. */
  readonly isFirst: boolean;
}

/** One piece into pieces; none of them empty. */
export type PreTokenizer = (piece: Piece) => readonly Piece[];

/** `fields`: the object "pre_tokenizer"; null: the text stays whole. @throws ModelError */
export function readPreTokenizer(fields: ConfigFields | null): PreTokenizer {
  if (fields === null) return (piece) => [piece];
  const type = fields.text('type');
  switch (type) {
    case 'Sequence':
      return sequence(fields.objects('pretokenizers').map(readPreTokenizer));
    case 'Digits':
      return splitting(
        (text) => findParts(text, numeric),
        fields.flag('individual_digits', false) ? 'Isolated' : 'Contiguous',
      );
    case 'Whitespace':
      return splitting((text) => inverted(findParts(text, word)), 'Removed');
    case 'WhitespaceSplit':
      return splitting((text) => findParts(text, whitespace), 'Removed');
    case 'BertPreTokenizer':
      return sequence([
        splitting((text) => findParts(text, whitespace), 'Removed'),
        splitting((text) => findParts(text, punctuation), 'Isolated'),
      ]);
    case 'Punctuation':
      return splitting((text) => findParts(text, punctuation), readBehaviour(fields, 'Isolated'));
    case 'Split':
      return split(fields);
    case 'CharDelimiterSplit':
      return charDelimiterSplit(fields);
    case 'FixedLength':
      return fixedLength(fields.count('length', 5));
    case 'Metaspace':
      return metaspace(fields);
    case 'ByteLevel':
      return byteLevel(fields);
    default:
      throw new ModelError(`${fields.file}: pre-tokenizer ${describeJson(type)} is not supported`);
  }
}

const word = new RegExp(`[${wordClass}]+|[^${wordClass}\\p{White_Space}]+`, 'gu');
/** GPT-2's, with Oniguruma's `\s`. */
const byteLevelWord =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

function sequence(steps: readonly PreTokenizer[]): PreTokenizer {
  return (piece) => steps.reduce<readonly Piece[]>((pieces, step) => pieces.flatMap(step), [piece]);
}

function splitting(find: (text: string) => readonly Part[], behaviour: Behaviour): PreTokenizer {
  return ({ text, isFirst }) =>
    cut(find(text), behaviour).map(({ start, end }) => ({
      text: text.slice(start, end),
      isFirst: isFirst && start === 0,
    }));
}

function split(fields: ConfigFields): PreTokenizer {
  const pattern = readPattern(fields);
  const find = (text: string) => findParts(text, pattern);
  return splitting(
    fields.flag('invert', false) ? (text) => inverted(find(text)) : find,
    readBehaviour(fields),
  );
}

function charDelimiterSplit(fields: ConfigFields): PreTokenizer {
  const delimiter = oneCharacter(fields, 'delimiter', null);
  return splitting((text) => findParts(text, new RegExp(escaped(delimiter), 'gu')), 'Removed');
}

/** Characters, not UTF-16 units. */
function fixedLength(length: number): PreTokenizer {
  const run = new RegExp(`[\\s\\S]{1,${length}}`, 'gu');
  return splitting((text) => findParts(text, run), 'Isolated');
}

function metaspace(fields: ConfigFields): PreTokenizer {
  const replacement = oneCharacter(fields, 'replacement', '▁');
  const scheme = fields.flag('add_prefix_space', true)
    ? (fields.text('prepend_scheme') ?? 'always')
    : 'never';
  if (!['always', 'first', 'never'].includes(scheme))
    fields.fail('prepend_scheme', '"always", "first" or "never"');
  const separator = new RegExp(escaped(replacement), 'gu');
  const cutting = fields.flag('split', true)
    ? splitting((text) => findParts(text, separator), 'MergedWithNext')
    : (piece: Piece) => [piece];
  return ({ text, isFirst }) => {
    const marked = text.replaceAll(' ', () => replacement);
    const needsReplacement = scheme === 'always' || (scheme === 'first' && isFirst);
    return cutting({
      text: needsReplacement && !marked.startsWith(replacement) ? replacement + marked : marked,
      isFirst,
    });
  };
}

function byteLevel(fields: ConfigFields): PreTokenizer {
  const addsSpace = fields.flag('add_prefix_space', true);
  const cutting: PreTokenizer = fields.flag('use_regex', true)
    ? splitting((text) => findParts(text, byteLevelWord), 'Isolated')
    : (piece) => [piece];
  return ({ text, isFirst }) =>
    cutting({ text: addsSpace && !text.startsWith(' ') ? ` ${text}` : text, isFirst }).map((piece) => ({
      ...piece,
      text: byteLevelText(piece.text),
    }));
}

/** Each byte of the text as one character of GPT-2's table. */
export function byteLevelText(text: string): string {
  let mapped = '';
  for (const byte of Buffer.from(text)) mapped += byteLevelCharacters[byte];
  return mapped;
}

/** GPT-2's table: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and on, in order. */
export const byteLevelCharacters: readonly string[] = (() => {
  const isPrintable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPrintable(byte) ? byte : next++));
})();

function oneCharacter(fields: ConfigFields, name: string, fallback: string | null): string {
  const text = fields.text(name) ?? fallback;
  return text !== null && text !== '' && text.length <= 2 && [...text].length === 1
    ? text
    : fields.fail(name, 'one character');
}

function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
}
