/** The options that say which model runs on which workers, and how: the same for `serve` and `profile`. */
import { type Command, Option } from 'commander';
import { parseWorkerSpecs } from '../control/worker-spec.js';
import type { WorkerOptions as GatewayWorkerOptions } from '../library/gateway-options.js';
import {
  type CheckedServerOptions,
  choices,
  engineDefaults,
  serverDefaults,
} from '../library/option-schemas.js';
import { defaultStepLimits, type StepLimits } from '../worker/step-limits.js';
import { modelOptionText } from './model-option.js';
import { blockTokenCount, byteCount, realNumber, wholeNumber } from './option-values.js';

/** What commander gives, after the parsers below. */
export interface WorkerFlags extends GatewayWorkerOptions, Pick<CheckedServerOptions, 'model' | 'logLevel'> {}

export const logLevelOption = () =>
  new Option('--log-level <level>', 'what goes to stderr')
    .choices(choices.logLevel)
    .default(serverDefaults.logLevel);

export const batchInvariantOption = () =>
  new Option(
    '--batch-invariant',
    'same request, same tokens, whatever else is in the batch and whichever path it takes; slower on GPUs, CPU workers always are',
  ).default(engineDefaults.batchInvariant);

export const choice = (flags: string, text: string, choices: readonly string[], fallback: string) =>
  new Option(flags, text).choices(choices).default(fallback);
const byDevice = (limit: keyof StepLimits) =>
  `default: ${defaultStepLimits.cuda[limit]} on a GPU, ${defaultStepLimits.cpu[limit]} on a CPU`;
export const count = (flags: string, text: string, min: number, max?: number) =>
  new Option(flags, text).argParser(wholeNumber(min, max));

export function addWorkerOptions(command: Command): Command {
  return command
    .requiredOption('--model <model>', modelOptionText)
    .addOption(
      new Option(
        '--workers <spec>',
        'role:device[*count][?threads=N&…], comma separated; roles any, prefill, decode',
      )
        .argParser((text) => parseWorkerSpecs(text))
        .default(parseWorkerSpecs(serverDefaults.workers), serverDefaults.workers),
    )
    .addOption(
      choice(
        '--load-format <format>',
        'dummy: random weights from config.json alone',
        choices.loadFormat,
        engineDefaults.loadFormat,
      ),
    )
    .addOption(choice('--dtype <dtype>', 'of the weights', choices.dtype, engineDefaults.dtype))
    .addOption(
      choice(
        '--kv-cache-dtype <dtype>',
        'of the KV cache',
        choices.kvCacheDtype,
        engineDefaults.kvCacheDtype,
      ),
    )
    .addOption(
      choice('--quantize <format>', 'quantise weights at load', choices.quantize, engineDefaults.quantize),
    )
    .addOption(
      new Option('--block-size <tokens>', 'tokens per KV block, a power of two')
        .argParser(blockTokenCount)
        .default(engineDefaults.blockSize),
    )
    .addOption(
      new Option('--kv-cache-memory <bytes>', "of each worker's KV cache, e.g. 2GiB")
        .argParser(byteCount)
        .conflicts('numBlocks'),
    )
    .addOption(
      new Option('--gpu-memory-utilization <share>', "of each GPU's memory, for all workers on it together")
        .argParser(realNumber(0.05, 1))
        .default(engineDefaults.gpuMemoryUtilization),
    )
    .addOption(count('--num-blocks <count>', 'KV blocks of each worker', 2))
    .addOption(count('--max-model-len <tokens>', "longest context; default: the model's own", 2))
    .addOption(
      count('--max-num-batched-tokens <tokens>', `tokens per step; ${byDevice('tokenBudget')}`, 1, 65536),
    )
    .addOption(
      count('--max-num-seqs <count>', `sequences per batch; ${byDevice('sequenceCountMax')}`, 1, 4096),
    )
    .addOption(
      count(
        '--prefill-chunk <tokens>',
        `prompt tokens of one sequence per step; ${byDevice('prefillChunkTokenCount')}`,
        1,
        65536,
      ),
    )
    .option('--no-prefix-caching', 'do not reuse the KV of equal prompt beginnings')
    .addOption(batchInvariantOption())
    .addOption(
      choice(
        '--connector <name>',
        'how KV goes between workers; auto: what is measured to be fastest',
        choices.connector,
        serverDefaults.connector,
      ),
    )
    .addOption(
      choice(
        '--kv-transfer-dtype <dtype>',
        'smaller on the way between workers than in their caches; lossy',
        choices.kvTransferDtype,
        serverDefaults.kvTransferDtype,
      ),
    )
    .option(
      '--kv-checksum',
      'check every block that is handed over before it is used (CPU workers)',
      serverDefaults.kvChecksum,
    )
    .option(
      '--kv-host <host>',
      'address on which decode workers listen for KV over tcp',
      serverDefaults.kvHost,
    )
    .addOption(
      count('--threads <count>', 'compute threads of all CPU workers together; default: all cores', 1, 1024),
    )
    .addOption(logLevelOption());
}
