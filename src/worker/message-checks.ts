/** How each message is checked where it comes in. Used by worker/ and control/.
 *  Invariant: every message of messages.ts has a check, and every body a check of each field, or this does
 *  not compile. */
import type { RequestId } from '../base/ids.js';
import {
  byKind,
  type Check,
  count,
  either,
  integer,
  list,
  nothing,
  nullable,
  number,
  oneOf,
  optional,
  positive,
  shape,
  text,
  truth,
} from '../bus/check.js';
import type { AnswerChecks, EventChecks, RequestChecks } from '../bus/protocol.js';
import { weightFormats } from '../device/weight-format.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { LoadProgress } from '../model/model.js';
import type { StepCost } from '../router/step-cost.js';
import type { LinkTrial } from '../transfer/best-connector.js';
import { type LinkSpeed, transferDtypes } from '../transfer/connector.js';
import {
  cacheExport,
  deadlines,
  deviceInfo,
  kvHandle,
  kvIdentity,
  kvTarget,
  onOrOff,
  packedTokens,
  receiver,
  request,
  requestIdText,
  reservation,
  tokenEvents,
  wireError,
  workerIdText,
} from './body-checks.js';
import {
  type ConnectorStatus,
  connectorChoices,
  type ForgetPeerBody,
  type GatewayMessages,
  type HandOverFailedBody,
  type HeldBody,
  type HelloBody,
  type HelloReply,
  type IdBody,
  type LandedBody,
  type LoadingBody,
  type OpenPeerBody,
  type PrefillStartedBody,
  type PushToBody,
  protocolVersion,
  type ReadyBody,
  type ReserveBody,
  type ResumeBody,
  type SnapshotBody,
  type StepCostBody,
  type StopChoiceBody,
  type TokensBody,
  type WorkerMessages,
} from './messages.js';
import type { WaitTotals } from './step-boundary-waits.js';
import { numbersPerStep, stepSampleCountMax } from './step-samples.js';

const id = shape<IdBody>({ id: requestIdText });
const ids: Check<readonly RequestId[]> = list(requestIdText);

export const workerRequestChecks: RequestChecks<WorkerMessages['requests']> = {
  generate: request,
  prefill: request,
  pushTo: shape<PushToBody>({ id: requestIdText, target: kvTarget, reservation }),
  reserve: shape<ReserveBody>({ request, growthTokenCount: count }),
  resume: shape<ResumeBody>({
    handle: kvHandle,
    outputs: list(packedTokens),
    endedChoices: list(count),
    deadlines: optional(deadlines),
  }),
  release: id,
  integrity: nothing,
};

export const workerAnswerChecks: AnswerChecks<WorkerMessages['requests']> = {
  generate: nothing,
  prefill: nothing,
  pushTo: nothing,
  reserve: nullable(reservation),
  resume: nothing,
  release: nothing,
  integrity: shape<HeldBody>({ engine: ids, handOvers: ids, pushes: ids, reservations: ids }),
};

const stepCost = shape<StepCost>({
  rowKnots: list(shape<StepCost['rowKnots'][number]>({ rowCount: number, ms: number })),
  msPerSampledRow: number,
  msPerDecodeKvToken: number,
  msPerPrefillPair: number,
});

export const workerEventChecks: EventChecks<WorkerMessages['events']> = {
  stopChoice: shape<StopChoiceBody>({ id: requestIdText, choiceIndex: count }),
  openPeer: shape<OpenPeerBody>({ target: kvTarget }),
  forgetPeer: shape<ForgetPeerBody>({ workerId: workerIdText, incarnation: count }),
  stepCost: shape<StepCostBody>({ cost: stepCost }),
};

export const gatewayRequestChecks: RequestChecks<GatewayMessages['requests']> = {
  hello: shape<HelloBody>({ protocolVersion: integer, workerId: workerIdText, pid: integer }),
};

const helloReply = shape<HelloReply>({
  protocolVersion: integer,
  modelFolder: text,
  loadFormat: oneOf(['auto', 'dummy']),
  dtype: oneOf(['auto', 'f32', 'bf16', 'f16']),
  kvDtype: oneOf(['auto', 'f32', 'bf16', 'f16', 'fp8']),
  quantize: oneOf(['none', 'int4', 'int8', 'fp8']),
  blockTokenCount: positive,
  kvBytes: optional(number),
  blockCount: optional(positive),
  gpuMemoryShare: number,
  tokenBudget: optional(positive),
  prefillChunkTokenCount: optional(positive),
  sequenceCountMax: optional(positive),
  maxModelTokenCount: positive,
  prefixCaching: onOrOff,
  pacing: optional(onOrOff),
  depth: oneOf([1, 2]),
  batchInvariant: optional(onOrOff),
  connector: optional(oneOf(connectorChoices)),
  kvTransferDtype: optional(oneOf(transferDtypes)),
  kvChecksum: optional(onOrOff),
  kvHost: optional(text),
  role: oneOf(['prefill', 'decode', 'any']),
  device: shape<HelloReply['device']>({ kind: oneOf(['cpu', 'cuda']), index: integer, threadCount: count }),
  deviceShareCount: positive,
  deviceLoadedCount: optional(count),
  heartbeatEveryMs: number,
});

export const gatewayAnswerChecks: AnswerChecks<GatewayMessages['requests']> = {
  /** The version first: what else another one answers may look otherwise. */
  hello: (value) => {
    const version = (value as Partial<HelloReply> | null)?.protocolVersion;
    return version === protocolVersion
      ? helloReply(value)
      : ` is of another version: ${otherVersion('the gateway', version)}`;
  },
};

/** What is wrong, and what to do. */
export function otherVersion(other: string, version: unknown): string {
  const theirs = Number.isSafeInteger(version) ? `protocol ${version}` : 'no protocol that it names';
  return `${other} speaks ${theirs} and this process protocol ${protocolVersion}; stop it all, install one version of twostroke and start again`;
}

const engineSnapshot = shape<EngineSnapshot>({
  runningCount: count,
  decodingCount: count,
  waitingCount: count,
  heldCount: count,
  reservedCount: count,
  queuedTokenCount: count,
  runningTokenCount: count,
  sequenceCountMax: count,
  blockTokenCount: positive,
  blockCount: count,
  freeBlockCount: count,
  ownedBlockCount: count,
  cachedBlockCount: count,
  stepsInFlightCount: count,
  stepCount: count,
  lastStepMs: number,
  preemptionCount: count,
  promptTokenCount: count,
  generatedTokenCount: count,
  prefixHitTokenCount: count,
  prefixQueryTokenCount: count,
});

const speed = shape<LinkSpeed>({ bytesPerSecond: number, latencyMs: number });
const trial: Check<LinkTrial> = either(
  shape<{ name: string; speed: LinkSpeed }>({ name: text, speed }),
  shape<{ name: string; error: string }>({ name: text, error: text }),
);

const connector = shape<ConnectorStatus>({
  peer: workerIdText,
  name: text,
  trials: list(trial, connectorChoices.length),
  pushedBytes: count,
  transferCount: count,
  landedBytes: count,
  landedMs: number,
  retryCount: count,
  failureCount: count,
});

export const gatewayEventChecks: EventChecks<GatewayMessages['events']> = {
  loading: shape<LoadingBody>({
    progress: shape<LoadProgress>({
      stage: oneOf(['weights', 'dummy']),
      doneBytes: number,
      totalBytes: number,
    }),
  }),
  ready: shape<ReadyBody>({
    device: deviceInfo,
    kv: kvIdentity,
    cache: cacheExport,
    receiver,
    blockTokenCount: positive,
    blockCount: positive,
    blockBytes: positive,
    weightBytes: count,
    weightFormat: oneOf(weightFormats),
    batchInvariant: onOrOff,
    maxModelTokenCount: positive,
    loadMs: number,
  }),
  fatal: wireError,
  tokens: shape<TokensBody>({ events: list(byKind<TokenEvent>(tokenEvents)) }),
  snapshot: shape<SnapshotBody>({
    engine: engineSnapshot,
    hasWork: truth,
    steps: list(number, numbersPerStep * stepSampleCountMax),
    connectors: list(connector),
    quarantinedBlockCount: count,
    stepBoundaryWaits: shape<WaitTotals>({ count, totalMs: number }),
    residentBytes: number,
  }),
  prefillStarted: shape<PrefillStartedBody>({ id: requestIdText, cachedTokenCount: count }),
  landed: shape<LandedBody>({ handle: kvHandle, pushedBytes: count }),
  handOverFailed: shape<HandOverFailedBody>({ id: requestIdText, error: wireError }),
};
