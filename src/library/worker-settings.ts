/** From checked options to what an engine is given, in this process or on a worker. Every default is made in
 *  option-schemas.ts or by the worker. Used by local-model.ts, gateway-options.ts and `twostroke profile`. */
import { InvalidRequestError } from '../base/errors.js';
import type { ModelConfig } from '../model/config.js';
import type { WorkerSettings } from '../worker/messages.js';
import type { CheckedEngineOptions } from './option-schemas.js';

/** Throws InvalidRequestError when the model has fewer positions than were asked for. */
export function maxTokenCountOf(
  { maxModelLen }: Pick<CheckedEngineOptions, 'maxModelLen'>,
  { maxPositionCount }: ModelConfig,
): number {
  if (maxModelLen === undefined || maxModelLen <= maxPositionCount) return maxModelLen ?? maxPositionCount;
  throw new InvalidRequestError(
    `--max-model-len ${maxModelLen} is more than the ${maxPositionCount} positions of this model`,
    'maxModelLen',
  );
}

export function workerSettings(
  options: CheckedEngineOptions,
  modelFolder: string,
  maxModelTokenCount: number,
): WorkerSettings {
  return {
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
  };
}
