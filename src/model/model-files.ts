/** The JSON documents that describe a model, by their names in a Hugging Face folder: files of the folder,
 *  or for a GGUF file what its keys amount to. Used by everything that reads config, tokenizer and chat
 *  template. */
import path from 'node:path';
import { ggufConfig } from './gguf/config.js';
import { ggufFileOf, readGgufModel } from './gguf/gguf-file.js';
import { ggufGenerationConfig, ggufTokenizer, ggufTokenizerConfig } from './gguf/tokenizer.js';
import { type JsonLimits, type JsonObject, readOptionalJsonObject } from './json-file.js';

interface ModelDocument {
  /** What messages name. */
  readonly file: string;
  /** null: the model has no such document. */
  readonly values: JsonObject | null;
}

/** `model`: a folder or a GGUF file. @throws ModelError */
export function readModelDocument(model: string, name: string, limits?: JsonLimits): ModelDocument {
  const gguf = ggufFileOf(model);
  if (gguf !== null) return { file: gguf, values: ggufDocument(gguf, name) };
  const file = path.join(model, name);
  return { file, values: readOptionalJsonObject(file, limits) };
}

function ggufDocument(file: string, name: string): JsonObject | null {
  const model = readGgufModel(file);
  switch (name) {
    case 'config.json':
      return ggufConfig(model);
    case 'tokenizer.json':
      return ggufTokenizer(model.metadata);
    case 'tokenizer_config.json':
      return ggufTokenizerConfig(model.metadata);
    case 'generation_config.json':
      return ggufGenerationConfig(model.metadata);
    default:
      return null;
  }
}
