/** What gateway and worker say to each other over the bus; the one place that both sides read. Plain data.
 *  How each body is checked as it comes in: message-checks.ts. Who sends what is at the end: WorkerMessages
 *  and GatewayMessages.
 *
 *  Invariants: an answer to `release` means that nothing of that request runs, is held or is being written
 *  there any more; events of one request never come after the answer to its release; whatever the version, a
 *  hello has `workerId`, `pid` and `protocolVersion`, and its answer has `protocolVersion`. */
import type { WireError } from '../base/errors.js';
import type { BlockId, RequestId, WorkerId } from '../base/ids.js';
import type { CacheExport, DeviceInfo, DeviceKind } from '../device/device.js';
import type { WeightFormat } from '../device/weight-format.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import type { TokenDeadlines } from '../engine/generation-request.js';
import type { SamplingParams } from '../engine/sampling-params.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { KvHandle } from '../kv/kv-handle.js';
import type { LoadProgress } from '../model/model.js';
import type { WorkerRole } from '../router/snapshot.js';
import type { StepCost } from '../router/step-cost.js';
import type { LinkTrial } from '../transfer/best-connector.js';
import type { KvIdentity, KvTarget, ReceiverAddress, TransferDtype } from '../transfer/connector.js';
import type { WaitTotals } from './step-boundary-waits.js';
import type { PackedSteps } from './step-samples.js';

/** Grows with every change of a message or of its meaning. Gateway and worker, and both sides of a
 *  hand-over, must speak the same. */
export const protocolVersion = 3;

export interface WorkerSettings {
  /** A folder, as findLocalModel gives it. */
  readonly modelFolder: string;
  readonly loadFormat: 'auto' | 'dummy';
  readonly dtype: 'auto' | 'f32' | 'bf16' | 'f16';
  /** auto: bf16 for a bf16 model, f16 for an f16 one, else f32. */
  readonly kvDtype: 'auto' | 'f32' | 'bf16' | 'f16' | 'fp8';
  readonly quantize: 'none' | 'int4' | 'int8' | 'fp8';
  readonly blockTokenCount: number;
  /** Memory of each worker's KV cache; blockCount wins. Neither: a share of the free memory. */
  readonly kvBytes?: number;
  readonly blockCount?: number;
  /** Of a GPU's memory, for all workers on it together: weights, activations and KV. */
  readonly gpuMemoryShare: number;
  /** Query tokens per step, prompt tokens of one sequence per step, sequences per batch. Absent: what suits
   *  the device (step-limits.ts). */
  readonly tokenBudget?: number;
  readonly prefillChunkTokenCount?: number;
  readonly sequenceCountMax?: number;
  readonly maxModelTokenCount: number;
  readonly prefixCaching: 'on' | 'off';
  /** Whether steps are paced by the deadlines of their requests. Absent: on. */
  readonly pacing?: 'on' | 'off';
  readonly depth: 1 | 2;
  /** on: the same tokens whatever else is in the batch, on GPUs too. Absent: off. */
  readonly batchInvariant?: 'on' | 'off';
  /** How KV goes to other workers. Absent or auto: what is measured to be fastest, for each pair. */
  readonly connector?: ConnectorChoice;
  /** K and V travel smaller than they lie in the caches: lossy. Absent or auto: as they are. */
  readonly kvTransferDtype?: TransferDtype;
  /** Whether every block that is handed over is checked before it is used. CPU workers only. Absent: off. */
  readonly kvChecksum?: 'on' | 'off';
  /** Where decode workers listen for KV over tcp. Absent: 127.0.0.1. */
  readonly kvHost?: string;
}

export const connectorChoices = ['auto', 'peer', 'host-relay', 'tcp'] as const;
type ConnectorChoice = (typeof connectorChoices)[number];

export interface WorkerConfig extends WorkerSettings {
  readonly role: WorkerRole;
  readonly device: { readonly kind: DeviceKind; readonly index: number; readonly threadCount: number };
  /** Workers on the same device, this one included: they share its memory. */
  readonly deviceShareCount: number;
  /** Of those, the ones that have loaded and hold their memory. Absent: none. */
  readonly deviceLoadedCount?: number;
  /** Between two snapshot events when nothing changes. */
  readonly heartbeatEveryMs: number;
}

export interface HelloBody {
  readonly protocolVersion: number;
  readonly workerId: WorkerId;
  readonly pid: number;
}

/** What the worker is to do. */
export interface HelloReply extends WorkerConfig {
  readonly protocolVersion: number;
}

export interface LoadingBody {
  readonly progress: LoadProgress;
}

export interface ReadyBody {
  readonly device: DeviceInfo;
  readonly kv: KvIdentity;
  readonly cache: CacheExport;
  /** Null: it takes no KV over tcp. Not for people's eyes: it holds a secret. */
  readonly receiver: ReceiverAddress | null;
  readonly blockTokenCount: number;
  readonly blockCount: number;
  readonly blockBytes: number;
  readonly weightBytes: number;
  readonly weightFormat: WeightFormat;
  /** As the worker was asked. */
  readonly batchInvariant: 'on' | 'off';
  readonly maxModelTokenCount: number;
  readonly loadMs: number;
}

/** GenerationRequest with its token lists packed (see token-list.ts), since prompts are long. */
export interface RequestBody {
  readonly id: RequestId;
  readonly promptIds: string;
  readonly sampling: SamplingParams;
  readonly outputs: readonly string[];
  readonly priority: number;
  readonly cacheSalt?: string;
  /** As the message is sent. */
  readonly deadlines?: TokenDeadlines;
  /** Choices that have ended before this attempt, by whatever reason. */
  readonly endedChoices: readonly number[];
}

export interface TokensBody {
  readonly events: readonly TokenEvent[];
}

/** The first chunk of a hand-over is about to run: reserve at the other side now. */
export interface PrefillStartedBody {
  readonly id: RequestId;
  readonly cachedTokenCount: number;
}

export interface ReserveBody {
  readonly request: RequestBody;
  readonly growthTokenCount: number;
}

export interface ReservationBody {
  readonly blockIds: readonly BlockId[];
  readonly cachedTokenCount: number;
  /** Names this reservation; a handle made for another one is refused. */
  readonly epoch: number;
}

/** Where the K and V of a prefilling request go. */
export interface PushToBody {
  readonly id: RequestId;
  readonly target: KvTarget;
  readonly reservation: ReservationBody;
}

/** Every byte has arrived at the decode side. */
export interface LandedBody {
  readonly handle: KvHandle;
  readonly pushedBytes: number;
}

export interface HandOverFailedBody {
  readonly id: RequestId;
  readonly error: WireError;
}

export interface ResumeBody {
  readonly handle: KvHandle;
  readonly outputs: readonly string[];
  readonly endedChoices: readonly number[];
  /** As the message is sent. */
  readonly deadlines?: TokenDeadlines;
}

/** What the steps of this worker are known to take. */
export interface StepCostBody {
  readonly cost: StepCost;
}

export interface SnapshotBody {
  /** Its stepCount grows with every step that was computed: proof of progress. */
  readonly engine: EngineSnapshot;
  readonly hasWork: boolean;
  /** Since the snapshot before, or the newest of them. */
  readonly steps: PackedSteps;
  readonly connectors: readonly ConnectorStatus[];
  /** Blocks reserved for hand-overs that have not landed: someone may be writing them, so nobody else gets
   *  them. */
  readonly quarantinedBlockCount: number;
  /** Of sequences that were handed over to this worker. */
  readonly stepBoundaryWaits: WaitTotals;
  readonly residentBytes: number;
}

/** How KV goes from this worker to another. */
export interface ConnectorStatus {
  readonly peer: WorkerId;
  readonly name: string;
  /** Every connector that was tried for this pair, and what it was measured to do. */
  readonly trials: readonly LinkTrial[];
  readonly pushedBytes: number;
  readonly transferCount: number;
  /** Of hand-overs that landed: their bytes, and the time from their first push until they had landed,
   *  computing included. */
  readonly landedBytes: number;
  readonly landedMs: number;
  /** Hand-overs that went on over another connector. */
  readonly retryCount: number;
  readonly failureCount: number;
}

/** AnswerBody to `integrity`: whose requests are kept here, and by what. */
export type HeldBody = Readonly<
  Record<'engine' | 'handOvers' | 'pushes' | 'reservations', readonly RequestId[]>
>;

export interface IdBody {
  readonly id: RequestId;
}

export interface StopChoiceBody {
  readonly id: RequestId;
  readonly choiceIndex: number;
}

/** Hand-overs may go there: the way is prepared, so that the first one does not pay for it. */
export interface OpenPeerBody {
  readonly target: KvTarget;
}

export interface ForgetPeerBody {
  readonly workerId: WorkerId;
  /** Caches of this and earlier incarnations are gone. */
  readonly incarnation: number;
}

/** What a worker can be asked, kind → [body, answer], and the events it takes. */
export interface WorkerMessages {
  readonly requests: {
    readonly generate: readonly [RequestBody, null];
    readonly prefill: readonly [RequestBody, null];
    readonly pushTo: readonly [PushToBody, null];
    /** Null: no room now. */
    readonly reserve: readonly [ReserveBody, ReservationBody | null];
    readonly resume: readonly [ResumeBody, null];
    readonly release: readonly [IdBody, null];
    readonly integrity: readonly [null, HeldBody];
  };
  readonly events: {
    readonly stopChoice: StopChoiceBody;
    readonly openPeer: OpenPeerBody;
    readonly forgetPeer: ForgetPeerBody;
    readonly stepCost: StepCostBody;
  };
}

/** What the gateway can be asked, and the events it takes. */
export interface GatewayMessages {
  readonly requests: {
    readonly hello: readonly [HelloBody, HelloReply];
  };
  readonly events: {
    readonly loading: LoadingBody;
    readonly ready: ReadyBody;
    /** The process ends, and why. */
    readonly fatal: WireError;
    readonly tokens: TokensBody;
    readonly snapshot: SnapshotBody;
    readonly prefillStarted: PrefillStartedBody;
    readonly landed: LandedBody;
    readonly handOverFailed: HandOverFailedBody;
  };
}
