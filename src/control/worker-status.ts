/** What the gateway tells about its workers: the start-up screen, `twostroke workers`, /metrics, /health.
 *  Plain data. */
import type { WireError } from '../base/errors.js';
import type { WorkerId } from '../base/ids.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import type { LoadProgress } from '../model/model.js';
import type { WorkerRole } from '../router/snapshot.js';
import type { ConnectorStatus, ReadyBody } from '../worker/messages.js';
import type { WaitTotals } from '../worker/step-boundary-waits.js';
import type { StepLimits } from '../worker/step-limits.js';

export type WorkerState = 'starting' | 'loading' | 'ready' | 'draining' | 'dead' | 'failed';

export interface WorkerStatus {
  readonly id: WorkerId;
  /** As asked for on the command line. */
  readonly role: WorkerRole;
  /** After `--split`. */
  readonly effectiveRole: WorkerRole;
  /** `cpu`, `cuda:1`. */
  readonly device: string;
  readonly threadCount: number;
  readonly stepLimits: StepLimits;
  readonly state: WorkerState;
  readonly pid: number | null;
  readonly restartCount: number;
  readonly loading: LoadProgress | null;
  /** Known once the worker has been ready. */
  readonly ready: ReadyBody | null;
  readonly snapshot: EngineSnapshot | null;
  readonly residentBytes: number;
  readonly connectors: readonly ConnectorStatus[];
  /** Reserved for hand-overs that have not landed: nobody else gets them before their writer is done, or
   *  known dead. */
  readonly quarantinedBlockCount: number;
  /** Of sequences that were handed over to it: from schedulable until its next step. */
  readonly stepBoundaryWaits: WaitTotals;
  /** Since its last step, or since it had nothing to do. */
  readonly lastProgressMsAgo: number;
  /** Why it is dead or failed. */
  readonly error: WireError | null;
}

export interface Health {
  readonly status: 'loading' | 'ok' | 'stalled' | 'no_workers';
  readonly detail: string;
}
