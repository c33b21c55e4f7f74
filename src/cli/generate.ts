/** `twostroke generate`: one prompt, one engine in this process, text to stdout as it is made. Ctrl-C ends it after the text so far. */
import { text as readAll } from 'node:stream/consumers';
import { Command, Option } from 'commander';
import { systemClock } from '../base/clock.js';
import { InvalidRequestError } from '../base/errors.js';
import { requestId, type TokenId } from '../base/ids.js';
import { freshSeed } from '../base/prng.js';
import { parseWorkerSpecs, type WorkerSpec } from '../control/worker-spec.js';
import { ensureLibrary } from '../device/native-library.js';
import type { GenerationRequest, GenerationResult } from '../engine/generation-request.js';
import { greedy } from '../engine/sampling-params.js';
import { readModelConfig } from '../model/config.js';
import type { Detokenizer } from '../model/detokenizer.js';
import { type GenerationDefaults, readGenerationConfig } from '../model/generation-config.js';
import { TextStream } from '../model/text-stream.js';
import { type TextService, ThreadedText } from '../server/text-service.js';
import { type LoadedEngine, loadEngine } from '../worker/load-engine.js';
import { findModel } from './model-option.js';
import { realNumber, wholeNumber } from './option-values.js';
import { standardOutput } from './output.js';
import { listenForStop } from './signals.js';
import { batchInvariantOption, logLevelOption } from './worker-options.js';

interface GenerateOptions {
  readonly model: string;
  readonly device: WorkerSpec;
  readonly maxTokens: number;
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly seed?: number;
  readonly system?: string;
  readonly raw: boolean;
  readonly loadFormat: 'auto' | 'dummy';
  readonly dtype: 'auto' | 'f32' | 'bf16' | 'f16';
  readonly quantize: 'none' | 'int8' | 'fp8';
  readonly batchInvariant: boolean;
  readonly threads?: number;
  readonly json: boolean;
}

export function generateCommand(): Command {
  return new Command('generate')
    .description('generate from one prompt, on this machine, without a server')
    .argument('<prompt>', 'the prompt; "-" reads it from stdin')
    .requiredOption('--model <model>', 'a folder, a Hugging Face id that is in the cache, or "demo"')
    .addOption(new Option('--device <device>', 'cpu or cuda:N').argParser(oneDevice).default(oneDevice('cpu'), 'cpu'))
    .option('--max-tokens <count>', 'most tokens to generate', wholeNumber(1), 512)
    .option('--temperature <number>', "0: always the likeliest token; default: the model's own", realNumber(0, 100))
    .option('--top-p <number>', 'keep the likeliest tokens up to this probability', realNumber(0, 1))
    .option('--top-k <count>', 'keep this many of the likeliest tokens; 0: all', wholeNumber(0))
    .option('--seed <number>', 'same seed, same text', wholeNumber(0))
    .option('--system <text>', 'system message')
    .option('--raw', 'the prompt as it is, without the chat template', false)
    .addOption(new Option('--load-format <format>', 'dummy: random weights').choices(['auto', 'dummy']).default('auto'))
    .addOption(new Option('--dtype <dtype>', 'of the weights').choices(['auto', 'f32', 'bf16', 'f16']).default('auto'))
    .addOption(new Option('--quantize <format>', 'quantise weights at load').choices(['none', 'int8', 'fp8']).default('none'))
    .addOption(batchInvariantOption())
    .option('--threads <count>', 'compute threads; default: all cores', wholeNumber(1, 1024))
    .addOption(logLevelOption())
    .option('--json', 'one JSON object on the last line instead of the text', false)
    .action(generate);
}

async function generate(promptArgument: string, options: GenerateOptions): Promise<void> {
  const stop = listenForStop();
  const folder = findModel(options.model);
  const config = readModelConfig(folder);
  const promptText = promptArgument === '-' ? await stop.orStopped(readAll(process.stdin)) : promptArgument;
  const text = await stop.orStopped(ThreadedText.start({ folder }));
  const promptIds = await stop.orStopped(encode(text, promptText, options)).finally(() => text.close());
  const room = config.maxPositionCount - promptIds.length;
  if (room < 1) {
    throw new InvalidRequestError(`the prompt has ${promptIds.length} tokens, the model's context is ${config.maxPositionCount}`);
  }
  const maxTokenCount = Math.min(options.maxTokens, room);
  const defaults = readGenerationConfig(folder, text.endTokenId);
  const request = requestOf(defaults, promptIds, maxTokenCount, options);
  const loaded = await stop.orStopped(load(folder, promptIds.length + maxTokenCount, options));
  try {
    const end = () => loaded.engine.abort(request.id);
    void stop.received.then(end);
    standardOutput.signal.addEventListener('abort', end);
    await run(loaded, request, text.detokenizer, options);
  } finally {
    await loaded.engine.close();
    loaded.model.close();
    loaded.device.close();
    stop.dispose();
  }
}

/** The chat template where the model has one, unless told otherwise. */
async function encode(text: TextService, prompt: string, options: GenerateOptions): Promise<readonly TokenId[]> {
  if (options.raw || !text.hasChatTemplate) {
    const [ids = new Int32Array()] = await text.encode([prompt], { addSpecialTokens: 'auto' });
    return checked(ids);
  }
  const system = options.system === undefined ? [] : [{ role: 'system', content: options.system }];
  const messages = [...system, { role: 'user', content: prompt }];
  const chat = { messages, options: { addGenerationPrompt: true } };
  return checked(await text.encodeChat(chat, { addSpecialTokens: 'none' }, Number.POSITIVE_INFINITY));
}

function checked(ids: Int32Array): readonly TokenId[] {
  if (ids.length === 0) throw new InvalidRequestError('the prompt is empty');
  return Array.from(ids);
}

function requestOf(
  defaults: GenerationDefaults,
  promptIds: readonly TokenId[],
  maxTokenCount: number,
  options: GenerateOptions,
): GenerationRequest {
  const sampling = {
    ...greedy,
    temperature: options.temperature ?? defaults.temperature ?? 1,
    topK: Math.max(0, options.topK ?? defaults.topK ?? 0),
    topP: options.topP ?? defaults.topP ?? 1,
    minP: defaults.minP ?? 0,
    repetitionPenalty: defaults.repetitionPenalty ?? 1,
    seed: options.seed ?? freshSeed(),
    maxTokenCount,
    endTokenIds: defaults.endTokenIds,
  };
  return { id: requestId('generate'), promptIds, sampling };
}

const tokenBudget = 512;

async function load(folder: string, contextTokenCount: number, options: GenerateOptions): Promise<LoadedEngine> {
  const { device } = options.device;
  await ensureLibrary(device.kind, (line) => process.stderr.write(`${line}\n`));
  const config = {
    ...{ modelFolder: folder, loadFormat: options.loadFormat, dtype: options.dtype, quantize: options.quantize },
    ...{ kvDtype: 'auto' as const, blockTokenCount: 16, tokenBudget, prefillChunkTokenCount: tokenBudget },
    ...{ sequenceCountMax: 1, maxModelTokenCount: contextTokenCount, prefixCaching: 'off' as const, depth: 2 as const },
    ...{
      role: 'any' as const,
      device: { ...device, threadCount: options.threads ?? 0 },
      batchInvariant: options.batchInvariant ? ('on' as const) : ('off' as const),
      deviceShareCount: 1,
      gpuMemoryShare: 0.9,
      heartbeatEveryMs: 0,
    },
  };
  return loadEngine(config, systemClock, {}, () => undefined);
}

async function run(
  { engine }: LoadedEngine,
  request: GenerationRequest,
  tokenizer: Detokenizer,
  options: GenerateOptions,
): Promise<void> {
  const stream = new TextStream(tokenizer, {
    stopStrings: [],
    includeStopString: false,
    special: 'skip',
    position: options.raw ? 'continuation' : 'start',
  });
  const texts: string[] = [];
  const show = (text: string) => {
    texts.push(text);
    if (!options.json) process.stdout.write(text);
  };
  const results = await engine.generate([request], (event) => {
    if (event.kind === 'tokens') for (const { tokenId } of event.tokens) show(stream.push(tokenId).text);
  });
  show(stream.flush());
  process.stdout.write(options.json ? `${JSON.stringify(summary(request, results[0], texts.join('')))}\n` : '\n');
}

function summary({ promptIds }: GenerationRequest, result: GenerationResult | undefined, text: string): object {
  const [choice] = result?.choices ?? [];
  const outputTokenCount = choice?.tokens.length ?? 0;
  const { ttftMs = 0, e2elMs = 0 } = result ?? {};
  const decodeSeconds = (e2elMs - ttftMs) / 1000;
  return {
    text,
    tokenIds: choice?.tokens.map(({ tokenId }) => tokenId) ?? [],
    finishReason: choice?.finishReason ?? null,
    promptTokenCount: promptIds.length,
    outputTokenCount,
    ttftMs,
    decodeTokensPerSecond: outputTokenCount > 1 ? (outputTokenCount - 1) / decodeSeconds : null,
  };
}

function oneDevice(text: string): WorkerSpec {
  const [spec] = parseWorkerSpecs(`any:${text}`);
  if (spec === undefined) throw new InvalidRequestError(`--device ${text}: expected cpu or cuda:N`);
  return spec;
}
