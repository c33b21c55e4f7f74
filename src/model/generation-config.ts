/** What a model's authors recommend for sampling, and which tokens end a text. Used by server/ and cli/ for fields a request leaves out.
 *  As in vLLM, `do_sample` is ignored: a request's temperature decides. */
import path from 'node:path';
import type { TokenId } from '../base/ids.js';
import { ConfigFields } from './config-fields.js';
import { readOptionalJsonObject } from './json-file.js';

export interface GenerationDefaults {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly maxTokenCount?: number;
  /** Of generation_config.json; of config.json when it names none. */
  readonly endTokenIds: readonly TokenId[];
}

const fieldNames = {
  temperature: 'temperature',
  topK: 'top_k',
  topP: 'top_p',
  minP: 'min_p',
  repetitionPenalty: 'repetition_penalty',
  maxTokenCount: 'max_new_tokens',
} as const;

/** A missing generation_config.json is no error: then nothing is recommended. @throws ModelError for a broken one. */
export function readGenerationConfig(folder: string): GenerationDefaults {
  const read = (name: string) => new ConfigFields(path.join(folder, name), readOptionalJsonObject(path.join(folder, name)) ?? {});
  const fields = read('generation_config.json');
  const numbers: Record<string, number> = {};
  for (const [key, name] of Object.entries(fieldNames)) {
    const value = fields.optionalNumber(name);
    if (value !== null) numbers[key] = value;
  }
  const named = fields.tokenIds('eos_token_id');
  return { ...numbers, endTokenIds: named.length > 0 ? [...new Set(named)] : read('config.json').tokenIds('eos_token_id') };
}
