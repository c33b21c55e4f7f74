/** What a model folder holds besides weights, read the same way for an engine in this process and for a
 *  server. */
import { systemClock } from '../base/clock.js';
import { type ModelConfig, readModelConfig } from '../model/config.js';
import { loadServedModel, type ServedModel } from '../server/served-model.js';
import type { ReasoningParserName } from '../server/tools/answer-style.js';
import type { ToolParserName } from '../server/tools/tool-formats.js';
import { packageVersion, textThreadEntry } from './package-folder.js';
import { maxTokenCountOf } from './worker-settings.js';

export interface ModelText {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly served: ServedModel;
}

interface TextOptions {
  readonly names: ServedModel['names'];
  readonly maxModelLen?: number | undefined;
  readonly tokenizer: 'load' | 'none';
  readonly toolParser?: ToolParserName | undefined;
  readonly reasoningParser?: ReasoningParserName | undefined;
}

/** `folder`: as findLocalModel gives it. @throws ModelError for a folder that cannot be used. */
export async function readModelText(folder: string, options: TextOptions): Promise<ModelText> {
  const { names, maxModelLen, tokenizer, toolParser, reasoningParser } = options;
  const config = readModelConfig(folder);
  const served = await loadServedModel({
    folder,
    config,
    names,
    maxModelTokenCount: maxTokenCountOf({ maxModelLen }, config),
    tokenizer,
    toolParser,
    reasoningParser,
    textEntry: textThreadEntry(),
    createdSeconds: Math.floor(systemClock.wallMs() / 1000),
    version: packageVersion(),
  });
  return { folder, config, served };
}
