/** llama.cpp's names of pre-tokenizers as those of tokenizer.json: how each vocabulary cuts a text before
 *  its merges. Used by tokenizer.ts. */
import type { JsonObject } from '../json-file.js';

const gpt2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const words = (digits: string) =>
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const cased = (contraction: string, digits: string) =>
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+${contraction}|` +
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*${contraction}|` +
  `${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

/** Patterns are applied one after the other, each within the pieces of the one before. */
const patterns = new Map<string, readonly string[]>(
  Object.entries({
    'gpt-2': [gpt2],
    llama3: [words('\\p{N}{1,3}')],
    qwen2: [words('\\p{N}')],
    digits: ['\\p{N}', gpt2],
    tekken: [cased('', '\\p{N}')],
    'gpt-4o': [cased(`${contractions}?`, '\\p{N}{1,3}')],
    'deepseek-v3': [
      '\\p{N}{1,3}',
      '[一-龥぀-ゟ゠-ヿ]+',
      '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
    ],
  }),
);

const sameAs = new Map(
  Object.entries({
    'gpt-2': [
      'phi-2',
      'mpt',
      'olmo',
      'jais',
      'trillion',
      'jina-es',
      'jina-de',
      'gigachat',
      'roberta-bpe',
      'exaone4',
    ],
    llama3: [
      'llama-v3',
      'llama-bpe',
      'falcon3',
      'falcon-h1',
      'dbrx',
      'smaug-bpe',
      'chatglm-bpe',
      'glm4',
      'pixtral',
    ],
    qwen2: ['stablelm2', 'deepseek-r1-qwen', 'megrez', 'hunyuan', 'kormo'],
    digits: ['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone', 'minerva-7b'],
    'gpt-4o': ['llama4', 'o200k'],
  }).flatMap(([name, others]) => others.map((other) => [other, name] as const)),
);

/** These look a whole word up before they merge, and begin a text with the begin token unless the file
 *  says otherwise. */
const wholeWords = new Set(['llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'falcon-h1', 'pixtral', 'tekken']);

interface PreTokenizer {
  /** tokenizer.json's "pre_tokenizer". */
  readonly steps: JsonObject;
  readonly ignoresMerges: boolean;
  readonly addsBos: boolean;
}

export const preTokenizerNames = [...patterns.keys(), ...sameAs.keys()].sort().join(', ');

/** undefined: not known here. */
export function preTokenizerOf(name: string): PreTokenizer | undefined {
  const found = patterns.get(sameAs.get(name) ?? name);
  if (found === undefined) return undefined;
  const splits = found.map((Regex) => ({
    type: 'Split',
    pattern: { Regex },
    behavior: 'Isolated',
    invert: false,
  }));
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  const isWhole = wholeWords.has(name);
  return {
    steps: { type: 'Sequence', pretokenizers: [...splits, bytes] },
    ignoresMerges: isWhole,
    addsBos: isWhole,
  };
}
