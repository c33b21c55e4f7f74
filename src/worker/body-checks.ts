/** The shapes that several messages have in them, as checks. Used by message-checks.ts. */
import { errorCodes, type WireError } from '../base/errors.js';
import type { BlockId, RequestId, WorkerId } from '../base/ids.js';
import {
  type Check,
  count,
  integer,
  list,
  nullable,
  number,
  oneOf,
  optional,
  pair,
  positive,
  shape,
  text,
} from '../bus/check.js';
import type { CacheExport, DeviceInfo } from '../device/device.js';
import { type Dtype, dtypeCodes } from '../device/dtype.js';
import type { TokenDeadlines } from '../engine/generation-request.js';
import type { SamplingParams } from '../engine/sampling-params.js';
import type { TokenEvent, TokenLogprob, TokenOutput } from '../engine/token-event.js';
import type { KvChecksums, KvHandle } from '../kv/kv-handle.js';
import type { KvShape } from '../kv/kv-layout.js';
import {
  type KvGeometry,
  type KvIdentity,
  type KvTarget,
  type ReceiverAddress,
  transferDtypes,
} from '../transfer/connector.js';
import type { RequestBody, ReservationBody } from './messages.js';

/** Made here: an id from another process is any text, and a block any count; whoever uses them looks them
 *  up. */
export const requestIdText = text as Check<RequestId>;
export const workerIdText = text as Check<WorkerId>;
const blockIds = list(count as Check<BlockId>);
export const dtype = oneOf(Object.keys(dtypeCodes) as Dtype[]);
export const onOrOff = oneOf(['on', 'off']);

export const wireError = shape<WireError>({ code: oneOf(errorCodes), message: text, param: optional(text) });

/** As packTokens makes them: whole 32-bit numbers in base64. */
export const packedTokens: Check<string> = (value) => {
  if (typeof value !== 'string') return text(value);
  const isWhole = Buffer.byteLength(value, 'base64') % Int32Array.BYTES_PER_ELEMENT === 0;
  return isWhole ? null : ' is not a whole number of tokens';
};

export const deadlines = shape<TokenDeadlines>({
  firstTokenInMs: number,
  ttftMs: number,
  tpotMs: number,
  sinceFirstTokenMs: optional(number),
});

const sampling = shape<SamplingParams>({
  temperature: number,
  topK: integer,
  topP: number,
  minP: number,
  repetitionPenalty: number,
  presencePenalty: number,
  frequencyPenalty: number,
  logitBias: list(pair(count, number)),
  allowedTokenIds: optional(list(count)),
  grammar: optional(text),
  seed: integer,
  choiceCount: positive,
  maxTokenCount: count,
  minTokenCount: count,
  forcedTokenCount: optional(count),
  endTokenIds: list(count),
  stopTokenIds: list(count),
  topLogprobCount: nullable(count),
  promptLogprobCount: nullable(count),
});

export const request = shape<RequestBody>({
  id: requestIdText,
  promptIds: packedTokens,
  sampling,
  outputs: list(packedTokens),
  priority: number,
  cacheSalt: optional(text),
  deadlines: optional(deadlines),
  endedChoices: list(count),
});

const logprob = shape<TokenLogprob>({ logprob: number, top: list(pair(integer, number)) });
const token = shape<TokenOutput>({ tokenId: count, logprob: optional(logprob) });
type Event<K extends TokenEvent['kind']> = Extract<TokenEvent, { kind: K }>;
const kind = <K extends TokenEvent['kind']>(name: K) => oneOf([name]) as Check<K>;

/** Thousands a second, one token each: as many comparisons as it has fields. */
export const tokenEvents = {
  tokens: shape<Event<'tokens'>>({
    kind: kind('tokens'),
    requestId: requestIdText,
    choiceIndex: count,
    tokens: list(token),
    finishReason: optional(oneOf(['stop', 'length'])),
    stopTokenId: optional(count),
  }),
  promptLogprobs: shape<Event<'promptLogprobs'>>({
    kind: kind('promptLogprobs'),
    requestId: requestIdText,
    start: optional(count),
    logprobs: list(logprob),
  }),
  cached: shape<Event<'cached'>>({ kind: kind('cached'), requestId: requestIdText, cachedTokenCount: count }),
  failed: shape<Event<'failed'>>({ kind: kind('failed'), requestId: requestIdText, error: wireError }),
};

export const deviceInfo = shape<DeviceInfo>({
  name: text,
  isa: text,
  kind: oneOf(['cpu', 'cuda']),
  index: integer,
  threadCount: count,
  totalBytes: count,
  freeBytes: count,
});

export const cacheExport = shape<CacheExport>({
  processId: integer,
  fileDescriptor: integer,
  deviceIndex: integer,
  bytes: count,
  ipcHandle: text,
});

const kvShape = shape<KvShape>({
  modelName: text,
  layerCount: positive,
  kvHeadCount: positive,
  headDim: positive,
  blockTokenCount: positive,
  dtype,
});

export const kvIdentity = shape<KvIdentity>({
  protocolVersion: count,
  modelName: text,
  dtype,
  layoutHash: text,
  transferDtype: optional(oneOf(transferDtypes)),
  geometry: optional(shape<KvGeometry>({ shape: kvShape, firstHead: count })),
});

export const receiver = nullable(shape<ReceiverAddress>({ host: text, port: count, token: text }));

export const kvTarget = shape<KvTarget>({
  workerId: workerIdText,
  incarnation: count,
  cache: cacheExport,
  blockCount: count,
  kv: kvIdentity,
  receiver,
});

export const reservation = shape<ReservationBody>({ blockIds, cachedTokenCount: count, epoch: count });

export const kvHandle = shape<KvHandle>({
  requestId: requestIdText,
  epoch: count,
  layoutHash: text,
  tokenCount: count,
  firstTokens: list(count),
  checksums: optional(shape<KvChecksums>({ firstBlock: count, values: list(count) })),
});
