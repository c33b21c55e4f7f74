/** The one model this server offers: its names, limits, text side and request defaults. Made once at start, read by every handler. */

import { InvalidRequestError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import type { ChatTemplate } from '../model/chat-template.js';
import type { Tokenizer } from '../model/tokenizer.js';

/** Sampling defaults of the model's generation_config.json; a field of the request wins over them. */
export interface SamplingDefaults {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
}

export interface ServedModel {
  /** The first is the one reported; requests may use any of them. */
  readonly names: readonly [string, ...string[]];
  readonly createdSeconds: number;
  /** Context: prompt and output together. */
  readonly maxModelTokenCount: number;
  readonly vocabCount: number;
  readonly endTokenIds: readonly TokenId[];
  readonly defaults: SamplingDefaults;
  /** null with --skip-tokenizer-init: token ids in, token ids out. */
  readonly tokenizer: Tokenizer | null;
  /** null: the model has none (or no tokenizer). */
  readonly chatTemplate: ChatTemplate | null;
  /** Changes when the served model or the engine version does. */
  readonly fingerprint: string;
}

/** The tokenizer, or a 400 that says why there is none. */
export function requireTokenizer(model: ServedModel, param: string): Tokenizer {
  if (model.tokenizer !== null) return model.tokenizer;
  throw new InvalidRequestError(
    `${param}: this server runs with --skip-tokenizer-init and takes token ids only (POST /v1/completions with "prompt": [ids])`,
    param,
  );
}
