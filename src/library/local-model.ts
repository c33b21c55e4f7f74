/** A model whose engine runs in this process: prompts in, text out, any number at a time. Made by
 *  load-model.ts and `twostroke generate`. The way is the server's (prompt, sampling.ts, generation.ts)
 *  without HTTP, and with an engine in place of the gateway. */
import { systemClock } from '../base/clock.js';
import { asTwostrokeError, InvalidRequestError, TwostrokeError } from '../base/errors.js';
import { requestId } from '../base/ids.js';
import { freshId } from '../base/prng.js';
import { parseWorkerSpecs } from '../control/worker-spec.js';
import { ensureLibrary } from '../device/native-library.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import type { SamplingParams } from '../engine/sampling-params.js';
import type { ChoiceDelta } from '../server/choice-text.js';
import { Generation, type GenerationContext } from '../server/generation.js';
import { stopStringsOf } from '../server/request-options.js';
import { samplingParams } from '../server/sampling.js';
import type { ServedModel } from '../server/served-model.js';
import { type LoadedEngine, loadEngine } from '../worker/load-engine.js';
import { LocalGateway } from './local-gateway.js';
import type { ModelText } from './model-text.js';
import {
  type CheckedGenerateOptions,
  type CheckedModelOptions,
  checkedGenerateOptions,
} from './option-schemas.js';
import type { CompletedText, GenerateOptions, Prompt, TextChunk } from './options.js';
import { type EncodedPrompt, encoded } from './prompt.js';
import { maxTokenCountOf, workerSettings } from './worker-settings.js';

const unmeasured: GenerationContext['metrics'] = { onFirstToken() {}, onTokenGap() {}, onRequestEnd() {} };

export class LocalModel {
  readonly #served: ServedModel;
  readonly #gateway: LocalGateway;

  private constructor(served: ServedModel, gateway: LocalGateway) {
    this.#served = served;
    this.#gateway = gateway;
  }

  /** `tell` gets a line for people when the native library is compiled first. The text is the model's from
   *  here on: it is closed with it, also when this fails. @throws ModelError, DeviceError: what is wrong with
   *  the folder, or with the device. */
  static async load(
    text: ModelText,
    options: CheckedModelOptions,
    tell: (line: string) => void = () => undefined,
  ): Promise<LocalModel> {
    try {
      return new LocalModel(
        text.served,
        new LocalGateway(await loadedEngine(text, options, tell), systemClock),
      );
    } catch (error) {
      await text.served.text?.close();
      throw error;
    }
  }

  get snapshot(): EngineSnapshot {
    return this.#gateway.snapshot;
  }

  /** Returning early from the iteration ends the generation as the signal does. */
  async *generate(prompt: Prompt, options: GenerateOptions = {}): AsyncGenerator<TextChunk, void, undefined> {
    try {
      const checked = checkedGenerateOptions(options);
      yield* this.answer(await this.#encoded(prompt), checked);
    } catch (error) {
      throw asTwostrokeError(inOptionNames(error));
    }
  }

  async complete(prompt: Prompt, options: GenerateOptions = {}): Promise<CompletedText> {
    const chunks: TextChunk[] = [];
    for await (const chunk of this.generate(prompt, options)) chunks.push(chunk);
    const last = chunks.at(-1);
    if (last === undefined || last.finishReason === null)
      throw new TwostrokeError('internal', 'the text has no end');
    const text = chunks.map((chunk) => chunk.text).join('');
    const tokenIds = chunks.flatMap((chunk) => chunk.tokenIds);
    return { text, tokenIds, finishReason: last.finishReason, usage: last.usage };
  }

  async *answer(
    prompt: EncodedPrompt,
    options: CheckedGenerateOptions,
  ): AsyncGenerator<TextChunk, void, undefined> {
    const signal = options.signal ?? undefined;
    const generation = this.#generation(prompt, options);
    const cancel = () => generation.cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    if (signal?.aborted === true) cancel();
    try {
      for await (const delta of generation.deltas()) yield chunkOf(delta, generation);
    } catch (error) {
      if (signal?.aborted !== true) throw error;
      throw new TwostrokeError('cancelled', 'the generation was aborted by its signal', {
        cause: signal.reason,
      });
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** Ends what still runs and gives back the device's memory; idempotent. */
  async close(): Promise<void> {
    await this.#gateway.close().catch((error) => {
      throw asTwostrokeError(error);
    });
    await this.#served.text?.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A model that was closed meanwhile says so, not that its text threads ended. */
  async #encoded(prompt: Prompt): Promise<EncodedPrompt> {
    return encoded(this.#served, prompt).catch((error) => {
      throw this.#gateway.end ?? error;
    });
  }

  #generation({ ids, position }: EncodedPrompt, options: CheckedGenerateOptions): Generation {
    const context = { gateway: this.#gateway, metrics: unmeasured, clock: systemClock };
    const sampling = samplingOf(this.#served, ids.length, options);
    const { priority } = options;
    const id = requestId(freshId('generate'));
    return new Generation(
      context,
      { id, promptIds: ids, sampling, ...(priority === undefined || priority === null ? {} : { priority }) },
      {
        tokenizer: this.#served.tokenizer,
        stopStrings: stopStringsOf(options.stop),
        stopTokenIds: sampling.stopTokenIds,
        minTokenCount: sampling.minTokenCount,
        includeStop: false,
        special: 'skip',
        position,
      },
    );
  }
}

async function loadedEngine(
  { folder, config }: ModelText,
  options: CheckedModelOptions,
  tell: (line: string) => void,
): Promise<LoadedEngine> {
  const [spec] = parseWorkerSpecs(`any:${options.device}`);
  if (spec === undefined)
    throw new InvalidRequestError(`device: ${options.device} is not cpu or cuda:N`, 'device');
  await ensureLibrary(spec.device.kind, tell);
  const settings = workerSettings(options, folder, maxTokenCountOf(options, config));
  const device = { ...spec.device, threadCount: options.threads ?? 0 };
  const worker = { ...settings, role: 'any', device, deviceShareCount: 1, heartbeatEveryMs: 0 } as const;
  return loadEngine(worker, systemClock, {}, () => undefined);
}

function samplingOf(
  served: ServedModel,
  promptTokenCount: number,
  options: CheckedGenerateOptions,
): SamplingParams {
  const body = {
    temperature: options.temperature,
    top_p: options.topP,
    top_k: options.topK,
    min_p: options.minP,
    presence_penalty: options.presencePenalty,
    frequency_penalty: options.frequencyPenalty,
    repetition_penalty: options.repetitionPenalty,
    logit_bias: options.logitBias,
    allowed_token_ids: null,
    seed: options.seed,
    stop_token_ids: options.stopTokenIds,
    ignore_eos: options.ignoreEos,
    min_tokens: options.minTokens,
  };
  const maxTokens = { field: 'maxTokens', count: options.maxTokens ?? null };
  return samplingParams(served, body, promptTokenCount, {
    promptField: 'prompt',
    maxTokens,
    topLogprobCount: null,
    promptLogprobCount: null,
  });
}

/** The API's field names as this side writes them: max_tokens is maxTokens. */
function inOptionNames(error: unknown): unknown {
  if (!(error instanceof InvalidRequestError) || error.param === undefined) return error;
  const { param, message, code } = error;
  const name = param.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
  return new TwostrokeError(code, message.replaceAll(param, name), { param: name, cause: error });
}

function chunkOf({ text, tokens, finishReason }: ChoiceDelta, generation: Generation): TextChunk {
  return {
    text,
    tokenIds: tokens.map(({ tokenId }) => tokenId),
    finishReason: finishReason ?? null,
    usage: {
      promptTokens: generation.promptTokenCount,
      cachedTokens: generation.cachedTokenCount,
      completionTokens: generation.completionTokenCount,
    },
  };
}
