/** What a tokenizer does to a text before it is cut, as the Rust tokenizers library does it. Used by
 *  text-encoding.ts in place of @huggingface/tokenizers' own, which (0.2.0) lowercase by context (a final Σ),
 *  trim JavaScript's white space, read `$&` in a replacement, prepend to nothing, miss ideographs beyond
 *  U+FFFF, and guess at Precompiled by NFKC. */
import { ModelError } from '../../base/errors.js';
import type { ConfigFields } from '../config-fields.js';
import { describeJson } from '../json-file.js';
import { readPattern } from './patterns.js';
import { byteLevelText } from './pre-tokenizers.js';
import { readPrecompiled } from './precompiled.js';

export type Normalizer = (text: string) => string;

/** `fields`: the object "normalizer"; null: the text stays as it is. @throws ModelError */
export function readNormalizer(fields: ConfigFields | null): Normalizer {
  if (fields === null) return (text) => text;
  const type = fields.text('type');
  switch (type) {
    case 'Sequence': {
      const steps = fields.objects('normalizers').map(readNormalizer);
      return (text) => steps.reduce((changed, step) => checkedGrowth(fields.file, text, step(changed)), text);
    }
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
      return (text) => text.normalize(type);
    case 'Lowercase':
      return lowercase;
    case 'Strip':
      return strip(fields);
    case 'StripAccents':
      return (text) => text.replace(/\p{M}/gu, '');
    case 'Replace':
      return replace(fields);
    case 'Prepend':
      return prepend(fields);
    case 'BertNormalizer':
      return bert(fields);
    case 'Nmt':
      return nmt;
    case 'ByteLevel':
      return byteLevelText;
    case 'Precompiled':
      return readPrecompiled(fields);
    default:
      throw new ModelError(`${fields.file}: normalizer ${describeJson(type)} is not supported`);
  }
}

/** Unicode's own forms make at most 18 characters of one; a chain of replacements can double a text at each
 *  step. */
const growthMax = 64;

function checkedGrowth(file: string, before: string, after: string): string {
  if (after.length <= growthMax * (before.length + growthMax)) return after;
  throw new ModelError(`${file}: "normalizer" makes ${after.length} characters of ${before.length}`);
}

/** Character by character: Rust knows no context. */
function lowercase(text: string): string {
  return text.replace(/\p{Changes_When_Lowercased}/gu, (character) => character.toLowerCase());
}

function strip(fields: ConfigFields): Normalizer {
  const start = fields.flag('strip_left', true) ? /^\p{White_Space}+/u : null;
  const stripsEnd = fields.flag('strip_right', true);
  return (text) => {
    const rest = start === null ? text : text.replace(start, '');
    return stripsEnd ? rest.slice(0, endWithoutSpaces(rest)) : rest;
  };
}

/** A loop: the pattern for spaces at an end takes quadratic time on long runs of them elsewhere. */
export function endWithoutSpaces(text: string): number {
  let end = text.length;
  while (end > 0 && /\p{White_Space}/u.test(text.charAt(end - 1))) end--;
  return end;
}

function replace(fields: ConfigFields): Normalizer {
  const pattern = readPattern(fields);
  const content = fields.text('content') ?? '';
  if (content.length > growthMax) fields.fail('content', `at most ${growthMax} characters`);
  return (text) => text.replace(pattern, () => content);
}

function prepend(fields: ConfigFields): Normalizer {
  const prefix = fields.text('prepend') ?? fields.fail('prepend', 'a string');
  if (prefix.length > growthMax) fields.fail('prepend', `at most ${growthMax} characters`);
  return (text) => (text === '' ? text : prefix + text);
}

/** Control characters but the white space among them, as SentencePiece's Nmt rules drop them. */
const dropped = /(?![\0\t\n\f\r\u0080-\u008e\u0090-\u009e])\p{Cc}/gu;

function nmt(text: string): string {
  return text
    .replace(dropped, '')
    .replace(/[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/g, ' ');
}

function bert(fields: ConfigFields): Normalizer {
  const lowercases = fields.flag('lowercase', true);
  const steps: Normalizer[] = [];
  if (fields.flag('clean_text', true)) steps.push(cleaned);
  if (fields.flag('handle_chinese_chars', true)) steps.push((text) => text.replace(ideographs, ' $& '));
  if (fields.flag('strip_accents', lowercases))
    steps.push((text) => text.normalize('NFD').replace(/\p{Mn}/gu, ''));
  if (lowercases) steps.push(lowercase);
  return (text) => steps.reduce((changed, step) => step(changed), text);
}

/** The ranges of the Rust library, U+2B920 included. */
const ideographs =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

function cleaned(text: string): string {
  return text.replace(/(?![\t\n\r])[\0\ufffd\p{Cc}\p{Cf}\p{Co}]/gu, '').replace(/\p{White_Space}/gu, ' ');
}
