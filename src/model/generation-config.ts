/** What a model's authors recommend for sampling, and which tokens end a text. Used by server/ for fields a
 *  request leaves out. As in vLLM, `do_sample` is ignored: a request's temperature decides. */
import type { TokenId } from '../base/ids.js';
import { ConfigFields } from './config-fields.js';
import { readModelDocument } from './model-files.js';

export interface GenerationDefaults {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly maxTokenCount?: number;
  /** Of generation_config.json (of config.json when it names none), and the tokenizer's own, as vLLM: any of
   *  them ends a text. */
  readonly endTokenIds: readonly TokenId[];
}

/** Each with the range that a request may ask for; whole numbers are marked. */
const fields = {
  temperature: { name: 'temperature', min: 0, max: 100, whole: false },
  topK: { name: 'top_k', min: -1, max: 2 ** 31 - 1, whole: true },
  topP: { name: 'top_p', min: 0, max: 1, whole: false },
  minP: { name: 'min_p', min: 0, max: 1, whole: false },
  repetitionPenalty: { name: 'repetition_penalty', min: 0.01, max: 10, whole: false },
  maxTokenCount: { name: 'max_new_tokens', min: 1, max: 2 ** 31 - 1, whole: true },
} as const;

/** `tokenizerEndId`: Tokenizer.endTokenId; null without a tokenizer. A missing generation_config.json is no
 *  error: then nothing is recommended. @throws ModelError for a broken one. */
export function readGenerationConfig(folder: string, tokenizerEndId: TokenId | null): GenerationDefaults {
  const read = (name: string) => {
    const { file, values } = readModelDocument(folder, name);
    return new ConfigFields(file, values ?? {});
  };
  const generation = read('generation_config.json');
  const numbers: Record<string, number> = {};
  for (const [key, { name, min, max, whole }] of Object.entries(fields)) {
    const value = generation.optionalBetween(name, min, max);
    if (value === null) continue;
    if (whole && !Number.isInteger(value)) generation.fail(name, 'an integer');
    numbers[key] = value;
  }
  const config = read('config.json');
  const named = generation.tokenIds('eos_token_id');
  const ids = [
    ...(named.length > 0 ? named : config.tokenIds('eos_token_id')),
    ...(tokenizerEndId === null ? [] : [tokenizerEndId]),
  ];
  const vocabCount = config.optionalCount('vocab_size') ?? Number.POSITIVE_INFINITY;
  // no other is ever sampled
  return { ...numbers, endTokenIds: [...new Set(ids)].filter((id) => id < vocabCount) };
}
