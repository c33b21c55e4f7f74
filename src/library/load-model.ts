/** The package's entry `twostroke`: a model with its engine in this process.
 *
 *    await using model = await loadModel('demo');
 *    for await (const { text } of model.generate('Once upon a time', { maxTokens: 32 }))
 *    process.stdout.write(text);
 *
 *  Invariant: whatever is thrown is a TwostrokeError whose `code` says of what kind, and whose message says
 *  what to do. */
import { asTwostrokeError, InvalidRequestError } from '../base/errors.js';
import { findLocalModel } from '../hub/find-model.js';
import { LocalModel } from './local-model.js';
import { readModelText } from './model-text.js';
import { checkedModelOptions } from './option-schemas.js';
import type { CompletedText, GenerateOptions, ModelOptions, Prompt, TextChunk } from './options.js';

export { type ErrorCode, TwostrokeError } from '../base/errors.js';
export type {
  ChatMessage,
  CompletedText,
  EngineOptions,
  GenerateOptions,
  ModelOptions,
  Prompt,
  TextChunk,
  TokenUsage,
} from './options.js';

/** A loaded model. Requests may run at the same time: they share each step of the device. */
export interface TextModel extends AsyncDisposable {
  /** Text as it becomes certain. Leaving the loop ends the generation. */
  generate(prompt: Prompt, options?: GenerateOptions): AsyncIterable<TextChunk>;
  /** The whole text at once. */
  complete(prompt: Prompt, options?: GenerateOptions): Promise<CompletedText>;
  /** Ends what still runs, with an error, and gives back all memory. May be called again. */
  close(): Promise<void>;
}

/** `model`: a folder with config.json, org/name of a model in Hugging Face's cache, or 'demo'. */
export async function loadModel(model: string, options: ModelOptions = {}): Promise<TextModel> {
  try {
    const checked = checkedModelOptions(options);
    if (typeof model !== 'string')
      throw new InvalidRequestError(`model: expected a folder or a name, not ${typeof model}`, 'model');
    const { maxModelLen } = checked;
    const text = await readModelText(findLocalModel(model), {
      names: [model],
      maxModelLen,
      tokenizer: 'load',
    });
    return await LocalModel.load(text, checked);
  } catch (error) {
    throw asTwostrokeError(error);
  }
}
