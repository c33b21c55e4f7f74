/** The options that say which model runs on which workers, and how: the same for `serve` and `profile`. */
import { type Command, Option } from 'commander';
import type { LogLevel } from '../base/log.js';
import { parseWorkerSpecs, type WorkerSpec } from '../control/worker-spec.js';
import { type TransferDtype, transferDtypes } from '../transfer/connector.js';
import { type ConnectorChoice, connectorChoices } from '../worker/messages.js';
import { defaultStepLimits, type StepLimits } from '../worker/step-limits.js';
import { blockTokenCount, byteCount, realNumber, wholeNumber } from './option-values.js';

/** What commander gives, after the parsers below. */
export interface WorkerOptions {
  readonly model: string;
  readonly workers: readonly WorkerSpec[];
  readonly loadFormat: 'auto' | 'dummy';
  readonly dtype: 'auto' | 'f32' | 'bf16' | 'f16';
  readonly kvCacheDtype: 'auto' | 'f32' | 'bf16' | 'f16' | 'fp8';
  readonly quantize: 'none' | 'int8' | 'fp8';
  readonly blockSize: number;
  readonly kvCacheMemory?: number;
  readonly numBlocks?: number;
  readonly gpuMemoryUtilization: number;
  readonly maxModelLen?: number;
  readonly maxNumBatchedTokens?: number;
  readonly maxNumSeqs?: number;
  readonly prefillChunk?: number;
  readonly prefixCaching: boolean;
  readonly batchInvariant: boolean;
  readonly threads?: number;
  readonly connector: ConnectorChoice;
  readonly kvHost: string;
  readonly kvTransferDtype: TransferDtype;
  readonly kvChecksum: boolean;
  readonly logLevel: LogLevel;
}

export const logLevelOption = () =>
  new Option('--log-level <level>', 'what goes to stderr').choices(['debug', 'info', 'warn', 'error', 'silent']).default('warn');

export const batchInvariantOption = () =>
  new Option(
    '--batch-invariant',
    'same request, same tokens, whatever else is in the batch and whichever path it takes; slower on GPUs, CPU workers always are',
  ).default(false);

export const choice = (flags: string, text: string, choices: readonly string[], fallback: string) =>
  new Option(flags, text).choices(choices).default(fallback);
const byDevice = (limit: keyof StepLimits) =>
  `default: ${defaultStepLimits.cuda[limit]} on a GPU, ${defaultStepLimits.cpu[limit]} on a CPU`;
export const count = (flags: string, text: string, min: number, max?: number) =>
  new Option(flags, text).argParser(wholeNumber(min, max));

export function addWorkerOptions(command: Command): Command {
  return command
    .requiredOption('--model <model>', 'a folder, a Hugging Face id that is in the cache, or "demo"')
    .addOption(
      new Option('--workers <spec>', 'role:device[*count][?threads=N&…], comma separated; roles any, prefill, decode')
        .argParser((text) => parseWorkerSpecs(text))
        .default(parseWorkerSpecs('any:cpu'), 'any:cpu'),
    )
    .addOption(choice('--load-format <format>', 'dummy: random weights from config.json alone', ['auto', 'dummy'], 'auto'))
    .addOption(choice('--dtype <dtype>', 'of the weights', ['auto', 'f32', 'bf16', 'f16'], 'auto'))
    .addOption(choice('--kv-cache-dtype <dtype>', 'of the KV cache', ['auto', 'f32', 'bf16', 'f16', 'fp8'], 'auto'))
    .addOption(choice('--quantize <format>', 'quantise weights at load', ['none', 'int8', 'fp8'], 'none'))
    .addOption(new Option('--block-size <tokens>', 'tokens per KV block, a power of two').argParser(blockTokenCount).default(16))
    .addOption(
      new Option('--kv-cache-memory <bytes>', "of each worker's KV cache, e.g. 2GiB").argParser(byteCount).conflicts('numBlocks'),
    )
    .addOption(
      new Option('--gpu-memory-utilization <share>', "of each GPU's memory, for all workers on it together")
        .argParser(realNumber(0.05, 1))
        .default(0.9),
    )
    .addOption(count('--num-blocks <count>', 'KV blocks of each worker', 2))
    .addOption(count('--max-model-len <tokens>', "longest context; default: the model's own", 2))
    .addOption(count('--max-num-batched-tokens <tokens>', `tokens per step; ${byDevice('tokenBudget')}`, 1, 65536))
    .addOption(count('--max-num-seqs <count>', `sequences per batch; ${byDevice('sequenceCountMax')}`, 1, 4096))
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
      choice('--connector <name>', 'how KV goes between workers; auto: what is measured to be fastest', connectorChoices, 'auto'),
    )
    .addOption(
      choice(
        '--kv-transfer-dtype <dtype>',
        'smaller on the way between workers than in their caches; lossy',
        transferDtypes,
        'auto',
      ),
    )
    .option('--kv-checksum', 'check every block that is handed over before it is used (CPU workers)', false)
    .option('--kv-host <host>', 'address on which decode workers listen for KV over tcp', '127.0.0.1')
    .addOption(count('--threads <count>', 'compute threads of all CPU workers together; default: all cores', 1, 1024))
    .addOption(logLevelOption());
}
