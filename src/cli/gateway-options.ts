/** From command line options to a gateway's, for every command that starts one (serve, profile). Every default is made here or there. */
import os from 'node:os';
import path from 'node:path';
import { systemClock } from '../base/clock.js';
import { InvalidRequestError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import type { GatewayOptions } from '../control/gateway-options.js';
import type { ModelConfig } from '../model/config.js';
import type { WorkerOptions } from './worker-options.js';

/** Native waits occupy a libuv thread each; the default of 4 would make a worker's copies wait for its steps. */
const workerThreadPoolSize = '16';

/** Throws InvalidRequestError when the model has fewer positions than were asked for. */
export function maxTokenCountOf({ maxModelLen }: Pick<WorkerOptions, 'maxModelLen'>, { maxPositionCount }: ModelConfig): number {
  if (maxModelLen === undefined || maxModelLen <= maxPositionCount) return maxModelLen ?? maxPositionCount;
  throw new InvalidRequestError(`--max-model-len ${maxModelLen} is more than the ${maxPositionCount} positions of this model`);
}

export function gatewayOptions(
  options: WorkerOptions,
  modelFolder: string,
  maxModelTokenCount: number,
  logger: Logger,
): Omit<GatewayOptions, 'strategy'> {
  return {
    workers: options.workers,
    settings: {
      modelFolder,
      loadFormat: options.loadFormat,
      dtype: options.dtype,
      kvDtype: options.kvCacheDtype,
      quantize: options.quantize,
      blockTokenCount: options.blockSize,
      ...(options.kvCacheMemory === undefined ? {} : { kvBytes: options.kvCacheMemory }),
      ...(options.numBlocks === undefined ? {} : { blockCount: options.numBlocks }),
      gpuMemoryShare: options.gpuMemoryUtilization,
      ...(options.maxNumBatchedTokens === undefined ? {} : { tokenBudget: options.maxNumBatchedTokens }),
      ...(options.prefillChunk === undefined ? {} : { prefillChunkTokenCount: options.prefillChunk }),
      ...(options.maxNumSeqs === undefined ? {} : { sequenceCountMax: options.maxNumSeqs }),
      maxModelTokenCount,
      prefixCaching: options.prefixCaching ? 'on' : 'off',
      batchInvariant: options.batchInvariant ? 'on' : 'off',
      depth: 2,
      connector: options.connector,
      kvHost: options.kvHost,
      kvTransferDtype: options.kvTransferDtype,
      kvChecksum: options.kvChecksum ? 'on' : 'off',
    },
    threads: options.threads ?? os.availableParallelism(),
    workerEntry: path.join(import.meta.dirname, 'worker.js'),
    workerEnvironment: { ...process.env, UV_THREADPOOL_SIZE: process.env.UV_THREADPOOL_SIZE ?? workerThreadPoolSize },
    logger,
    clock: systemClock,
  };
}
