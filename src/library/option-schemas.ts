/** Checks what a program says in options.ts and fills in what it left out. The defaults are those of the
 *  command line too, whose flags are made from `choices` and `engineDefaults` / `serverDefaults`. Invariant:
 *  a wrong option is an InvalidRequestError that names it. */
import { z } from 'zod';
import { InvalidRequestError } from '../base/errors.js';
import { samplingFields, schedulingFields } from '../server/request-fields.js';
import { reasoningParserNames } from '../server/tools/answer-style.js';
import { toolParserNames } from '../server/tools/tool-formats.js';
import { validate } from '../server/validation.js';
import { transferDtypes } from '../transfer/connector.js';
import { connectorChoices } from '../worker/messages.js';
import type { EngineOptions, GenerateOptions, ModelOptions, ServerOptions } from './options.js';

export const choices = {
  loadFormat: ['auto', 'dummy'],
  dtype: ['auto', 'f32', 'bf16', 'f16'],
  kvCacheDtype: ['auto', 'f32', 'bf16', 'f16', 'fp8'],
  quantize: ['none', 'int4', 'int8', 'fp8'],
  blockSize: [8, 16, 32, 64, 128, 256],
  strategy: ['adaptive', 'collocated', 'disaggregated'],
  connector: connectorChoices,
  kvTransferDtype: transferDtypes,
  toolCallParser: ['auto', ...toolParserNames],
  reasoningParser: ['auto', ...reasoningParserNames],
  onTransferFailure: ['recompute', 'fail'],
  pacing: ['on', 'off'],
  onOverload: ['shed', 'late'],
  logLevel: ['debug', 'info', 'warn', 'error', 'silent'],
} as const;

export const engineDefaults = {
  loadFormat: 'auto',
  dtype: 'auto',
  kvCacheDtype: 'auto',
  quantize: 'none',
  blockSize: 16,
  gpuMemoryUtilization: 0.9,
  prefixCaching: true,
  batchInvariant: false,
} as const;

export const serverDefaults = {
  workers: 'any:cpu',
  host: '127.0.0.1',
  port: 8000,
  strategy: 'adaptive',
  connector: 'auto',
  kvTransferDtype: 'auto',
  kvChecksum: false,
  kvHost: '127.0.0.1',
  skipTokenizerInit: false,
  toolCallParser: 'auto',
  reasoningParser: 'auto',
  sharePrefixCache: false,
  maxBody: 8 * 2 ** 20,
  drain: 10,
  onTransferFailure: 'recompute',
  slo: 'ttft:5x,tpot:2x',
  pacing: 'on',
  onOverload: 'late',
  allowForcedLength: false,
  strictFields: false,
  logLevel: 'warn',
} as const;

/** A key that fits behind "Bearer" in a header. None at all would lock everybody out, and is most often a
 *  variable that is not set. */
export const keyPattern = /^[\x21-\x7e]+$/;

const whole = (min: number, max = Number.MAX_SAFE_INTEGER) => z.int().min(min).max(max);
const keys = z.array(
  z.string().regex(keyPattern, 'expected letters, digits and signs of ASCII, without spaces'),
);
const flag = (fallback: boolean) => z.boolean().default(fallback);

const engineShape = {
  loadFormat: z.enum(choices.loadFormat).default(engineDefaults.loadFormat),
  dtype: z.enum(choices.dtype).default(engineDefaults.dtype),
  kvCacheDtype: z.enum(choices.kvCacheDtype).default(engineDefaults.kvCacheDtype),
  quantize: z.enum(choices.quantize).default(engineDefaults.quantize),
  blockSize: z.literal(choices.blockSize).default(engineDefaults.blockSize),
  kvCacheMemory: whole(1).optional(),
  numBlocks: whole(2).optional(),
  gpuMemoryUtilization: z.number().min(0.05).max(1).default(engineDefaults.gpuMemoryUtilization),
  maxModelLen: whole(2).optional(),
  maxNumBatchedTokens: whole(1, 65536).optional(),
  maxNumSeqs: whole(1, 4096).optional(),
  prefillChunk: whole(1, 65536).optional(),
  prefixCaching: flag(engineDefaults.prefixCaching),
  batchInvariant: flag(engineDefaults.batchInvariant),
  threads: whole(1, 1024).optional(),
} satisfies Shape<EngineOptions>;

const modelShape = {
  ...engineShape,
  device: z
    .string()
    .regex(/^(cpu|cuda(:\d+)?)$/, 'expected cpu or cuda:N')
    .default('cpu'),
} satisfies Shape<ModelOptions>;

const serverShape = {
  ...engineShape,
  model: z.string(),
  workers: z.string().default(serverDefaults.workers),
  host: z.string().default(serverDefaults.host),
  port: whole(0, 65535).default(serverDefaults.port),
  strategy: z.enum(choices.strategy).default(serverDefaults.strategy),
  split: z
    .string()
    .regex(/^[1-9]\d*:[1-9]\d*$/, 'expected PREFILL:DECODE counts such as 1:1')
    .optional(),
  profile: z.string().optional(),
  connector: z.enum(choices.connector).default(serverDefaults.connector),
  kvTransferDtype: z.enum(choices.kvTransferDtype).default(serverDefaults.kvTransferDtype),
  kvChecksum: flag(serverDefaults.kvChecksum),
  kvHost: z.string().default(serverDefaults.kvHost),
  servedModelName: z.array(z.string()).optional(),
  skipTokenizerInit: flag(serverDefaults.skipTokenizerInit),
  toolCallParser: z.enum(choices.toolCallParser).default(serverDefaults.toolCallParser),
  reasoningParser: z.enum(choices.reasoningParser).default(serverDefaults.reasoningParser),
  apiKey: keys.optional(),
  adminKey: keys.optional(),
  sharePrefixCache: flag(serverDefaults.sharePrefixCache),
  corsOrigin: z.string().optional(),
  maxQueue: whole(1).optional(),
  maxBody: whole(1).default(serverDefaults.maxBody),
  drain: z.number().min(0).default(serverDefaults.drain),
  onTransferFailure: z.enum(choices.onTransferFailure).default(serverDefaults.onTransferFailure),
  slo: z.string().default(serverDefaults.slo),
  pacing: z.enum(choices.pacing).default(serverDefaults.pacing),
  onOverload: z.enum(choices.onOverload).default(serverDefaults.onOverload),
  qos: z.string().optional(),
  allowForcedLength: flag(serverDefaults.allowForcedLength),
  strictFields: flag(serverDefaults.strictFields),
  logLevel: z.enum(choices.logLevel).default(serverDefaults.logLevel),
} satisfies Shape<ServerOptions>;

const isSignal = (value: unknown) =>
  typeof value === 'object' && value !== null && 'aborted' in value && 'addEventListener' in value;

const generateShape = {
  maxTokens: whole(1).nullish(),
  minTokens: samplingFields.min_tokens,
  temperature: samplingFields.temperature,
  topP: samplingFields.top_p,
  topK: samplingFields.top_k,
  minP: samplingFields.min_p,
  presencePenalty: samplingFields.presence_penalty,
  frequencyPenalty: samplingFields.frequency_penalty,
  repetitionPenalty: samplingFields.repetition_penalty,
  logitBias: samplingFields.logit_bias,
  seed: samplingFields.seed,
  stop: samplingFields.stop,
  stopTokenIds: samplingFields.stop_token_ids,
  ignoreEos: samplingFields.ignore_eos,
  priority: schedulingFields.priority,
  signal: z.custom<AbortSignal>(isSignal, 'expected an AbortSignal').nullish(),
} satisfies Shape<GenerateOptions>;

/** Every option has its check, and nothing else has. */
type Shape<Options> = Readonly<Record<keyof Options, z.ZodType>>;

const engineSchema = z.strictObject(engineShape);
const modelSchema = z.strictObject(modelShape);
const serverSchema = z.strictObject(serverShape);
const generateSchema = z.strictObject(generateShape);

export type CheckedEngineOptions = z.output<typeof engineSchema>;
export type CheckedModelOptions = z.output<typeof modelSchema>;
export type CheckedServerOptions = z.output<typeof serverSchema>;
export type CheckedGenerateOptions = z.output<typeof generateSchema>;

export const checkedModelOptions = (given: unknown): CheckedModelOptions => checked(modelSchema, given);
export const checkedServerOptions = (given: unknown): CheckedServerOptions => checked(serverSchema, given);
export const checkedGenerateOptions = (given: unknown): CheckedGenerateOptions =>
  checked(generateSchema, given);

function checked<Schema extends z.ZodType>(schema: Schema, given: unknown): z.output<Schema> {
  if (typeof given !== 'object' || given === null)
    throw new InvalidRequestError(`the options must be an object, not ${given}`);
  return validate(schema, given, () => undefined);
}
