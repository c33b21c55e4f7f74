/** `twostroke generate`: one prompt, one engine in this process, text to stdout as it is made. Ctrl-C ends it
 *  after the text so far. */
import { text as readAll } from 'node:stream/consumers';
import { Command } from 'commander';
import { systemClock } from '../base/clock.js';
import { ContextLengthError, TwostrokeError } from '../base/errors.js';
import { LocalModel } from '../library/local-model.js';
import { type ModelText, readModelText } from '../library/model-text.js';
import {
  checkedGenerateOptions,
  checkedModelOptions,
  choices,
  engineDefaults,
} from '../library/option-schemas.js';
import type { ModelOptions, Prompt, TextChunk } from '../library/options.js';
import { type EncodedPrompt, encoded } from '../library/prompt.js';
import { modelOptionText, modelPath } from './model-option.js';
import { realNumber, wholeNumber } from './option-values.js';
import { standardOutput } from './output.js';
import { listenForStop } from './signals.js';
import { batchInvariantOption, choice, logLevelOption } from './worker-options.js';

interface GenerateOptions {
  readonly model: string;
  readonly device: NonNullable<ModelOptions['device']>;
  readonly maxTokens: number;
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly seed?: number;
  readonly system?: string;
  readonly raw: boolean;
  readonly loadFormat: 'auto' | 'dummy';
  readonly dtype: 'auto' | 'f32' | 'bf16' | 'f16';
  readonly quantize: 'none' | 'int4' | 'int8' | 'fp8';
  readonly batchInvariant: boolean;
  readonly threads?: number;
  readonly json: boolean;
}

export function generateCommand(): Command {
  return new Command('generate')
    .description('generate from one prompt, on this machine, without a server')
    .argument('<prompt>', 'the prompt; "-" reads it from stdin')
    .requiredOption('--model <model>', modelOptionText)
    .option('--device <device>', 'cpu or cuda:N', 'cpu')
    .option('--max-tokens <count>', 'most tokens to generate', wholeNumber(1), 512)
    .option(
      '--temperature <number>',
      "0: always the likeliest token; default: the model's own",
      realNumber(0, 100),
    )
    .option('--top-p <number>', 'keep the likeliest tokens up to this probability', realNumber(0, 1))
    .option('--top-k <count>', 'keep this many of the likeliest tokens; 0: all', wholeNumber(0))
    .option('--seed <number>', 'same seed, same text', wholeNumber(0))
    .option('--system <text>', 'system message')
    .option('--raw', 'the prompt as it is, without the chat template', false)
    .addOption(
      choice(
        '--load-format <format>',
        'dummy: random weights',
        choices.loadFormat,
        engineDefaults.loadFormat,
      ),
    )
    .addOption(choice('--dtype <dtype>', 'of the weights', choices.dtype, engineDefaults.dtype))
    .addOption(
      choice('--quantize <format>', 'quantise weights at load', choices.quantize, engineDefaults.quantize),
    )
    .addOption(batchInvariantOption())
    .option('--threads <count>', 'compute threads; default: all cores', wholeNumber(1, 1024))
    .addOption(logLevelOption())
    .option('--json', 'one JSON object on the last line instead of the text', false)
    .action(generate);
}

async function generate(promptArgument: string, options: GenerateOptions): Promise<void> {
  const stop = listenForStop();
  const given = promptArgument === '-' ? await stop.orStopped(readAll(process.stdin)) : promptArgument;
  const folder = await stop.orStopped(modelPath(options.model, options.loadFormat, stop.signal));
  const text = await stop.orStopped(readModelText(folder, { names: [options.model], tokenizer: 'load' }));
  const prompt = await stop.orStopped(encoded(text.served, promptOf(text, given, options)));
  const maxTokens = Math.min(options.maxTokens, roomBehind(prompt, text));
  const model = await stop.orStopped(load(text, prompt.ids.length + maxTokens, options));
  const signal = AbortSignal.any([stop.signal, standardOutput.signal]);
  try {
    await run(model, prompt, maxTokens, signal, options);
  } finally {
    await model.close();
    stop.dispose();
  }
}

/** A chat where the model has a template, unless asked otherwise. */
function promptOf({ served }: ModelText, content: string, { raw, system }: GenerateOptions): Prompt {
  if (raw || served.text?.hasChatTemplate !== true) return content;
  const user = { role: 'user', content } as const;
  return system === undefined ? [user] : [{ role: 'system', content: system }, user];
}

function roomBehind({ ids }: EncodedPrompt, { config }: ModelText): number {
  const room = config.maxPositionCount - ids.length;
  if (room > 0) return room;
  throw new ContextLengthError(
    `the prompt has ${ids.length} tokens, the model's context is ${config.maxPositionCount}`,
    'prompt',
  );
}

/** For this prompt and its answer alone. */
function load(text: ModelText, maxModelLen: number, options: GenerateOptions): Promise<LocalModel> {
  const { device, loadFormat, dtype, quantize, batchInvariant, threads } = options;
  const sized = { maxModelLen, maxNumSeqs: 1, prefixCaching: false };
  const checked = checkedModelOptions({
    device,
    loadFormat,
    dtype,
    quantize,
    batchInvariant,
    threads,
    ...sized,
  });
  return LocalModel.load(text, checked, (line) => process.stderr.write(`${line}\n`));
}

async function run(
  model: LocalModel,
  prompt: EncodedPrompt,
  maxTokens: number,
  signal: AbortSignal,
  options: GenerateOptions,
): Promise<void> {
  const { temperature, topP, topK, seed, json } = options;
  const sampling = checkedGenerateOptions({ maxTokens, temperature, topP, topK, seed, signal });
  const startMs = systemClock.nowMs();
  const chunks: TimedChunk[] = [];
  try {
    for await (const chunk of model.answer(prompt, sampling)) {
      chunks.push({ ...chunk, ms: systemClock.nowMs() - startMs });
      if (!json) process.stdout.write(chunk.text);
    }
  } catch (error) {
    if (!(error instanceof TwostrokeError && error.code === 'cancelled')) throw error;
  }
  process.stdout.write(json ? `${JSON.stringify(summary(prompt, chunks))}\n` : '\n');
}

interface TimedChunk extends TextChunk {
  /** Since the prompt was given to the engine. */
  readonly ms: number;
}

function summary({ ids }: EncodedPrompt, chunks: readonly TimedChunk[]): object {
  const tokenIds = chunks.flatMap((chunk) => chunk.tokenIds);
  const [first, last] = [chunks[0], chunks.at(-1)];
  const ttftMs = first?.ms ?? 0;
  const laterTokenCount = tokenIds.length - (first?.tokenIds.length ?? 0);
  const decodeSeconds = ((last?.ms ?? 0) - ttftMs) / 1000;
  return {
    text: chunks.map(({ text }) => text).join(''),
    tokenIds,
    finishReason: last?.finishReason ?? null,
    promptTokenCount: ids.length,
    outputTokenCount: tokenIds.length,
    ttftMs,
    decodeTokensPerSecond: laterTokenCount > 0 ? laterTokenCount / decodeSeconds : null,
  };
}
