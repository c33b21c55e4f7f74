/** The one model this server offers: its names, limits, text side and request defaults. Made once at start, read by every handler. */
import { InvalidRequestError } from '../base/errors.js';
import { type ChatTemplate, findChatTemplate } from '../model/chat-template.js';
import type { ModelConfig } from '../model/config.js';
import { type GenerationDefaults, readGenerationConfig } from '../model/generation-config.js';
import { loadTokenizer, type Tokenizer } from '../model/tokenizer.js';
import { type PromptEncoder, ThreadEncoder } from './prompt-encoder.js';

export interface ServedModel {
  /** The first is the one reported; requests may use any of them. */
  readonly names: readonly [string, ...string[]];
  readonly createdSeconds: number;
  /** Context: prompt and output together. */
  readonly maxModelTokenCount: number;
  readonly vocabCount: number;
  /** What the model's authors recommend; a field of the request wins over it. */
  readonly defaults: GenerationDefaults;
  /** null with --skip-tokenizer-init: token ids in, token ids out. */
  readonly tokenizer: Tokenizer | null;
  /** The tokenizer's other half, for texts of any length; null as above. */
  readonly encoder: PromptEncoder | null;
  /** null: the model has none (or no tokenizer). */
  readonly chatTemplate: ChatTemplate | null;
  /** Changes when the served model or the engine version does. */
  readonly fingerprint: string;
}

interface ServedModelOptions {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly names: ServedModel['names'];
  readonly maxModelTokenCount: number;
  readonly tokenizer: 'load' | 'none';
  readonly createdSeconds: number;
  readonly version: string;
}

/** @throws ModelError for a tokenizer or template that cannot be used. */
export function loadServedModel(options: ServedModelOptions): ServedModel {
  const { folder, config, names, maxModelTokenCount, createdSeconds } = options;
  const tokenizer = options.tokenizer === 'load' ? loadTokenizer(folder) : null;
  return {
    names,
    createdSeconds,
    maxModelTokenCount,
    vocabCount: config.vocabCount,
    defaults: readGenerationConfig(folder, tokenizer?.endTokenId ?? null),
    tokenizer,
    encoder: tokenizer === null ? null : new ThreadEncoder(tokenizer, folder),
    chatTemplate: tokenizer !== null ? findChatTemplate(folder) : null,
    fingerprint: `twostroke-${options.version}-${config.architecture}-${config.layerCount}x${config.hiddenCount}`,
  };
}

/** The tokenizer, or a 400 that says why there is none. */
export function requireTokenizer(model: ServedModel, param: string): Tokenizer {
  if (model.tokenizer !== null) return model.tokenizer;
  throw new InvalidRequestError(
    `${param}: this server runs with --skip-tokenizer-init and takes token ids only (POST /v1/completions with "prompt": [ids])`,
    param,
  );
}
