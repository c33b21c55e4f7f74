/** The one model this server offers: its names, limits, text side and request defaults. Made once at start,
 *  read by every handler. */
import { InvalidRequestError } from '../base/errors.js';
import type { ModelConfig } from '../model/config.js';
import type { Detokenizer } from '../model/detokenizer.js';
import { type GenerationDefaults, readGenerationConfig } from '../model/generation-config.js';
import { type TextService, ThreadedText } from './text-service.js';
import { type AnswerStyle, answerStyleOf, type ReasoningParserName } from './tools/answer-style.js';
import type { ToolParserName } from './tools/tool-formats.js';

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
  readonly tokenizer: Detokenizer | null;
  /** The way from chats and texts to ids; null as above. */
  readonly text: TextService | null;
  /** Absent: texts are content, and nothing else. */
  readonly answers?: AnswerStyle;
  /** Changes when the served model or the engine version does. */
  readonly fingerprint: string;
}

interface ServedModelOptions {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly names: ServedModel['names'];
  readonly maxModelTokenCount: number;
  readonly tokenizer: 'load' | 'none';
  /** What a text thread starts with. */
  readonly textEntry: URL;
  readonly createdSeconds: number;
  readonly version: string;
  /** Absent: as the chat template shows. */
  readonly toolParser?: ToolParserName | undefined;
  readonly reasoningParser?: ReasoningParserName | undefined;
}

/** Its text threads run until `text` is closed. @throws ModelError for a tokenizer or template that cannot be
 *  used; then none runs. */
export async function loadServedModel(options: ServedModelOptions): Promise<ServedModel> {
  const { folder, config, names, maxModelTokenCount, createdSeconds } = options;
  const text =
    options.tokenizer === 'load' ? await ThreadedText.start({ folder, entry: options.textEntry }) : null;
  try {
    return {
      names,
      createdSeconds,
      maxModelTokenCount,
      vocabCount: config.vocabCount,
      defaults: readGenerationConfig(folder, text?.endTokenId ?? null),
      tokenizer: text?.detokenizer ?? null,
      text,
      answers: answerStyleOf(text?.templateSource ?? null, options),
      fingerprint: `twostroke-${options.version}-${config.architecture}-${config.layerCount}x${config.hiddenCount}`,
    };
  } catch (error) {
    await text?.close();
    throw error;
  }
}

/** The tokenizer, or a 400 that says why there is none. */
export function requireTokenizer(model: ServedModel, param: string): Detokenizer {
  return model.tokenizer ?? refuseText(param);
}

/** The text side, likewise. */
export function requireText(model: ServedModel, param: string): TextService {
  return model.text ?? refuseText(param);
}

function refuseText(param: string): never {
  throw new InvalidRequestError(
    `${param}: this server runs with --skip-tokenizer-init and takes token ids only (POST /v1/completions with "prompt": [ids])`,
    param,
  );
}
